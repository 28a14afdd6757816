"""Shallow convolutional networks, to be trained from nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from toolkit.models.network_spec import ShallowTrunk

SHALLOW = {
    "two_block": ShallowTrunk((32, 64)),
    "base": ShallowTrunk((32, 64, 128)),
    "improved": ShallowTrunk((32, 64, 128), normalised=True, dropout=0.2),
    "deeper": ShallowTrunk((32, 64, 128, 256), normalised=True, dropout=0.2),
    "four_block": ShallowTrunk((16, 32, 64, 128)),
}
"""Shallow networks by name; with ``DecoderSpec(pool_px=1)`` they end in global pooling."""


class SoftPool2d(nn.Module):
    """Average over 2 x 2 positions, weighted by the softmax of their values.

    Stergiou et al. 2021, Refining activation downsampling with SoftPool, equations 2 and 3.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool maps (n, channels, height, width) to half their height and width, rounded up."""
        # The largest value of a map cancels from the weights and keeps the exponentials in range.
        weights = (maps - maps.amax(dim=(-2, -1), keepdim=True)).exp() + _TINY
        pooled = nn.functional.avg_pool2d(weights * maps, 2, ceil_mode=True)
        return pooled / nn.functional.avg_pool2d(weights, 2, ceil_mode=True)


# Far below every weight that matters; keeps 0 / 0 out of windows far below the largest value.
_TINY = 1e-20


def pooling(kind: str) -> nn.Module:
    """Pooling over 2 x 2 positions, with windows that reach over the edge where sides are odd."""
    if kind == "max":
        return nn.MaxPool2d(2, ceil_mode=True)
    return nn.AvgPool2d(2, ceil_mode=True) if kind == "average" else SoftPool2d()


class ShallowCNN(nn.Sequential):
    """The blocks of a :class:`~toolkit.models.network_spec.ShallowTrunk`; gives maps.

    Parameters
    ----------
    spec
        Which blocks.
    """

    def __init__(self, spec: ShallowTrunk) -> None:
        inputs = (3, *spec.channels[:-1])
        super().__init__(*(_block(spec, *pair) for pair in zip(inputs, spec.channels, strict=True)))

    def stage_of(self, name: str) -> int:
        """Stage of a module of this network: its block."""
        return int(name.split(".")[0])


def _block(spec: ShallowTrunk, n_inputs: int, n_outputs: int) -> nn.Sequential:
    parts: Sequence[nn.Module | None] = (
        nn.Conv2d(
            n_inputs,
            n_outputs,
            spec.kernel_px,
            padding=spec.kernel_px // 2,
            bias=not spec.normalised,
        ),
        nn.BatchNorm2d(n_outputs) if spec.normalised else None,
        nn.ReLU(inplace=True),
        None if spec.pooling == "none" else pooling(spec.pooling),
        nn.Dropout2d(spec.dropout) if spec.dropout else None,
    )
    return nn.Sequential(*(part for part in parts if part is not None))
