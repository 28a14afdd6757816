"""A network made ready to run fast: on its device, in the memory order of its convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from toolkit.models import LayerInfo

_MOST_CPU_IMAGES, _MOST_GPU_IMAGES = 32, 256
_ACTIVATIONS_HELD = 4
_MEMORY_SHARE = 0.5


def prepared(
    module: nn.Module, layers: Sequence[LayerInfo], device: torch.device, *, compiles: bool
) -> nn.Module:
    """Move a network to a device, with its two-dimensional convolutions in channels-last order.

    Channels-last changes speed and rounding; torch converts the images by itself. Compiled are, in
    place, the largest parts of the network that hold none of the layers, so that hooks see the
    layers' outputs.
    """
    module = module.to(device).eval()
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        module = module.to(memory_format=torch.channels_last)
    if compiles:
        for part in _parts_without({layer.name for layer in layers}, module):
            part.compile()
    return module


def _parts_without(names: set[str], module: nn.Module, prefix: str = "") -> list[nn.Module]:
    """The largest modules whose own name and descendants' are not among ``names``."""
    parts = []
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if path in names or any(other.startswith(f"{path}.") for other in names):
            parts += _parts_without(names, child, f"{path}.")
        else:
            parts.append(child)
    return parts


def fitting_batch_size(
    layers: Sequence[LayerInfo], device: torch.device, memory_bytes: float
) -> int:
    """Images per forward pass that the memory is likely to hold.

    A forward pass without gradients holds a few activations at a time, together hardly more than
    four times the largest layer that is asked for; a network with far larger ones elsewhere makes
    a GPU run out of memory, upon which :func:`toolkit.features.extract.extract` halves the batch.

    Parameters
    ----------
    layers
        As the network gives them.
    device
        Where it runs. On a CPU, batches beyond 32 gain nothing.
    memory_bytes
        What may be used there.
    """
    most = _MOST_GPU_IMAGES if device.type == "cuda" else _MOST_CPU_IMAGES
    largest_bytes = 4 * max(layer.n_features for layer in layers)
    all_bytes = 4 * sum(layer.n_features for layer in layers)
    image_bytes = _ACTIVATIONS_HELD * largest_bytes + all_bytes
    fitting = max(1, int(_MEMORY_SHARE * memory_bytes / image_bytes))
    return min(most, 2 ** (fitting.bit_length() - 1))
