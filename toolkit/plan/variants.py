"""A network and a way to train it, as planning knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.config import (
    HmoNetwork,
    TrainingConfig,
)
from toolkit.models.network_spec import DecoderSpec
from toolkit.yaml_source import KeyPath

_MODES = {"all": "finetune", "none": "frozen"}
_NOT_OF_THE_SEARCH = {"library", "name", "brief", "modules_per_task"}


@dataclass(frozen=True)
class Variant:
    """One network, and one way to train it, of a training entry.

    Parameters
    ----------
    name, training
        The entry.
    library, model, weights
        Names in the results; ``weights`` as the config has it.
    trunk
        :data:`toolkit.models.network_spec.TrunkSpec` as JSON values, its weights by what decides
        them.
    trained
        all, none, or so many last stages.
    objectives
        Kind → weight.
    """

    name: str
    training: TrainingConfig
    library: str
    model: str
    weights: str
    trunk: dict[str, Any]
    trained: str | int
    objectives: dict[str, float]

    @property
    def at(self) -> KeyPath:
        """Where the entry stands in the config."""
        return "training", self.name

    @property
    def readout(self) -> str:
        """What the result tables call the way it is trained."""
        return _MODES.get(str(self.trained), f"last{self.trained}")

    @property
    def layer(self) -> str:
        """Where the network was cut; empty if it was not."""
        n_blocks = self.trunk.get("n_blocks")
        return f"block{n_blocks}" if n_blocks else self.trunk.get("layer") or ""

    @property
    def objective(self) -> str:
        """Its objectives as a text: ``object:0.3+mse:1``."""
        return "+".join(f"{kind}:{weight:g}" for kind, weight in self.objectives.items())

    def label(self, readout: str) -> str:
        """What a person reads."""
        parts = (self.name, self.model, self.layer, self.weights, readout)
        return " ".join(part for part in (*parts, self.objective) if part)

    def network(self, seed: int) -> dict[str, Any]:
        """:class:`toolkit.models.network_spec.NetworkSpec` as JSON values."""
        n_stages = {"all": None, "none": 0}.get(str(self.trained), self.trained)
        decoder = DecoderSpec.from_plain(self.training.decoder).to_plain()
        return {
            "trunk": self.trunk,
            "decoder": decoder,
            "n_trained_stages": n_stages,
            "n_logits": self.training.n_logits,
            "seed": seed,
        }

    def recipe(self, seed: int) -> dict[str, Any]:
        """:class:`toolkit.training.Recipe` as JSON values."""
        return recipe_of(self.training.recipe, self.objectives, seed)


def recipe_of(
    given: dict[str, Any], objectives: dict[str, float], seed: int, **more: Any
) -> dict[str, Any]:
    """A recipe of a config as a whole one, in JSON values."""
    terms = [{"kind": kind, "weight": weight} for kind, weight in objectives.items()]
    return {**given, "objectives": terms, "seed": seed, **more}


def by_name(objectives: Mapping[Any, float]) -> dict[str, float]:
    """Objectives of a config by their names."""
    return {str(kind): weight for kind, weight in objectives.items()}


def hmo_search(
    network: HmoNetwork, recipe: dict[str, Any], objectives: dict[str, float], seed: int
) -> dict[str, Any]:
    """:class:`toolkit.training.hmo.search.HmoSearch` as JSON values."""
    numbers = network.model_dump(mode="json", exclude=_NOT_OF_THE_SEARCH)
    return {
        **numbers,
        "brief": recipe_of(network.brief, objectives, seed),
        "final": recipe_of(recipe, objectives, seed),
        "seed": seed,
    }
