"""The networks that are trained, how, and the search for how."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from toolkit.config.base import Section, Seed, as_list
from toolkit.config.models import Weights

TrainingName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
ObjectiveKind = Literal["mse", "poisson", "correlation", "object", "category"]
_MOST_TRIALS = 10_000

Values = dict[str, Any]
Seeds = Annotated[
    tuple[Seed, ...] | None, BeforeValidator(lambda v: v if v is None else as_list(v))
]


class ZooNetwork(Section):
    """Networks of a library without their classifiers; lists are crossed."""

    library: Literal["torchvision", "timm"] = Field(description="Where the networks come from.")
    names: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)] = Field(
        description="Names or patterns such as 'resnet*'."
    )
    weights: Annotated[tuple[Weights, ...], BeforeValidator(as_list), Field(min_length=1)] = Field(
        default=("pretrained",),
        description="What training starts from: pretrained, random, the path of a checkpoint, "
        "trained:NAME of an earlier training, or run:FOLDER/TASK.",
    )
    layers: Annotated[tuple[str | None, ...], BeforeValidator(as_list), Field(min_length=1)] = (
        Field(default=(None,), description="Cut after this layer; null: before the classifier.")
    )
    n_blocks: Annotated[
        tuple[PositiveInt | None, ...], BeforeValidator(as_list), Field(min_length=1)
    ] = Field(default=(None,), description="Cut a sequential network after so many blocks.")
    input_px: PositiveInt | None = Field(
        default=None, description="Side of the images; that of the weights if left out."
    )


class ShallowNetwork(Section):
    """Blocks of convolution, normalisation, ReLU, pooling and dropout, from nothing."""

    library: Literal["shallow"] = Field(description="A network of a few blocks.")
    name: str = Field(default="shallow", description="Name in the results.")
    weights: Annotated[tuple[Weights, ...], BeforeValidator(as_list), Field(min_length=1)] = Field(
        default=("random",), description="random, trained:NAME, or run:FOLDER/TASK."
    )
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        description="Filters of each block."
    )
    kernel_px: PositiveInt = Field(default=3, description="Side of the filters, odd.")
    pooling: Literal["max", "average", "soft", "none"] = Field(
        default="max", description="Over 2 x 2 positions after each block."
    )
    normalised: bool = Field(default=False, description="Batch normalisation.")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Probability of dropping a channel after each block."
    )
    input_px: PositiveInt = Field(default=224, description="Side of the images.")


class HmoNetwork(Section):
    """A network grown of small modules that are sampled, trained briefly and chosen."""

    library: Literal["hmo"] = Field(description="Hierarchical modular optimisation.")
    name: str = Field(default="hmo", description="Name in the results.")
    brief: Values = Field(description="Recipe of the modules' brief training.")
    space: Values = Field(default={}, description="What a module may be.")
    n_modules: PositiveInt = Field(default=200, description="Modules sampled for each stage.")
    n_chosen: PositiveInt = Field(default=8, description="Modules kept of them.")
    n_stages: PositiveInt = Field(default=3, description="Stages of the deepest stack.")
    n_features: PositiveInt = Field(default=1250, description="Units of the layer 'top'.")
    selection_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.25, description="Share of the training images that modules are compared on."
    )
    input_px: PositiveInt = Field(default=64, description="Side of the images.")
    modules_per_task: PositiveInt = Field(
        default=20, description="Modules that one job trains; it does not change the results."
    )


NetworkConfig = Annotated[ZooNetwork | ShallowNetwork | HmoNetwork, Field(discriminator="library")]


class Range(Section):
    """Numbers to draw from."""

    min: float = Field(description="Smallest number.")
    max: float = Field(description="Largest number.")
    log: bool = Field(default=False, description="Draw evenly on a logarithmic scale.")

    @model_validator(mode="after")
    def _is_in_order(self) -> Range:
        if self.min >= self.max or (self.log and self.min <= 0):
            raise ValueError("write min below max, and above 0 where log is true")
        return self


def _range_or_list(value: Any) -> str:
    return "range" if isinstance(value, dict | Range) else "list"


Choices = Annotated[
    Annotated[
        tuple[Any, ...],
        BeforeValidator(as_list),
        Field(min_length=1),
        Tag("list"),
    ]
    | Annotated[Range, Tag("range")],
    Discriminator(_range_or_list),
]


class HalvingConfig(Section):
    """Successive halving: train all trials a little, go on with the best."""

    eta: Annotated[int, Field(ge=2)] = Field(
        default=3, description="Each rung keeps one of so many trials, for so many times as long."
    )
    first_epochs: PositiveInt = Field(default=1, description="Epochs of the first rung.")


class SearchConfig(Section):
    """Trials of other recipes, compared on the validation images."""

    kind: Literal["grid", "random"] = Field(
        default="grid", description="Every combination, or combinations drawn at random."
    )
    over: Annotated[dict[str, Choices], Field(min_length=1)] = Field(
        description="Field of the recipe, such as optimizer.lr (or decoder.dropout): values, or "
        "min, max and log (random)."
    )
    n_trials: PositiveInt | None = Field(default=None, description="Trials of a random search.")
    seed: Seed | None = Field(default=None, description="Of the draw; the sweep's if left out.")
    halving: HalvingConfig | None = Field(default=None, description="Successive halving.")
    refit: bool = Field(
        default=False,
        description="Train the winner again, on training and validation images together.",
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> SearchConfig:
        if (self.kind == "random") != (self.n_trials is not None):
            raise ValueError("n_trials is for kind: random, which needs it")
        if self.kind == "grid" and any(isinstance(one, Range) for one in self.over.values()):
            raise ValueError("a grid needs lists of values; min and max are for kind: random")
        lists = [one for one in self.over.values() if not isinstance(one, Range)]
        n_trials = self.n_trials or math.prod(map(len, lists))
        if n_trials > _MOST_TRIALS:
            raise ValueError(f"{n_trials} trials; a search has at most {_MOST_TRIALS}")
        if self.halving is not None and "n_epochs" in self.over:
            raise ValueError("halving decides how long trials train: leave n_epochs out of 'over'")
        return self


def _as_objectives(value: Any) -> Any:
    return [{one: 1.0} if isinstance(one, str) else one for one in as_list(value)]


class TrainingConfig(Section):
    """Networks trained on responses, classes or both; lists are crossed."""

    network: NetworkConfig = Field(description="What is trained.")
    trained: Annotated[
        tuple[Literal["all", "none"] | PositiveInt, ...],
        BeforeValidator(as_list),
        Field(min_length=1),
    ] = Field(
        default=("all",),
        description="all, none (a frozen network under its decoder), or so many last stages.",
    )
    decoder: Values = Field(default={}, description="From features to neurons.")
    objectives: Annotated[
        tuple[Annotated[dict[ObjectiveKind, NonNegativeFloat], Field(min_length=1)], ...],
        BeforeValidator(_as_objectives),
        Field(min_length=1),
    ] = Field(
        default=({"mse": 1.0},),
        description="Objective → weight, such as {object: 0.3, mse: 1}, or a name alone; a list is "
        "crossed.",
    )
    n_logits: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="Logits of a classification; the number of classes if left out."
    )
    recipe: Values = Field(description="How it is trained; n_epochs at least.")
    seeds: Seeds = Field(default=None, description="Of weights and order; the sweep's if left out.")
    folds: Annotated[
        tuple[int, ...] | Literal["all"],
        BeforeValidator(lambda value: value if value == "all" else as_list(value)),
    ] = Field(default=(0,), description="Splits of the protocol that are trained on, or all.")
    search: SearchConfig | None = Field(default=None, description="Search for a better recipe.")
    predict: Annotated[tuple[str, ...], BeforeValidator(as_list)] = Field(
        default=(), description="Splits without responses whose responses are predicted."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    compile: bool = Field(default=False, description="Compile the network.")
    checkpoint_s: NonNegativeFloat = Field(
        default=300.0, description="Seconds between checkpoints; 0: one after every step."
    )

    @model_validator(mode="after")
    def _hmo_has_its_own_ways(self) -> TrainingConfig:
        if isinstance(self.network, HmoNetwork):
            given = self.model_fields_set & {"trained", "decoder", "search", "n_logits"}
            if given:
                raise ValueError(f"library: hmo has no {', '.join(sorted(given))}: leave it out")
        return self
