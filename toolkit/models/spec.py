"""The room's values and errors: a network, a layer, and what can be wrong with asking for one."""

from __future__ import annotations

import math
from dataclasses import dataclass

LIBRARIES = ("torchvision", "timm", "pixels")


class ModelError(ValueError):
    """A network, layer or checkpoint was asked for that does not exist or does not fit."""

    error_class = "bad_model"


class LayerError(ModelError):
    """A layer was asked for that the network does not have."""

    error_class = "bad_layer"


class CheckpointError(ModelError):
    """A file of weights that cannot be read, or is of another network."""


class WeightsUnavailableError(OSError):
    """Weights that exist elsewhere could not be had here: no file, no network, or a wrong hash."""

    error_class = "weights_unavailable"


class WeightsChangedError(WeightsUnavailableError):
    """Weights that are not those that were planned."""

    error_class = "data_changed"


@dataclass(frozen=True)
class ModelSpec:
    """One network with one set of weights.

    Parameters
    ----------
    library
        "torchvision", "timm" or "pixels" (the image itself, as one layer).
    name
        The library's own name for the network; for timm also with a weights tag
        ("resnet50.a1_in1k").
    weights
        "pretrained" (the library's default weights, or the tag's), "random", or the path of a
        checkpoint. Pixels have no weights.
    seed
        Decides random weights; nothing else.
    digest
        What :func:`toolkit.models.weights_digest` gave when it was planned: other weights are not
        loaded. Empty: whatever the name or path stands for.

    Raises
    ------
    ModelError
        If the library is none of the three. The name is checked where it is first used.
    """

    library: str
    name: str
    weights: str = "random"
    seed: int = 0
    digest: str = ""

    def __post_init__(self) -> None:
        require_library(self.library)

    @property
    def has_checkpoint(self) -> bool:
        """Whether the weights are a file of the user's own."""
        return self.weights not in ("pretrained", "random")


@dataclass(frozen=True)
class LayerInfo:
    """What one layer gives for one image.

    Parameters
    ----------
    name
        Path of the module inside the network: "layer1.0.conv1".
    shape
        Shape of its output without the batch axis.
    index
        Position among the traced layers in execution order, from 0.
    kind
        Class of the module: "Conv2d".
    depth
        Relative depth: ``index`` over that of the last traced layer, so 0 for the first and 1 for
        the last layer in execution order. All traced layers count, containers and classifier too.
    """

    name: str
    shape: tuple[int, ...]
    index: int
    kind: str = ""
    depth: float = 0.0

    @property
    def n_features(self) -> int:
        """Number of values per image."""
        return math.prod(self.shape)


def require_library(library: str) -> None:
    """Raise :class:`ModelError` unless ``library`` is one of :data:`LIBRARIES`."""
    if library not in LIBRARIES:
        raise ModelError(f"unknown library {library!r}: write one of {', '.join(LIBRARIES)}")
