"""Which networks a config means, and their layers: asked of the libraries once, then remembered.

Answering imports torch and builds each network without memory (seconds); the answers go to a
small JSON file in the run folder, so that planning the same sweep again imports nothing heavy.
"""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import models
from toolkit.atomic import atomic_path
from toolkit.download import file_digest
from toolkit.models import LayerInfo
from toolkit.task import json_digest

if TYPE_CHECKING:
    from toolkit.models.network_spec import TrunkSpec


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


@dataclass(frozen=True)
class CatalogTrunk:
    """What planning needs of a network that is to be trained.

    Parameters
    ----------
    shape
        Of its output for one image.
    n_stages
        Stages with weights.
    """

    shape: tuple[int, ...]
    n_stages: int


@dataclass(frozen=True)
class TrainedFile:
    """The file of a trained network.

    Parameters
    ----------
    trunk
        A :data:`toolkit.models.network_spec.TrunkSpec` as JSON values.
    digest
        SHA-256 of the file.
    images
        As of :class:`toolkit.models.trained.Trained`.
    """

    trunk: dict[str, Any]
    digest: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class _Named:
    library: str
    name: str


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
            If no network or no layer matches; the message lists the nearest names. Also if a
            checkpoint cannot be read, or does not fit.
        """
        key = json_digest([library, pattern, layers])
        if key not in self._answers:
            self._answers[key] = [asdict(one) for one in self._ask(library, pattern, layers)]
        return [
            replace(one, weights_digest=self.weights_digest(library, one.name, weights))
            for one in map(_model_from_json, self._answers[key])
        ]

    def names(self, library: str, pattern: str) -> list[str]:
        """The networks that a name or pattern stands for.

        Raises
        ------
        toolkit.models.ModelError
            If there is none; the message lists the nearest names.
        """
        key = json_digest(["names", library, pattern])
        if key not in self._answers:
            self._answers[key] = [{"name": name} for name in models.match_names(library, pattern)]
        return [answer["name"] for answer in self._answers[key]]

    def weights_digest(self, library: str, name: str, weights: str) -> str:
        """What decides a network's weights, the seed apart; of a checkpoint its content.

        A checkpoint is hashed each time; whether that content fits the network is remembered.

        Raises
        ------
        toolkit.models.ModelError, toolkit.models.WeightsUnavailableError
            As :func:`toolkit.models.weights_digest` and :func:`toolkit.models.require_fit`.
        """
        spec = models.ModelSpec(library, name, weights)
        if spec.has_checkpoint:
            digest = models.weights_digest(spec)
            key = json_digest(["fits", library, name, digest])
            if key not in self._answers:
                models.require_fit(replace(spec, digest=digest))
                self._answers[key] = []
            return digest
        key = json_digest(["weights", library, name, weights])
        if key not in self._answers:
            self._answers[key] = [{"digest": models.weights_digest(spec)}]
        return str(self._answers[key][0]["digest"])

    def trunk(self, trunk: dict[str, Any]) -> CatalogTrunk:
        """What a :data:`toolkit.models.network_spec.TrunkSpec`, as JSON values, gives.

        Raises
        ------
        toolkit.models.ModelError
            If it does not exist, cannot be cut as asked or does not run.
        """
        trunk = _without_weights(trunk)
        key = json_digest(["trunk", trunk])
        if key not in self._answers:
            from toolkit.models.trunks import n_trunk_stages, trunk_shape

            spec = trunk_of(trunk)
            answer = {"shape": list(trunk_shape(spec)), "n_stages": n_trunk_stages(spec)}
            self._answers[key] = [answer]
        (raw,) = self._answers[key]
        return CatalogTrunk(tuple(raw["shape"]), raw["n_stages"])

    def trained(
        self, trunk: dict[str, Any], weights_digest: str, named: str, layers: str | tuple[str, ...]
    ) -> CatalogModel:
        """The requested layers of a trunk that has been trained, or will be.

        Parameters
        ----------
        trunk
            A :data:`toolkit.models.network_spec.TrunkSpec` as JSON values.
        weights_digest
            What decides the weights.
        named
            Its name in the results.
        layers
            As for :meth:`resolve`.

        Raises
        ------
        toolkit.models.ModelError
            As :meth:`trunk`, or if it has no such layer.
        """
        trunk = _without_weights(trunk)
        key = json_digest(["trained", trunk, layers])
        if key not in self._answers:
            from toolkit.models.trunks import trace_trunk, trunk_preprocessing

            spec, request = trunk_of(trunk), layers if isinstance(layers, str) else list(layers)
            library = trunk.get("library", trunk["kind"])
            chosen = models.select_layers(trace_trunk(spec), request, _Named(library, named))
            found = CatalogModel(named, "", trunk_preprocessing(spec).to_dict(), tuple(chosen))
            self._answers[key] = [asdict(found)]
        (raw,) = self._answers[key]
        return replace(_model_from_json(raw), name=named, weights_digest=weights_digest)

    def trained_file(self, path: Path) -> TrainedFile:
        """A network that another sweep trained; it is hashed each time.

        Parameters
        ----------
        path
            Its file, in a folder of the name of the task that trained it.

        Raises
        ------
        toolkit.models.ModelError, toolkit.models.WeightsUnavailableError
            If there is none, it cannot be read, or it is that of another task.
        """
        if not path.is_file():
            raise models.WeightsUnavailableError(f"there is no trained network {path}")
        digest = file_digest(path)
        key = json_digest(["trained file", digest])
        if key not in self._answers:
            from toolkit.models.trained import load_trained

            trained = load_trained(path, sha256=digest)
            answer = {"trunk": trained.spec.trunk.to_plain(), "images": trained.images}
            self._answers[key] = [{**answer, "task": trained.task}]
        (raw,) = self._answers[key]
        if raw["task"] != path.parent.name:
            run = path.parents[2]
            meant = f"; or write run:{run / raw['task']}, if that is meant" if raw["task"] else ""
            raise models.ModelError(
                f"{path} is the network of {raw['task'] or 'no task'}, not of {path.parent.name}: "
                f"remove {run / 'results' / path.parent.name}.parquet and run that sweep again to "
                f"train it anew{meant}"
            )
        return TrainedFile(raw["trunk"], digest, tuple(raw["images"]))

    def require_start(self, path: Path, digest: str, trunk: dict[str, Any]) -> None:
        """Look whether a trunk has the names and shapes of a trained one, to start from it.

        Raises
        ------
        toolkit.models.ModelError, toolkit.models.WeightsUnavailableError
            If not, or the file cannot be read.
        """
        trunk = _without_weights(trunk)
        key = json_digest(["start", digest, trunk])
        if key not in self._answers:
            from toolkit.models.trained import load_trained, require_same_weights

            require_same_weights(load_trained(path, sha256=digest), path, trunk_of(trunk))
            self._answers[key] = []

    def decoder_bytes(self, decoder: dict[str, Any], shape: tuple[int, ...], n_outputs: int) -> int:
        """Bytes of a :class:`toolkit.models.network_spec.DecoderSpec`'s weights.

        Raises
        ------
        toolkit.models.ModelError
            If it needs maps, and the shape is not that of any.
        """
        key = json_digest(["decoder", decoder, shape, n_outputs])
        if key not in self._answers:
            from toolkit.models.decoders import decoder_bytes
            from toolkit.models.network_spec import DecoderSpec

            n_bytes = decoder_bytes(DecoderSpec.from_plain(decoder), shape, n_outputs)
            self._answers[key] = [{"bytes": n_bytes}]
        return int(self._answers[key][0]["bytes"])

    @staticmethod
    def _ask(library: str, pattern: str, layers: str | tuple[str, ...]) -> list[CatalogModel]:
        request = layers if isinstance(layers, str) else list(layers)
        found = []
        for name in models.match_names(library, pattern):
            spec = models.ModelSpec(library, name)
            chosen = models.select_layers(models.trace_layers(spec), request, spec)
            found.append(
                CatalogModel(
                    name=name,
                    weights_digest="",
                    preprocessing=models.preprocessing_of(spec).to_dict(),
                    layers=tuple(chosen),
                )
            )
        return found

    def save(self, path: Path) -> None:
        """Remember every answer given so far."""
        content = {"versions": _library_versions(), "answers": self._answers}
        text = json.dumps({**content, "sha256": json_digest(content)})
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def trunk_of(plain: dict[str, Any]) -> TrunkSpec:
    """A trunk from JSON values; what is trained has the layers of its untrained twin.

    Raises
    ------
    toolkit.models.ModelError
        If a key or value is wrong.
    """
    from toolkit.models.network_spec import NetworkSpec

    return NetworkSpec.from_plain({"trunk": plain}).trunk


def _without_weights(trunk: dict[str, Any]) -> dict[str, Any]:
    """Shapes and layers do not depend on them."""
    return {**trunk, "weights": "random", "digest": ""} if trunk["kind"] == "zoo" else trunk


@cache
def _library_versions() -> dict[str, str]:
    names = ("it-toolkit", "torch", "torchvision", "timm")
    return {name: importlib.metadata.version(name) for name in names}


def _read_answers(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("sha256") != json_digest(stored):
            return {}
        return dict(stored["answers"]) if stored["versions"] == _library_versions() else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _model_from_json(raw: dict[str, Any]) -> CatalogModel:
    layers = (
        LayerInfo(one["name"], tuple(one["shape"]), one["index"], depth=one["depth"])
        for one in raw["layers"]
    )
    return CatalogModel(raw["name"], raw["weights_digest"], raw["preprocessing"], tuple(layers))
