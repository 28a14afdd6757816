"""Steps and epochs: everything that changes while a network is trained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from toolkit.models.trainable import TrainableNetwork, build_network
from toolkit.training.assignment import Assignment
from toolkit.training.checkpoint import Checkpoints
from toolkit.training.descent import make_optimizer, make_scheduler
from toolkit.training.errors import DivergedError, StoppedError, TrainingDataError
from toolkit.training.feeding import Batch, Feeder, epoch_batches
from toolkit.training.objectives import loss_terms, total_loss
from toolkit.training.prediction import collected, mean_scores, mixed_precision
from toolkit.training.preparation import (
    carve_validation,
    class_names,
    scale_outputs,
    scaling_of,
    targets_of,
)
from toolkit.training.ranks import Rank
from toolkit.training.reproducibility import rng_states, set_rng_states

_log = logging.getLogger("toolkit")

_ALONE = Rank()

# Losses are looked at so often; each look waits for the device.
_STEPS_PER_LOOK = 20

CurveRow = dict[str, float | int | bool]


@dataclass(frozen=True)
class Running:
    """How a training runs; none of it changes the weights.

    Parameters
    ----------
    device
        Where it runs.
    n_devices
        On how many devices of this kind, from the first on, each with a process and its share of
        every batch; CPUs are one device, but may be shared by several processes. Up to rounding
        the weights do not depend on it, but for what is drawn (dropout, augmentation) and for
        batch normalisation, which sees a device's share.
    compiled
        Whether the network is compiled by ``torch.compile``.
    memory_bytes
        What the numbers kept for a decoder's weights may take; None: what the device has free.
    checkpoint_interval_s
        Seconds between checkpoints; 0 for one after every step. One is also written at the end,
        and when training is stopped.
    progress
        Called as ``progress(steps_done, steps_at_most)`` after each step.
    should_stop
        Asked after each step.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    n_devices: int = 1
    compiled: bool = False
    memory_bytes: int | None = None
    checkpoint_interval_s: float = 300.0
    progress: Callable[[int, int], None] | None = None
    should_stop: Callable[[], bool] = lambda: False


@dataclass
class State:
    """Where a training stands, beside what torch's own objects hold.

    Parameters
    ----------
    epoch, step
        Epochs that are over, and steps of the present one.
    n_images
        Met in the present epoch.
    sums
        Objective → sum of its values over those images, a float64 tensor on the device.
    curve
        One row per epoch that is over.
    best_epoch, best_value, best_weights
        The best epoch so far, by the monitored value; None before there is one.
    """

    epoch: int = 0
    step: int = 0
    n_images: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    curve: list[CurveRow] = field(default_factory=list)
    best_epoch: int | None = None
    best_value: float = -float("inf")
    best_weights: dict[str, torch.Tensor] | None = None


class Trainer:
    """A network, its optimizer and its data, ready to run or to go on from a checkpoint.

    Parameters
    ----------
    assignment
        What is trained on what.
    running
        How.
    checkpoints
        Where its state is kept.
    rank
        Which of the processes that train together this is.
    """

    def __init__(
        self,
        assignment: Assignment,
        running: Running,
        checkpoints: Checkpoints,
        rank: Rank = _ALONE,
    ) -> None:
        recipe, dataset = assignment.recipe, assignment.dataset
        self.n_epochs = min(recipe.n_epochs, assignment.pause_after or recipe.n_epochs)
        self.recipe, self.running, self.checkpoints = recipe, running, checkpoints
        self.rank = rank
        self.fitted, self.validation = carve_validation(assignment.rows, recipe)
        self.classes: dict[str, tuple[str, ...]] = {
            kind: class_names(dataset, kind) for kind in recipe.label_kinds
        }
        self.targets = targets_of(dataset, recipe, self.fitted)
        self.network = self._build(assignment)
        self.feeder = Feeder(
            assignment.bank, self.targets, running.device, channels_last=recipe.channels_last
        )
        self.weights = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizer = make_optimizer(recipe.optimizer, self.weights)
        joined = rank.joined(self.network, recipe.objectives)
        self.forward: Callable[..., Any] = torch.compile(joined) if running.compiled else joined
        self.n_steps = len(self._batches(epoch=0))
        self.scheduler = make_scheduler(recipe, self.optimizer, self.n_steps)
        is_half = recipe.precision == "float16"
        self.scaler = torch.amp.GradScaler(running.device.type, enabled=is_half)
        self.state = State()

    def run(self) -> None:
        """Train until the epochs or the patience are used up, or the pause is reached.

        Raises
        ------
        StoppedError
            If it was asked to stop; a checkpoint was written before.
        DivergedError
            If a loss or weight is not finite.
        """
        state, saved_at = self.state, time.monotonic()
        while not self._is_over():
            started = time.perf_counter()
            self.network.train()
            left = self._batches(state.epoch)[state.step :]
            for batch in self.feeder.batches(left, self.recipe.augmentation, self.rank):
                self._step(batch)
                self._tell_progress()
                is_stopped = self.running.should_stop()
                if is_stopped or self._is_due(saved_at):
                    self.save()
                    saved_at = time.monotonic()
                if is_stopped:
                    raise StoppedError(
                        f"asked to stop after step {state.step} of epoch {state.epoch}; it goes on "
                        f"from {self.checkpoints.last}"
                    )
            self._end_epoch(time.perf_counter() - started)
        self.save()

    def save(self) -> None:
        """Write a checkpoint on the first rank, unless a loss or weight is not finite.

        Raises
        ------
        DivergedError
            If one is not; the checkpoint before stays the last one.
        """
        self._look_at_losses()
        weights = self.network.state_dict()
        for name, value in weights.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self._diverged(f"{name} is not finite")
        if not self.rank.is_first:
            return
        self.checkpoints.save(
            {
                "network": weights,
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "state": vars(self.state),
                "rng": rng_states(self.running.device),
            }
        )

    def go_on(self) -> None:
        """Take over the last checkpoint, if there is one.

        Raises
        ------
        OtherTrainingError
            If it is of another training.
        """
        found = self.checkpoints.load()
        if found is not None:
            self._restore(found)
            _log.info("going on at epoch %d, step %d", self.state.epoch, self.state.step)
        self.rank.seed(self.recipe.seed, self._n_done())

    def _restore(self, content: Mapping[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.scaler.load_state_dict(content["scaler"])
        self.state = State(**content["state"])
        sums = self.state.sums
        self.state.sums = {kind: sums[kind].to(self.running.device) for kind in sums}
        set_rng_states(self.running.device, content["rng"])

    def take_best(self) -> int:
        """Give the network the weights of the best epoch, and say which that was."""
        if self.state.best_weights is not None:
            self.network.load_state_dict(self.state.best_weights)
        self.network.eval()
        best_epoch = self.state.best_epoch
        return self.state.epoch - 1 if best_epoch is None else best_epoch

    def _build(self, assignment: Assignment) -> TrainableNetwork:
        recipe, dataset, device = self.recipe, assignment.dataset, self.running.device
        network = build_network(
            assignment.spec,
            n_neurons=len(dataset.neuroid_ids) if recipe.neural_kinds else 0,
            n_classes={kind: len(names) for kind, names in self.classes.items()},
            is_rate="poisson" in recipe.neural_kinds,
            memory_bytes=self.running.memory_bytes or _free_bytes(device),
            n_copies=recipe.optimizer.numbers_per_weight,
        )
        _take_over(network, assignment.initial)
        if recipe.neural_kinds and recipe.standardise:
            scale_outputs(network, scaling_of(dataset, self.fitted))
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        return network.to(device=device, memory_format=layout)  # type: ignore[call-overload]

    def _batches(self, epoch: int) -> list[NDArray[np.integer]]:
        return epoch_batches(
            self.fitted, self.recipe.batch_size, seed=self.recipe.seed, epoch=epoch
        )

    def _is_over(self) -> bool:
        state, patience = self.state, self.recipe.patience
        if patience is not None and state.best_epoch is not None:
            return state.epoch - state.best_epoch > patience or state.epoch >= self.n_epochs
        return state.epoch >= self.n_epochs

    def _is_due(self, saved_at: float) -> bool:
        return time.monotonic() - saved_at >= self.running.checkpoint_interval_s

    def _tell_progress(self) -> None:
        if self.running.progress is not None:
            self.running.progress(self._n_done(), self.n_epochs * self.n_steps)

    def _n_done(self) -> int:
        return self.state.epoch * self.n_steps + self.state.step

    def _step(self, batch: Batch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with mixed_precision(self.running.device, self.recipe.precision):
            outputs = self.forward(batch.images)
        outputs = self.rank.gathered(outputs, batch.n_images, self.running.device)
        terms = loss_terms(self.recipe.objectives, outputs, batch.targets)
        # Each rank has the gradient of its part, and the mean over ranks is taken.
        loss = total_loss(self.recipe.objectives, terms) * self.rank.n_ranks
        self.scaler.scale(loss).backward()
        if self.recipe.max_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.recipe.schedule.kind == "onecycle":
            self.scheduler.step()
        self._count(terms, batch.n_images)

    def _count(self, terms: Mapping[str, torch.Tensor], n_images: int) -> None:
        sums = self.state.sums
        for kind, value in terms.items():
            sums[kind] = sums.get(kind, 0) + value.detach().double() * n_images
        self.state.n_images += n_images
        self.state.step += 1
        if self.state.step % _STEPS_PER_LOOK == 0:
            self._look_at_losses()

    def _look_at_losses(self) -> None:
        for kind, value in self.state.sums.items():
            if not value.isfinite():
                raise self._diverged(f"objective {kind} became {value.item()}")

    def _diverged(self, what: str) -> DivergedError:
        last = self.checkpoints.last
        kept = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint is there"
        return DivergedError(
            f"{what} by step {self.state.step} of epoch {self.state.epoch}, at a learning rate of "
            f"{self._lr():.3g}; {kept}. Write a lower optimizer.lr, a max_grad_norm, a warm-up, or "
            "precision: float32"
        )

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _end_epoch(self, seconds: float) -> None:
        self._look_at_losses()
        state = self.state
        row: CurveRow = {"epoch": state.epoch, "lr": self._lr(), "seconds": seconds}
        means = {kind: value.item() / state.n_images for kind, value in state.sums.items()}
        row |= self._named("train", means)
        if len(self.validation):
            row |= self._validate()
            value = -float(row["val_loss"])
            if self.recipe.monitor != "loss":
                value = float(row[f"val_{self.recipe.monitor}"])
            row["is_best"] = value > state.best_value
            if row["is_best"]:
                state.best_epoch, state.best_value = state.epoch, value
                state.best_weights = _copied(self.network)
        state.curve.append(row)
        if self.recipe.schedule.kind != "onecycle":
            self.scheduler.step()
        state.epoch, state.step, state.n_images, state.sums = state.epoch + 1, 0, 0, {}

    def _validate(self) -> CurveRow:
        """Losses and scores on all validation images at once."""
        self.rank.take_over_buffers(self.network)
        own = self.rank.part(self.validation)
        n_batches = -(-len(own) // self.recipe.batch_size)
        images = (batch.images for batch in self.feeder.batches(np.array_split(own, n_batches)))
        outputs = collected(self.network, images, self.recipe.precision)
        outputs = self.rank.gathered(outputs, len(self.validation), self.running.device)
        targets = self.targets.at(torch.from_numpy(self.validation))
        terms = loss_terms(self.recipe.objectives, outputs, targets)
        row = self._named("val", {kind: value.item() for kind, value in terms.items()})
        if outputs.responses is not None and targets.responses is not None:
            measured, predicted = targets.responses.numpy(), outputs.responses.numpy()
            row["val_ev"], row["val_r"] = mean_scores(measured, predicted)
        for kind in reversed(self.recipe.label_kinds):
            is_right = outputs.logits[kind].argmax(dim=1) == targets.labels[kind]
            row[f"val_accuracy_{kind}"] = row["val_accuracy"] = is_right.double().mean().item()
        return row

    def _named(self, split: str, terms: Mapping[str, float]) -> CurveRow:
        row: CurveRow = {f"{split}_{kind}": value for kind, value in terms.items()}
        row[f"{split}_loss"] = sum(
            (
                objective.weight * terms[objective.kind]
                for objective in self.recipe.objectives
                if objective.weight
            ),
            start=0.0,
        )
        return row


def _take_over(network: TrainableNetwork, initial: Mapping[str, torch.Tensor]) -> None:
    own = network.state_dict()
    for name, value in initial.items():
        if name not in own or own[name].shape != value.shape:
            has = f"has {tuple(own[name].shape)}" if name in own else "has no such weights"
            raise TrainingDataError(
                f"initial weights {name} are {tuple(value.shape)}, but the network {has}: give "
                "only those of parts that it shares"
            )
    network.load_state_dict(initial, strict=False)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _copied(network: TrainableNetwork) -> dict[str, torch.Tensor]:
    return {name: value.cpu().clone() for name, value in network.state_dict().items()}
