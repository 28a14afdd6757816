"""The networks, what is kept of their layers, and how features are computed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    field_validator,
    model_validator,
)

from toolkit.config.base import Section, Seed, as_list, expand_path

OF_THIS_SWEEP, OF_ANOTHER_SWEEP = "trained:", "run:"


def _expand_checkpoint(weights: str) -> str:
    if weights in ("pretrained", "random") or weights.startswith(OF_THIS_SWEEP):
        return weights
    if weights.startswith(OF_ANOTHER_SWEEP):
        return OF_ANOTHER_SWEEP + expand_path(weights.removeprefix(OF_ANOTHER_SWEEP))
    return expand_path(weights)


def are_trained_here(weights: str) -> bool:
    """Whether weights are those of a training, of this sweep or of another one."""
    return weights.startswith((OF_THIS_SWEEP, OF_ANOTHER_SWEEP))


def _expand_pattern(weights: str) -> str:
    return _expand_checkpoint(weights) if "/" in weights and weights[0] != "*" else weights


Weights = Annotated[str, AfterValidator(_expand_checkpoint)]
WeightsPattern = Annotated[str, AfterValidator(_expand_pattern)]


class FeaturesConfig(Section):
    """What is kept of each layer's output."""

    keep: Literal["full", "average", "max", "cls", "projection", "gram"] = Field(
        default="full",
        description="Everything; average or max over positions; the class token; a sparse random "
        "projection; or only the Gram matrix over the images.",
    )
    n_dims: PositiveInt | None = Field(
        default=None, description="Dimensions of the projection; from eps if left out."
    )
    eps: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1,
        description="Distortion of distances that decides n_dims (Johnson-Lindenstrauss).",
    )
    seed: Seed = Field(default=0, description="Seed of the projection.")
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32", description="Precision of the features."
    )


def _as_features(value: Any) -> Any:
    return [{"keep": one} if isinstance(one, str) else one for one in as_list(value)]


Features = Annotated[tuple[FeaturesConfig, ...], BeforeValidator(_as_features), Field(min_length=1)]


class ModelConfig(Section):
    """One or many networks: every combination of names, weights and seeds."""

    library: Literal["torchvision", "timm", "pixels", "trained"] = Field(
        description="Where the network comes from; 'pixels' is the image itself; it can be left "
        "out where weights are trained:NAME or run:FOLDER/TASK."
    )
    names: Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)] = Field(
        default=("pixels",), description="Names or patterns such as 'vgg*'."
    )
    weights: Annotated[tuple[Weights, ...], BeforeValidator(as_list), Field(min_length=1)] = Field(
        default=("random",),
        description="pretrained, random, the path of a checkpoint, trained:NAME of a training of "
        "this sweep, or run:FOLDER/TASK of another one. What was trained is not tested on images "
        "it was trained on.",
    )
    seeds: Annotated[
        tuple[Seed, ...] | None, BeforeValidator(lambda v: v if v is None else as_list(v))
    ] = Field(default=None, description="Seeds of random weights; the sweep's seed if left out.")
    layers: Literal["auto", "all"] | tuple[str, ...] = Field(
        default="auto", description="auto (stage outputs), all, or names and patterns."
    )

    features: Features | None = Field(
        default=None, description="What is kept of each layer; the sweep's if left out."
    )

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_as_list(cls, value: Any) -> Any:
        return value if value in ("auto", "all") else as_list(value)

    @model_validator(mode="before")
    @classmethod
    def _trained_networks_say_what_they_are(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "library" in value or "names" in value:
            return value
        weights = as_list(value.get("weights", ()))
        if weights and all(isinstance(one, str) and are_trained_here(one) for one in weights):
            return {**value, "library": "trained", "names": "*"}
        return value

    @model_validator(mode="after")
    def _names_are_needed(self) -> ModelConfig:
        if self.library == "trained" and not all(map(are_trained_here, self.weights)):
            raise ValueError("weights must be trained:NAME or run:FOLDER/TASK")
        if self.library != "pixels" and self.names == ("pixels",):
            raise ValueError(f"names is missing: which {self.library} networks?")
        return self


class ExtractionConfig(Section):
    """How features are computed; only autocast changes more than their rounding."""

    batch_size: PositiveInt | Literal["auto"] = Field(
        default="auto", description="Images in one forward pass; auto fits them to the memory."
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N.")
    autocast: Literal["bfloat16", "float16"] | None = Field(
        default=None, description="Lower precision of the forward pass, where torch allows it."
    )
    compile: bool = Field(
        default=False, description="Compile the parts of a network between the layers."
    )
    parts: PositiveInt = Field(
        default=1, description="Tasks that share a network's images, each on its own GPU."
    )
