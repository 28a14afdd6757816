"""Train a network, or go on with a training that was stopped."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from toolkit.training.assignment import Assignment
from toolkit.training.checkpoint import Checkpoints
from toolkit.training.distributed import train_together
from toolkit.training.reproducibility import reproducible
from toolkit.training.trainer import CurveRow, Running, Trainer
from toolkit.training.weights import Trained, save_trained

WEIGHTS_NAME = "weights.safetensors"


@dataclass(frozen=True)
class TrainingResult:
    """What training gave.

    Parameters
    ----------
    trained
        With the weights of the best epoch.
    path
        The safetensors file that holds it.
    curve
        One row per epoch: ``epoch``, ``lr``, ``seconds`` (since the last start), and of the
        training images as they were met (``train_``) and of the validation images (``val_``) the
        ``loss`` and each objective by its kind; ``val_ev``, ``val_r``, ``val_accuracy`` and
        ``is_best`` where there are validation images.
    best_epoch
        Number of the epoch, from 0, whose weights were kept.
    best_value
        Its monitored value, the higher the better (of "loss" the negative); None without
        validation images, or where it was never a number.
    """

    trained: Trained
    path: Path
    curve: list[CurveRow]
    best_epoch: int
    best_value: float | None


def train(assignment: Assignment, folder: Path, running: Running | None = None) -> TrainingResult:
    """Train a network, or go on with a training that was stopped at any moment.

    On the CPU a training that was stopped, killed or crashed, and called again with the same
    assignment and folder, ends with the same bits as one that was left alone, given the same number
    of threads and versions of libraries. A finished one gives its result again.

    Parameters
    ----------
    assignment
        What is trained on what.
    folder
        Where checkpoints and :data:`WEIGHTS_NAME` go; created if absent. The checkpoints stay:
        they answer the same call again. ``Checkpoints.remove`` deletes them.
    running
        How; on the CPU, with a checkpoint every five minutes, by default.

    Raises
    ------
    StoppedError
        If ``running.should_stop`` said so; a checkpoint was written before.
    DivergedError
        If a loss or weight is not finite; the last good checkpoint stays.
    OtherTrainingError
        If the folder holds a checkpoint of another training.
    RecipeError, TrainingDataError
        If recipe and data do not fit each other.
    RankLostError
        If one of the processes that train on several devices ended without a word.
    toolkit.models.ModelError
        As :func:`toolkit.models.trainable.build_network`; a decoder that will not fit in memory is
        refused before it is allocated.
    """
    running = running or Running()
    checkpoints = Checkpoints(folder, assignment.identity())
    if running.n_devices > 1:
        train_together(assignment, folder, running)
    with reproducible(running.device, assignment.recipe.seed):
        trainer = Trainer(assignment, running, checkpoints)
        trainer.go_on()
        trainer.run()
        best_epoch = trainer.take_best()
    trained = Trained(
        network=trainer.network,
        spec=assignment.spec,
        neuroid_ids=assignment.dataset.neuroid_ids if assignment.recipe.neural_kinds else (),
        classes=trainer.classes,
        images=assignment.images(),
        about={**assignment.identity(), "best_epoch": best_epoch},
    )
    best_value = trainer.state.best_value
    path = folder / WEIGHTS_NAME
    save_trained(path, trained)
    return TrainingResult(
        trained, path, trainer.state.curve, best_epoch, best_value if isfinite(best_value) else None
    )
