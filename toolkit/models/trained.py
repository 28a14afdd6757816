"""Networks trained here, as safetensors files that say what they are."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from toolkit.download import file_digest
from toolkit.models.network import Network
from toolkit.models.network_spec import NetworkSpec, TrunkSpec, ZooTrunk
from toolkit.models.preprocessing import Preprocessing
from toolkit.models.spec import ModelError
from toolkit.models.trainable import TrainableNetwork, build_network
from toolkit.models.trunks import trunk_preprocessing

DESCRIPTION_KEY = "toolkit.training"


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
    about
        Whatever else its file says, as JSON values: the recipe, the data, the best epoch.
    """

    network: TrainableNetwork
    spec: NetworkSpec
    neuroid_ids: tuple[str, ...]
    classes: dict[str, tuple[str, ...]]
    about: dict[str, Any]

    @property
    def preprocessing(self) -> Preprocessing:
        """What its images must be."""
        return trunk_preprocessing(self.spec.trunk)

    def trunk(self) -> Network:
        """The trunk alone, as a source of features; modules keep the names of their library."""
        return Network(self.network.trunk.requires_grad_(False), self.preprocessing)


def load_trained(path: Path, device: str | torch.device = "cpu") -> Trained:
    """Read a network that :func:`toolkit.training.save_trained` wrote; nothing is downloaded.

    Raises
    ------
    WeightsFileError
        If the file is not one, or its weights do not fit its description.
    """
    description = read_description(path)
    weights = _read_weights(path)
    spec = NetworkSpec.from_plain(description["network"])
    classes = {kind: tuple(names) for kind, names in description["classes"].items()}
    network = build_network(
        replace(spec, trunk=_untrained(spec.trunk)),
        n_neurons=len(description["neuroid_ids"]),
        n_classes={kind: len(names) for kind, names in classes.items()},
        is_rate=description["is_rate"],
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsFileError(f"{path} does not fit its own description: {error}") from error
    return Trained(
        network=network.to(device).eval(),
        spec=spec,
        neuroid_ids=tuple(description["neuroid_ids"]),
        classes=classes,
        about=description["about"],
    )


def trained_trunk(path: Path) -> TrunkSpec:
    """What the trunk of a trained network is made of, from the head of its file.

    Raises
    ------
    WeightsFileError
        If the file is not one.
    """
    return NetworkSpec.from_plain(read_description(path)["network"]).trunk


def weights_digest_of(path: Path) -> str:
    """SHA-256 (hexadecimal) of the file's content."""
    return file_digest(path)


def read_description(path: Path) -> dict[str, Any]:
    """What the file says of its network.

    Raises
    ------
    WeightsFileError
        If it is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get(DESCRIPTION_KEY)
    except (OSError, SafetensorError) as error:
        raise WeightsFileError(f"{path} cannot be read as safetensors: {error}") from error
    if description is None:
        raise WeightsFileError(
            f"{path} holds weights, but not of a network trained here: it has no "
            f"{DESCRIPTION_KEY!r} in its metadata"
        )
    return json.loads(description)


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _untrained(trunk: TrunkSpec) -> TrunkSpec:
    return replace(trunk, weights="random") if isinstance(trunk, ZooTrunk) else trunk
