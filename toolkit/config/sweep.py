"""A whole sweep, and what to leave out of it."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from toolkit.config.base import Section, Seed, as_list
from toolkit.config.datasets import DatasetConfig
from toolkit.config.execution import DaskConfig, ExecutorConfig, StageResources
from toolkit.config.models import (
    ExtractionConfig,
    Features,
    FeaturesConfig,
    ModelConfig,
    WeightsPattern,
)
from toolkit.config.protocols import FixedProtocol, ProtocolConfig
from toolkit.config.readouts import PcaConfig, ReadoutConfig, StatisticsConfig
from toolkit.config.training import TrainingConfig, TrainingName


class ExcludeRule(Section):
    """Drops every combination in which all the given fields match (patterns allowed)."""

    dataset: str | None = Field(default=None, description="Name of the data set.")
    library: str | None = Field(default=None, description="Library of the network.")
    model: str | None = Field(default=None, description="Name of the network.")
    weights: WeightsPattern | None = Field(
        default=None, description="pretrained, random or a path."
    )
    layer: str | None = Field(default=None, description="Layer name.")
    features: str | None = Field(default=None, description="What is kept, such as average.")
    readout: str | None = Field(
        default=None, description="Readout name, such as pca1000-ridge, or finetune."
    )

    def matches(self, values: Mapping[str, str]) -> bool:
        """Whether every field that is given fits the value of its name."""
        wanted = self.model_dump(exclude_none=True)
        return all(fnmatchcase(values[key], pattern) for key, pattern in wanted.items())


class SweepConfig(Section):
    """A whole sweep: data sets × networks × layers × readouts, and trainings."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = Field(
        description="Name of the experiment; the run folder is runs/NAME unless --out says other."
    )
    seed: Seed = Field(default=0, description="Seed of everything that names none of its own.")
    dataset: Annotated[tuple[DatasetConfig, ...], BeforeValidator(as_list), Field(min_length=1)] = (
        Field(description="One data set or a list of them.")
    )
    protocol: ProtocolConfig = Field(
        default=FixedProtocol(), description="Which stimuli are fitted and which are scored."
    )
    models: Annotated[tuple[ModelConfig, ...], BeforeValidator(as_list)] = Field(
        default=(), description="The networks whose features are read out."
    )
    readouts: Annotated[tuple[ReadoutConfig, ...], BeforeValidator(as_list)] = Field(
        default=(), description="How the neurons are fitted to the features."
    )
    training: dict[TrainingName, TrainingConfig] = Field(
        default={},
        description="The networks that are trained: a name, as in weights: trained:NAME, and how.",
    )
    pca: PcaConfig = Field(
        default=PcaConfig(), description="How principal components are computed."
    )
    dask: DaskConfig = Field(default=DaskConfig(), description="Where read-outs are computed.")
    statistics: StatisticsConfig = Field(
        default=StatisticsConfig(), description="Intervals and p-values."
    )
    features: Features = Field(
        default=(FeaturesConfig(),),
        description="What is kept of each layer; a name alone is its `keep`; a list is crossed.",
    )
    exclude: tuple[ExcludeRule, ...] = Field(default=(), description="Combinations to leave out.")
    extraction: ExtractionConfig = Field(
        default=ExtractionConfig(), description="How features are computed."
    )
    executor: ExecutorConfig = Field(default=ExecutorConfig(), description="Where jobs run.")
    resources: StageResources = Field(
        default=StageResources(), description="What jobs of each stage ask for."
    )

    @model_validator(mode="after")
    def _has_something_to_do(self) -> SweepConfig:
        if bool(self.models) != bool(self.readouts):
            missing = "readouts" if self.models else "models"
            raise ValueError(f"{missing} is missing: networks and readouts come together")
        if not (self.models or self.training):
            raise ValueError("nothing to do: write models and readouts, or training")
        return self
