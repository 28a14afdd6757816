"""Networks trained here, as safetensors files that say what they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from toolkit.models.checkpoint import read_weights
from toolkit.models.network import Network
from toolkit.models.network_spec import NetworkSpec, TrunkSpec, ZooTrunk
from toolkit.models.preprocessing import Preprocessing
from toolkit.models.spec import ModelError, WeightsChangedError
from toolkit.models.trainable import TrainableNetwork, build_network
from toolkit.models.trunks import trunk_name, trunk_preprocessing, untrained_trunk

DESCRIPTION_KEY = "toolkit.training"
DIGEST_KEY = "sha256"
_N_NAMED = 5


class WeightsFileError(ModelError):
    """A file that does not hold a trained network."""

    error_class = "bad_weights"


@dataclass(frozen=True)
class Trained:
    """A trained network and what its outputs mean.

    Parameters
    ----------
    network
        In evaluation mode.
    spec
        What it is made of.
    neuroid_ids
        Neurons, in the order of the predicted responses; empty without a decoder.
    classes
        Kind of label → class names, in the order of the logits.
    images
        Of every image it was trained on, or what it started from was: what
        :meth:`toolkit.data.Stimuli.image_digests` gives. Images that epochs were compared on count.
    about
        Whatever else its file says, as JSON values: the recipe, the data, the best epoch.
    task
        Id of the task whose network it is; empty if it is that of none.
    """

    network: TrainableNetwork
    spec: NetworkSpec
    neuroid_ids: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]
    images: tuple[str, ...]
    about: dict[str, Any]
    task: str = ""

    @property
    def preprocessing(self) -> Preprocessing:
        """What its images must be."""
        return trunk_preprocessing(self.spec.trunk)

    def trunk(self) -> Network:
        """The trunk alone, as a source of features; modules keep the names of their library."""
        return Network(self.network.trunk.requires_grad_(False), self.preprocessing)


def load_trained(
    path: Path, device: str | torch.device = "cpu", sha256: str = "", task: str = ""
) -> Trained:
    """Read a network that :func:`toolkit.training.save_trained` wrote; nothing is downloaded.

    Parameters
    ----------
    path
        The file.
    device
        Where the network is to be.
    sha256
        The hash that the file must have, hexadecimal; empty for any.
    task
        Id of the task whose network it must be; empty for any.

    Raises
    ------
    WeightsFileError
        If the file is not one, is not as it was written, or its weights do not fit its
        description.
    WeightsChangedError
        If it has another hash, or is the network of another task.
    """
    content = read_weights(path, sha256)
    try:
        weights = safetensors.torch.load(content)
    except Exception as error:  # broken bytes raise anything
        raise WeightsFileError(
            f"{path} is no network trained here: it is damaged, cut off, or a file of another kind"
        ) from error
    description = _description(content, path, weights)
    if task and description["task"] != task:
        raise WeightsChangedError(
            f"{path} is the network of {description['task'] or 'no task'}, not of {task}"
        )
    try:
        return _trained(description, weights, device)
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise WeightsFileError(f"{path} does not fit its own description: {first}") from error


def _trained(
    description: dict[str, Any], weights: dict[str, torch.Tensor], device: str | torch.device
) -> Trained:
    spec = NetworkSpec.from_plain(description["network"])
    classes = {kind: tuple(names) for kind, names in description["classes"].items()}
    network = build_network(
        replace(spec, trunk=_untrained(spec.trunk)),
        n_neurons=len(description["neuroid_ids"]),
        n_classes={kind: len(names) for kind, names in classes.items()},
        is_rate=description["is_rate"],
    )
    network.load_state_dict(weights)
    return Trained(
        network=network.to(device).eval(),
        spec=spec,
        neuroid_ids=tuple(description["neuroid_ids"]),
        classes=classes,
        images=tuple(description["images"]),
        about=description["about"],
        task=description["task"],
    )


def require_same_weights(trained: Trained, path: Path, trunk: TrunkSpec) -> None:
    """Look whether a trunk can start from the weights of a trained network's.

    Raises
    ------
    ModelError
        If it lacks some, or has them in another shape.
    """
    wanted = {name: value.shape for name, value in trained.network.trunk.state_dict().items()}
    own = {name: value.shape for name, value in untrained_trunk(trunk).state_dict().items()}
    other = [name for name, shape in wanted.items() if own.get(name) != shape]
    if other:
        raise ModelError(
            f"{path} holds {trunk_name(trained.spec.trunk)}, and {len(other)} of its {len(wanted)} "
            f"weights have no counterpart in {trunk_name(trunk)} ({', '.join(other[:_N_NAMED])}); "
            "write the network, and the cut, that it was trained with"
        )


def metadata_in(content: bytes) -> dict[str, str]:
    """What a safetensors file says beside its weights."""
    n_bytes = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + n_bytes]).get("__metadata__", {})
    return metadata


def content_digest(description: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 (hexadecimal) of a file's description and of its weights by their names."""
    sha = hashlib.sha256(json.dumps(description).encode())
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()


def _description(content: bytes, path: Path, weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    said = metadata_in(content).get(DESCRIPTION_KEY)
    if said is None:
        raise WeightsFileError(
            f"{path} holds weights, but not of a network trained here: it has no "
            f"{DESCRIPTION_KEY!r} in its metadata"
        )
    try:
        description = dict(json.loads(said))
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsFileError(f"{path}: its {DESCRIPTION_KEY!r} is damaged ({error})") from error
    if description.pop(DIGEST_KEY, None) != content_digest(description, weights):
        raise WeightsFileError(
            f"{path} is not as it was written, so that it may hold other weights or have seen "
            "other images than it says; train it again"
        )
    return description


def _untrained(trunk: TrunkSpec) -> TrunkSpec:
    return replace(trunk, weights="random", digest="") if isinstance(trunk, ZooTrunk) else trunk
