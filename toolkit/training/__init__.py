"""Networks trained on responses, on the images' classes, or on both.

Importing this room imports no torch; its functions do when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit.training.errors import (
    DivergedError,
    OtherTrainingError,
    RankLostError,
    RecipeError,
    StoppedError,
    TrainingDataError,
)
from toolkit.training.recipe import Augmentation, Objective, Optimizer, Recipe, Schedule

if TYPE_CHECKING:
    from toolkit.training.assignment import Assignment
    from toolkit.training.checkpoint import Checkpoints
    from toolkit.training.images import ImageBank
    from toolkit.training.loop import TrainingResult, train
    from toolkit.training.prediction import Predictions, predict
    from toolkit.training.scoring import accuracy, neuron_scores
    from toolkit.training.trainer import Running
    from toolkit.training.weights import Trained, WeightsFileError, load_trained, save_trained

_TORCH_MODULES = {
    "Assignment": "assignment",
    "Checkpoints": "checkpoint",
    "ImageBank": "images",
    "TrainingResult": "loop",
    "train": "loop",
    "Predictions": "prediction",
    "predict": "prediction",
    "accuracy": "scoring",
    "neuron_scores": "scoring",
    "Running": "trainer",
    "Trained": "weights",
    "WeightsFileError": "weights",
    "load_trained": "weights",
    "save_trained": "weights",
}

__all__ = [
    "Assignment",
    "Augmentation",
    "Checkpoints",
    "DivergedError",
    "ImageBank",
    "Objective",
    "Optimizer",
    "OtherTrainingError",
    "Predictions",
    "RankLostError",
    "Recipe",
    "RecipeError",
    "Running",
    "Schedule",
    "StoppedError",
    "Trained",
    "TrainingDataError",
    "TrainingResult",
    "WeightsFileError",
    "accuracy",
    "load_trained",
    "neuron_scores",
    "predict",
    "save_trained",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _TORCH_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_TORCH_MODULES[name]}"), name)
