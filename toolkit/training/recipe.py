"""How a network is trained, as values that decide its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from toolkit.models.plain import Plain
from toolkit.training.errors import RecipeError

NeuralKind = Literal["mse", "poisson", "correlation"]
LabelKind = Literal["object", "category"]

NEURAL_KINDS: tuple[NeuralKind, ...] = ("mse", "poisson", "correlation")


@dataclass(frozen=True)
class Objective(Plain):
    """One term of the loss.

    Parameters
    ----------
    kind
        On the neurons: "mse", "poisson" or "correlation" (:mod:`toolkit.training.objectives`);
        on the images' classes: cross-entropy over "object" or "category" names.
    weight
        What it is multiplied with; 0: it is only logged.

    Raises
    ------
    RecipeError
        If the weight is negative.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    kind: NeuralKind | LabelKind
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check(self.weight >= 0, "weight", self.weight, "0 or more")


@dataclass(frozen=True)
class Optimizer(Plain):
    """What changes the weights; everything not named here is torch's default.

    Parameters
    ----------
    kind
        torch's optimizer of that name.
    lr
        Learning rate, the highest one of a schedule.
    weight_decay
        For "adamw" decoupled, otherwise added to the gradient.
    momentum
        "sgd" only.

    Raises
    ------
    RecipeError
        If a number is out of range, or momentum is given where there is none.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    kind: Literal["adam", "adamw", "nadam", "sgd"] = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lr > 0, "lr", self.lr, "a positive number")
        _check(self.weight_decay >= 0, "weight_decay", self.weight_decay, "0 or more")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "0 or more, below 1")
        if self.kind != "sgd" and self.momentum:
            raise RecipeError(f"momentum is for sgd; {self.kind} has its own: leave it out")

    @property
    def numbers_per_weight(self) -> int:
        """Numbers kept for each trained weight: itself, gradient, averages, and the best so far."""
        return 3 + (0 if self.kind == "sgd" else 2) + (self.momentum > 0)


@dataclass(frozen=True)
class Schedule(Plain):
    """What the learning rate is multiplied with as training goes on.

    Parameters
    ----------
    kind
        "constant"; "step": ``factor`` after every ``step_epochs``; "cosine": from 1 to 0 over all
        epochs; "onecycle": up during the warm-up and down to almost nothing, changing with every
        batch (Smith and Topin 2018, torch's ``OneCycleLR``).
    step_epochs, factor
        "step" only.
    warmup_epochs
        Epochs over which the rate grows to its full value; for "onecycle" at least 1, for the
        others 0 for none.

    Raises
    ------
    RecipeError
        If a number is out of range.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    kind: Literal["constant", "step", "cosine", "onecycle"] = "constant"
    step_epochs: int = 15
    factor: float = 0.5
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        _check(self.step_epochs >= 1, "step_epochs", self.step_epochs, "1 or more")
        _check(0 < self.factor <= 1, "factor", self.factor, "above 0, at most 1")
        lowest = 1 if self.kind == "onecycle" else 0
        _check(
            self.warmup_epochs >= lowest, "warmup_epochs", self.warmup_epochs, f"{lowest} or more"
        )


@dataclass(frozen=True)
class Augmentation(Plain):
    """Random changes of the training images; none by default.

    Parameters
    ----------
    flip
        Mirror every other image left to right. It changes the answer of neurons that care
        where things are.
    shift_px
        Move each image by up to so many pixels each way, its edge mirrored.

    Raises
    ------
    RecipeError
        If a number is out of range.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    flip: bool = False
    shift_px: int = 0

    def __post_init__(self) -> None:
        _check(self.shift_px >= 0, "shift_px", self.shift_px, "0 or more")


@dataclass(frozen=True)
class Recipe(Plain):
    """All that decides the weights beside the network, the images and the responses.

    Parameters
    ----------
    n_epochs
        Passes over the training images, at most.
    batch_size
        Images per step; the batches of an epoch differ by at most one image.
    objectives
        Terms of the loss, each kind once.
    standardise
        Measure squared errors in standard deviations of each neuron's training responses, and let
        the decoder predict deviations from their mean. Otherwise neurons of large variance count
        more, and the decoder has to find the means.
    optimizer, schedule, augmentation
        See there.
    max_grad_norm
        Scale the gradient down to this Euclidean norm where it is larger.
    precision
        "float32", or mixed precision in "bfloat16" or "float16".
    channels_last
        Memory format of images and weights.
    validation_share
        Share of the training images on which epochs are compared; never those that are reported.
        0: none, the last epoch is kept.
    patience
        Epochs without improvement after which training ends; None: all epochs run.
    monitor
        What the best epoch has: the lowest validation "loss", or the highest "ev", "r" (means over
        neurons) or "accuracy" (of the first classification objective).
    seed
        Of the order of the images, the carving of the validation images, dropout and augmentation.

    Raises
    ------
    RecipeError
        If a value is out of range or does not go with another.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    n_epochs: int
    batch_size: int = 64
    objectives: tuple[Objective, ...] = field(default_factory=lambda: (Objective("mse"),))
    standardise: bool = True
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: Augmentation = field(default_factory=Augmentation)
    max_grad_norm: float | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = False
    validation_share: float = 0.1
    patience: int | None = None
    monitor: Literal["loss", "ev", "r", "accuracy"] = "loss"
    seed: int = 0

    def __post_init__(self) -> None:
        _check(self.n_epochs >= 1, "n_epochs", self.n_epochs, "1 or more")
        _check(self.batch_size >= 1, "batch_size", self.batch_size, "1 or more")
        _check(self.patience is None or self.patience >= 1, "patience", self.patience, "1 or more")
        _check(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            "max_grad_norm",
            self.max_grad_norm,
            "a positive number, or leave it out",
        )
        share = self.validation_share
        _check(0 <= share < 1, "validation_share", share, "0 or more, below 1")
        self._check_objectives()
        if self.schedule.warmup_epochs >= self.n_epochs and self.schedule.warmup_epochs:
            raise RecipeError(
                f"schedule.warmup_epochs is {self.schedule.warmup_epochs}, but n_epochs is "
                f"{self.n_epochs}; write fewer"
            )
        if share == 0 and (self.patience is not None or self.monitor != "loss"):
            raise RecipeError(
                "validation_share is 0, so there is nothing to monitor: leave patience and "
                "monitor out, or write a share"
            )

    @property
    def neural_kinds(self) -> tuple[NeuralKind, ...]:
        """The objectives on neurons."""
        kinds = {objective.kind for objective in self.objectives}
        return tuple(kind for kind in NEURAL_KINDS if kind in kinds)

    @property
    def label_kinds(self) -> tuple[LabelKind, ...]:
        """The objectives on classes, in their order."""
        return tuple(
            objective.kind
            for objective in self.objectives
            if objective.kind == "object" or objective.kind == "category"
        )

    def n_validation(self, n_images: int) -> int:
        """How many of the training images are carved for validation: the share in whole images.

        Raises
        ------
        RecipeError
            If the share gives no validation image, or leaves fewer than two to fit.
        """
        share = self.validation_share
        n_validation = round(share * n_images)
        if share and not n_validation:
            raise RecipeError(
                f"validation_share {share} of {n_images} training images gives zero validation "
                f"images; write at least {1 / n_images:.2g}, or 0 to keep the last epoch"
            )
        if n_images - n_validation < 2:
            raise RecipeError(
                f"validation_share {share} leaves {n_images - n_validation} of {n_images} training "
                "images to fit; at least 2 are needed"
            )
        return n_validation

    def _check_objectives(self) -> None:
        kinds = [objective.kind for objective in self.objectives]
        if not kinds or len(set(kinds)) < len(kinds):
            raise RecipeError(f"objectives are {kinds}; write at least one, each kind once")
        if not any(objective.weight for objective in self.objectives):
            raise RecipeError("all objectives have weight 0: nothing would be learned")
        if self.monitor in ("ev", "r") and not self.neural_kinds:
            raise RecipeError(f"monitor is {self.monitor}, but no objective is on neurons")
        if self.monitor == "accuracy" and not self.label_kinds:
            raise RecipeError("monitor is accuracy, but no objective is on classes")


def _check(is_right: bool, name: str, value: object, remedy: str) -> None:
    if not is_right:
        raise RecipeError(f"{name} is {value}; write {remedy}")
