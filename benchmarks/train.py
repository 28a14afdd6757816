"""Training a network: images per second of the toolkit's loop against a bare one and Lightning's.

The floor is a loop over tensors that lie in memory, decoded and normalised, in the order in which
they are used: forward, loss, backward, optimizer step. The toolkit starts from its bank of bytes,
and shuffles, normalises, logs, looks for losses that are not numbers, and is asked after every step
whether it should stop. Lightning's trainer shuffles tensors that lie in memory; it takes part where
``lightning`` is installed. All take turns in one process, every second round in reverse, and each
turn begins with steps that are not timed; validation and checkpoints are left out. Synthetic images
and neurons.
"""

from __future__ import annotations

import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.face import Record, main
from toolkit import data
from toolkit.models.network_spec import NetworkSpec, ZooTrunk
from toolkit.models.trainable import TrainableNetwork, build_network
from toolkit.models.trunks import trunk_preprocessing
from toolkit.training import Assignment, ImageBank, Objective, Optimizer, Recipe, Running, train
from toolkit.training.descent import make_optimizer

N_NEURONS = 168
# Rounds begin within this time of a case, but for the least number of them.
_CASE_S = 150.0
_LEAST_ROUNDS = 2

OPTIMIZER = Optimizer("adamw", lr=1e-4, weight_decay=1e-5)


@dataclass(frozen=True)
class Case:
    """One network at one size.

    Attributes
    ----------
    name
        torchvision's.
    device, precision, compiled
        As for a training.
    image_px, batch_size
        Of a step.
    n_batches
        Timed in a turn.
    n_warm
        Steps before them.
    """

    name: str
    device: str
    precision: str = "float32"
    compiled: bool = False
    image_px: int = 224
    batch_size: int = 16
    n_batches: int = 3
    n_warm: int = 1

    def __str__(self) -> str:
        how = f"{self.precision}, compiled" if self.compiled else self.precision
        return f"{self.name}, {self.device}, {how}, {self.n_batches} x {self.batch_size} images"

    @property
    def n_images(self) -> int:
        """Images that are timed in a turn."""
        return self.batch_size * self.n_batches

    @property
    def spec(self) -> NetworkSpec:
        """The network, with random weights."""
        px = None if self.image_px == 224 else self.image_px
        return NetworkSpec(ZooTrunk("torchvision", self.name, "random", input_px=px))


def cases(quick: bool) -> list[Case]:
    """What is measured on this machine."""
    if quick:
        return [Case("resnet18", "cpu", image_px=64, batch_size=8)]
    names = ("resnet18", "resnet50", "densenet121")
    if not torch.cuda.is_available():
        return [Case(name, "cpu") for name in names]
    ways = (("float32", False), ("bfloat16", False), ("bfloat16", True))
    return [
        Case(name, "cuda", precision, compiled, batch_size=64, n_batches=40, n_warm=5)
        for name in names
        for precision, compiled in ways
    ]


def training(quick: bool) -> Iterator[Record]:
    """Time the training loop against a bare loop and against PyTorch Lightning's."""
    # Several threads would slow down out of proportion beside other work.
    torch.set_num_threads(1 if quick else len(os.sched_getaffinity(0)))
    for case in cases(quick):
        yield from compare(case, n_rounds=2 if quick else 4)


def compare(case: Case, n_rounds: int) -> list[Record]:
    """Let every system train in turn, back and forth; after the time for a case, two rounds do."""
    torch.compiler.reset()
    with tempfile.TemporaryDirectory() as name:
        problem = Problem(case, Path(name))
        systems: dict[str, Callable[[], float]] = {
            "floor": problem.bare_s,
            "toolkit": problem.toolkit_s,
        }
        if find_spec("lightning"):
            systems["Lightning"] = problem.lightning_s
        seconds: dict[str, list[float]] = {system: [] for system in systems}
        start = time.monotonic()
        for number in range(n_rounds):
            if number >= _LEAST_ROUNDS and time.monotonic() - start > _CASE_S:
                break
            for system in list(systems)[:: -1 if number % 2 else 1]:
                seconds[system].append(systems[system]())
    records = [_record(case, system, seconds) for system in systems]
    if "Lightning" not in systems:
        note = "pip install lightning"
        records.append(Record("train", str(case), "Lightning", status="not_installed", note=note))
    return records


class Problem:
    """Images and neurons of one case, and the systems that train on them."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.device = torch.device(case.device)
        self.n_steps = case.n_warm + case.n_batches
        self.dataset = data.load(
            "synthetic",
            n_train=case.batch_size * self.n_steps,
            n_val=1,
            n_neuroids=N_NEURONS,
            n_repetitions=1,
            n_categories=4,
            image_px=case.image_px,
            seed=0,
        )
        preprocessing = trunk_preprocessing(case.spec.trunk)
        self.bank = ImageBank.of(folder, self.dataset.stimuli, preprocessing)
        self.n_runs = 0
        self.rows = np.arange(case.batch_size * self.n_steps)
        self.batches = [
            (
                self.bank.normalised(self.bank.batch(part)).to(self.device),
                torch.from_numpy(self.dataset.responses[part]).float().to(self.device),
            )
            for part in np.array_split(self.rows, self.n_steps)
        ]

    def bare_s(self) -> float:
        """Seconds of a loop over tensors in memory."""
        network = self._network()
        optimizer = make_optimizer(OPTIMIZER, network.parameters())
        forward = self._compiled(network)
        clock = Clock(self)
        for images, responses in self.batches:
            optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                predicted = forward(images).responses
            torch.nn.functional.mse_loss(predicted, responses).backward()
            optimizer.step()
            clock.tick()
        return clock.seconds

    def toolkit_s(self) -> float:
        """Seconds of the toolkit's loop."""
        clock = Clock(self)
        recipe = Recipe(
            n_epochs=1,
            batch_size=self.case.batch_size,
            objectives=(Objective("mse"),),
            optimizer=OPTIMIZER,
            precision=self.case.precision,  # type: ignore[arg-type]
            validation_share=0,
        )
        assignment = Assignment(self.case.spec, recipe, self.dataset, self.rows, self.bank)
        running = Running(
            self.device, compiled=self.case.compiled, progress=lambda _, __: clock.tick()
        )
        self.n_runs += 1
        train(assignment, self.folder / str(self.n_runs), running)
        return clock.seconds

    def lightning_s(self) -> float:
        """Seconds of a plain Lightning loop over tensors in memory."""
        import lightning

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        clock, forward = Clock(self), self._compiled(self._network())

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.network = forward

            def training_step(self, batch: Any, _: int) -> torch.Tensor:
                images, responses = batch
                loss = torch.nn.functional.mse_loss(self.network(images).responses, responses)
                self.log("train_mse", loss, on_step=False, on_epoch=True)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return make_optimizer(OPTIMIZER, self.parameters())

            def on_train_batch_end(self, *_: Any) -> None:
                clock.tick()

        images, responses = (torch.cat(parts).cpu() for parts in zip(*self.batches, strict=True))
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(images, responses), self.case.batch_size, shuffle=True
        )
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if self.case.precision == "bfloat16" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with warnings.catch_warnings(action="ignore"):
            trainer.fit(Module(), loader)
        return clock.seconds

    def _network(self) -> TrainableNetwork:
        network = build_network(self.case.spec, n_neurons=N_NEURONS, n_classes={})
        return network.to(self.device).train()

    def _autocast(self) -> Any:
        if self.case.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _compiled(self, network: TrainableNetwork) -> Any:
        return torch.compile(network) if self.case.compiled else network


class Clock:
    """Counts the steps of a turn, and times those after the first few."""

    def __init__(self, problem: Problem) -> None:
        self._device = problem.device
        self._watched = {problem.case.n_warm: "start", problem.n_steps: "end"}
        self._n_done = 0
        self._moments: dict[str, float] = {}

    def tick(self) -> None:
        """A step is done."""
        self._n_done += 1
        if moment := self._watched.get(self._n_done):
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._moments[moment] = time.perf_counter()

    @property
    def seconds(self) -> float:
        """From the last step that is not timed to the end of the last one."""
        return self._moments["end"] - self._moments["start"]


def _record(case: Case, system: str, seconds: dict[str, list[float]]) -> Record:
    own = statistics.median(seconds[system])
    record = Record("train", str(case), system, seconds=own, images_per_second=case.n_images / own)
    ratios = [one / floor for one, floor in zip(seconds[system], seconds["floor"], strict=True)]
    record = replace(record, ratio_to_floor=statistics.median(ratios))
    if system == "floor":
        return replace(record, note=f"tensors in memory, {torch.get_num_threads()} threads")
    shares = sorted(1 / ratio for ratio in ratios)
    return replace(
        record,
        note=f"{statistics.median(shares):.3f} of the floor's images/s "
        f"({shares[0]:.3f} to {shares[-1]:.3f} in {len(shares)} rounds)",
    )


if __name__ == "__main__":
    main(training)
