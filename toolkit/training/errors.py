"""What can be wrong with training: the recipe, the data, the numbers, or what is on disk."""

from __future__ import annotations


class RecipeError(ValueError):
    """A recipe that cannot be followed."""

    error_class = "bad_recipe"


class TrainingDataError(ValueError):
    """Images, responses or labels that do not serve the objectives."""

    error_class = "bad_training_data"


class OtherTrainingError(ValueError):
    """A folder that holds the checkpoint of another training."""

    error_class = "checkpoint_of_another_config"


class DivergedError(RuntimeError):
    """A loss or weight that is not a number any more; the last good checkpoint is still there."""

    error_class = "diverged"


class RankLostError(RuntimeError):
    """A process of a training on several devices that ended without a word."""

    error_class = "process_lost"


class StoppedError(RuntimeError):
    """Training was asked to stop; a checkpoint was written, from which it goes on."""

    error_class = "preempted"
