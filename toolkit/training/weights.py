"""Trained networks as safetensors files that say what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from toolkit.atomic import atomic_path
from toolkit.models.network import Network
from toolkit.models.network_spec import NetworkSpec, ZooTrunk
from toolkit.models.preprocessing import Preprocessing
from toolkit.models.trainable import TrainableNetwork, build_network
from toolkit.models.trunks import trunk_preprocessing
from toolkit.training.errors import WeightsFileError

_KEY = "toolkit.training"


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


def save_trained(path: Path, trained: Trained) -> None:
    """Write weights and description; the file appears whole or not at all."""
    description = {
        "network": trained.spec.to_plain(),
        "is_rate": trained.network.is_rate,
        "neuroid_ids": trained.neuroid_ids,
        "classes": trained.classes,
        "about": trained.about,
    }
    # Layouts such as channels-last are no part of the format.
    weights = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
    with atomic_path(path, durable=True) as temporary:
        save_file(weights, temporary, metadata={_KEY: json.dumps(description)})


def load_trained(path: Path, device: str | torch.device = "cpu") -> Trained:
    """Read a network that :func:`save_trained` wrote; nothing is downloaded.

    Raises
    ------
    WeightsFileError
        If the file is not one, or its weights do not fit its description.
    """
    description, weights = _read(path)
    spec = NetworkSpec.from_plain(description["network"])
    classes = {kind: tuple(names) for kind, names in description["classes"].items()}
    network = build_network(
        _untrained(spec),
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


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            description = (file.metadata() or {}).get(_KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsFileError(f"{path} cannot be read as safetensors: {error}") from error
    if description is None:
        raise WeightsFileError(
            f"{path} holds weights, but not of a network trained here: it has no {_KEY!r} in its "
            "metadata"
        )
    return json.loads(description), weights


def _untrained(spec: NetworkSpec) -> NetworkSpec:
    if isinstance(spec.trunk, ZooTrunk):
        return replace(spec, trunk=replace(spec.trunk, weights="random"))
    return spec
