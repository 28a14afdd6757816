"""Which networks a config means, and their layers: asked of the libraries once, then remembered.

Answering imports torch and builds each network without memory (seconds); the answers go to a
small JSON file in the run folder, so that planning the same sweep again imports nothing heavy.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from toolkit import models
from toolkit.atomic import atomic_path
from toolkit.models import LayerInfo
from toolkit.task import json_digest

PRETRAINED_OR_RANDOM = ("pretrained", "random")


@dataclass(frozen=True)
class CatalogModel:
    """One network as a config names it.

    Parameters
    ----------
    name
        Name within its library.
    weights_digest
        What decides the weights, the seed apart.
    preprocessing
        The preprocessing that belongs to the weights, as JSON values.
    layers
        The chosen layers in execution order.
    """

    name: str
    weights_digest: str
    preprocessing: dict[str, Any]
    layers: tuple[LayerInfo, ...]


class Catalog:
    """Resolves names, patterns and layers; starts from the answers in ``path``, if there."""

    def __init__(self, path: Path) -> None:
        self._answers = _read_answers(path)

    def resolve(
        self, library: str, pattern: str, weights: str, layers: str | tuple[str, ...]
    ) -> list[CatalogModel]:
        """Return the networks matching ``pattern``, each with the requested layers.

        Raises
        ------
        toolkit.models.ModelError
            If no network or no layer matches; the message lists the nearest names.
        """
        if weights not in PRETRAINED_OR_RANDOM:
            return self._ask(library, pattern, weights, layers)
        key = json_digest([library, pattern, weights, layers])
        if key not in self._answers:
            self._answers[key] = [asdict(m) for m in self._ask(library, pattern, weights, layers)]
        return [_model_from_json(raw) for raw in self._answers[key]]

    @staticmethod
    def _ask(
        library: str, pattern: str, weights: str, layers: str | tuple[str, ...]
    ) -> list[CatalogModel]:
        request = layers if isinstance(layers, str) else list(layers)
        found = []
        for name in models.match_names(library, pattern):
            spec = models.ModelSpec(library=library, name=name, weights=weights)
            chosen = models.select_layers(models.trace_layers(spec), request, spec)
            found.append(
                CatalogModel(
                    name=name,
                    weights_digest=models.weights_digest(spec),
                    preprocessing=models.preprocessing_of(spec).to_dict(),
                    layers=tuple(chosen),
                )
            )
        return found

    def save(self, path: Path) -> None:
        """Remember every answer given so far."""
        text = json.dumps({"versions": _library_versions(), "answers": self._answers})
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _library_versions() -> dict[str, str]:
    names = ("it-toolkit", "torch", "torchvision", "timm")
    return {name: importlib.metadata.version(name) for name in names}


def _read_answers(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return dict(stored["answers"]) if stored["versions"] == _library_versions() else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _model_from_json(raw: dict[str, Any]) -> CatalogModel:
    layers = (
        LayerInfo(one["name"], tuple(one["shape"]), one["index"], depth=one["depth"])
        for one in raw["layers"]
    )
    return CatalogModel(raw["name"], raw["weights_digest"], raw["preprocessing"], tuple(layers))
