"""Training a network: images per second of the toolkit's loop against a bare one.

The floor is a loop over tensors that lie in memory, decoded and normalised, in the order in which
they are used: forward, loss, backward, optimizer step. The toolkit starts from its bank of bytes,
and shuffles, normalises, logs, looks for losses that are not numbers, and is asked after every step
whether it should stop; validation and checkpoints are left out of both. Floor and toolkit take
turns in one process. Synthetic images and neurons.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
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
    image_px, batch_size, n_batches
        Of an epoch.
    """

    name: str
    device: str
    precision: str = "float32"
    compiled: bool = False
    image_px: int = 224
    batch_size: int = 32
    n_batches: int = 6

    def __str__(self) -> str:
        how = f"{self.precision}, compiled" if self.compiled else self.precision
        return f"{self.name}, {self.device}, {how}, {self.n_batches} x {self.batch_size} images"

    @property
    def n_images(self) -> int:
        """Images of one epoch."""
        return self.batch_size * self.n_batches

    @property
    def spec(self) -> NetworkSpec:
        """The network, with random weights."""
        px = None if self.image_px == 224 else self.image_px
        return NetworkSpec(ZooTrunk("torchvision", self.name, "random", input_px=px))


def cases(quick: bool) -> list[Case]:
    """What is measured on this machine."""
    if quick:
        return [Case("resnet18", "cpu", image_px=64, batch_size=8, n_batches=4)]
    names = ("resnet18", "resnet50", "densenet121")
    if not torch.cuda.is_available():
        return [Case(name, "cpu") for name in names]
    return [
        Case(name, "cuda", precision, compiled, batch_size=64, n_batches=40)
        for name in names
        for precision, compiled in (
            ("float32", False),
            ("bfloat16", False),
            ("bfloat16", True),
        )
    ]


def training(quick: bool) -> list[Record]:
    """Time the training loop against a bare loop, and against Lightning where it is installed."""
    n_turns = 2 if quick else 5
    return [record for case in cases(quick) for record in compare(case, n_turns)]


def compare(case: Case, n_turns: int) -> list[Record]:
    """Let every system train the same epochs in turn; the first turn of each is not counted."""
    with tempfile.TemporaryDirectory() as name:
        problem = Problem(case, Path(name))
        systems: dict[str, Callable[[], float]] = {
            "floor": problem.bare_epoch_s,
            "toolkit": problem.toolkit_epoch_s,
        }
        if find_spec("lightning"):
            systems["Lightning"] = problem.lightning_epoch_s
        seconds: dict[str, list[float]] = {system: [] for system in systems}
        for turn in range(n_turns + 1):
            for system, epoch_s in systems.items():
                spent_s = epoch_s()
                if turn:
                    seconds[system].append(spent_s)
    return [_record(case, system, seconds) for system in systems]


class Problem:
    """Images and neurons of one case, and the systems that train on them."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder
        self.device = torch.device(case.device)
        self.dataset = data.load(
            "synthetic",
            n_train=case.n_images,
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
        self._bare: tuple[Any, torch.optim.Optimizer] | None = None
        rows = np.arange(case.n_images)
        self.batches = [
            (
                self.bank.normalised(self.bank.batch(part)).to(self.device),
                torch.from_numpy(self.dataset.responses[part]).float().to(self.device),
            )
            for part in np.array_split(rows, case.n_batches)
        ]

    def bare_epoch_s(self) -> float:
        """Seconds of an epoch over tensors in memory."""
        if self._bare is None:
            network = self._network()
            optimizer = make_optimizer(OPTIMIZER, network.parameters())
            forward = torch.compile(network) if self.case.compiled else network
            self._bare = forward, optimizer
        forward, optimizer = self._bare
        self._synchronise()
        start = time.perf_counter()
        for images, responses in self.batches:
            optimizer.zero_grad(set_to_none=True)
            with self._autocast():
                predicted = forward(images).responses
            torch.nn.functional.mse_loss(predicted, responses).backward()
            optimizer.step()
        self._synchronise()
        return time.perf_counter() - start

    def toolkit_epoch_s(self) -> float:
        """Seconds of the second of two epochs: the first one warms up and compiles."""
        moments: list[float] = []

        def progress(n_done: int, _: int) -> None:
            if n_done in (self.case.n_batches, 2 * self.case.n_batches):
                self._synchronise()
                moments.append(time.perf_counter())

        recipe = Recipe(
            n_epochs=2,
            batch_size=self.case.batch_size,
            objectives=(Objective("mse"),),
            optimizer=OPTIMIZER,
            precision=self.case.precision,  # type: ignore[arg-type]
            validation_share=0,
        )
        rows = np.arange(self.case.n_images)
        assignment = Assignment(self.case.spec, recipe, self.dataset, rows, self.bank)
        running = Running(self.device, compiled=self.case.compiled, progress=progress)
        self.n_runs += 1
        train(assignment, self.folder / str(self.n_runs), running)
        return moments[1] - moments[0]

    def lightning_epoch_s(self) -> float:
        """Seconds of the second of two epochs of a plain Lightning loop over tensors in memory."""
        import lightning

        moments: list[float] = []
        network = self._network()

        class Module(lightning.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def training_step(self, batch: Any, _: int) -> torch.Tensor:
                images, responses = batch
                loss = torch.nn.functional.mse_loss(self.network(images).responses, responses)
                self.log("train_mse", loss, on_step=False, on_epoch=True)
                return loss

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return make_optimizer(OPTIMIZER, self.parameters())

            def on_train_epoch_end(self) -> None:
                moments.append(time.perf_counter())

        images, responses = (torch.cat(parts).cpu() for parts in zip(*self.batches, strict=True))
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(images, responses), self.case.batch_size, shuffle=True
        )
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="gpu" if self.device.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if self.case.precision == "bfloat16" else "32-true",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(), loader)
        return moments[1] - moments[0]

    def _network(self) -> TrainableNetwork:
        network = build_network(self.case.spec, n_neurons=N_NEURONS, n_classes={})
        return network.to(self.device).train()

    def _autocast(self) -> Any:
        if self.case.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _record(case: Case, system: str, seconds: dict[str, list[float]]) -> Record:
    own = statistics.median(seconds[system])
    record = Record("train", str(case), system, seconds=own, images_per_second=case.n_images / own)
    ratios = [one / floor for one, floor in zip(seconds[system], seconds["floor"], strict=True)]
    record = replace(record, ratio_to_floor=statistics.median(ratios))
    if system == "floor":
        return replace(record, note="tensors in memory")
    shares = sorted(1 / ratio for ratio in ratios)
    return replace(
        record,
        note=f"{statistics.median(shares):.3f} of the floor's images/s "
        f"({shares[0]:.3f} to {shares[-1]:.3f} in {len(shares)} turns)",
    )


if __name__ == "__main__":
    main(training)
