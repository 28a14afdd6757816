"""From a trunk's output to the responses of neurons, or to classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from toolkit.models.network_spec import DecoderSpec
from toolkit.models.spec import ModelError


class DecoderTooLargeError(ModelError):
    """A decoder that would not fit in memory while it is trained."""

    error_class = "decoder_too_large"


class AveragePool(nn.Module):
    """Maps averaged to a few positions.

    Parameters
    ----------
    side_px
        Positions on a side of what is left.
    """

    def __init__(self, side_px: int) -> None:
        super().__init__()
        self.side_px = side_px

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Pool (n, channels, height, width) or (n, height, width, channels)."""
        maps = _channels_first(features)
        if self.side_px == 1:
            return maps.mean(dim=(-2, -1))
        return nn.functional.adaptive_avg_pool2d(maps, self.side_px)


class Factorised(nn.Module):
    """A spatial mask times weights over channels, for each neuron.

    Klindt et al. 2017, Neural system identification for large populations: separating "what" and
    "where", equation 3, without its penalties.

    Parameters
    ----------
    n_channels, n_positions
        Of the trunk's maps.
    n_neurons
        Number of outputs.
    """

    def __init__(self, n_channels: int, n_positions: int, n_neurons: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.empty(n_neurons, n_positions))
        self.channel_weights = nn.Parameter(torch.empty(n_neurons, n_channels))
        self.bias = nn.Parameter(torch.zeros(n_neurons))
        # Every position counts about the same at first, as in global average pooling.
        nn.init.normal_(self.mask, 1 / n_positions, 0.1 / n_positions)
        nn.init.normal_(self.channel_weights, 0, 1 / math.sqrt(n_channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Responses (n, n_neurons) from maps (n, channels, height, width)."""
        maps = _channels_first(features).flatten(2)
        seen = maps @ self.mask.T  # (n, channels, n_neurons)
        return (seen * self.channel_weights.T).sum(dim=1) + self.bias


def build_decoder(spec: DecoderSpec, shape: Sequence[int], n_outputs: int) -> nn.Module:
    """The decoder, with weights drawn from torch's global generator.

    Parameters
    ----------
    spec
        Which decoder.
    shape
        Of the trunk's output for one image.
    n_outputs
        Neurons or classes.

    Raises
    ------
    ModelError
        If it needs maps, and the trunk gives none.
    """
    if (spec.kind == "factorised" or spec.pool_px) and len(shape) != 3:
        raise ModelError(
            f"the trunk's output has shape {tuple(shape)} for one image, but a decoder that pools "
            "or factorises space needs maps (channels, height, width): name a convolutional layer "
            "of the trunk, or take a dense decoder without pool_px"
        )
    if spec.kind == "factorised":
        n_channels, height, width = _channels_first_shape(shape)
        return Factorised(n_channels, height * width, n_outputs)
    return _dense(spec, shape, n_outputs)


def decoder_bytes(spec: DecoderSpec, shape: Sequence[int], n_outputs: int) -> int:
    """Bytes of a decoder's weights in float32, known without allocating them.

    Raises
    ------
    ModelError
        If it needs maps, and the trunk gives none; or if there is no number for its weights.
    """
    try:
        with torch.device("meta"):
            decoder = build_decoder(spec, shape, n_outputs)
    except (OverflowError, RuntimeError) as error:
        raise ModelError(f"a decoder of this size cannot be built: {error}") from error
    return sum(4 * parameter.numel() for parameter in decoder.parameters())


def require_room(
    spec: DecoderSpec, shape: Sequence[int], n_outputs: int, *, memory_bytes: int, n_copies: int
) -> None:
    """Refuse a decoder that will not fit.

    Parameters
    ----------
    spec, shape, n_outputs
        As in :func:`build_decoder`.
    memory_bytes
        What there is.
    n_copies
        Numbers kept per weight in training: the weight, its gradient, the optimizer's averages,
        and the best so far.

    Raises
    ------
    DecoderTooLargeError
        If the copies together need more than there is.
    """
    weights_bytes = decoder_bytes(spec, shape, n_outputs)
    if n_copies * weights_bytes > memory_bytes:
        raise DecoderTooLargeError(
            f"the decoder from {' x '.join(map(str, shape))} features to {n_outputs} neurons has "
            f"{weights_bytes:,} bytes of weights and needs {n_copies * weights_bytes:,} bytes "
            f"while it is trained ({n_copies} numbers per weight), but there are "
            f"{memory_bytes:,}: write decoder.pool_px, fewer units in decoder.hidden, or "
            "kind: factorised"
        )


def _dense(spec: DecoderSpec, shape: Sequence[int], n_outputs: int) -> nn.Sequential:
    parts: list[nn.Module] = [nn.Flatten()]
    n_inputs = math.prod(shape)
    if spec.pool_px:
        parts.insert(0, AveragePool(spec.pool_px))
        n_inputs = _channels_first_shape(shape)[0] * spec.pool_px**2
    if not spec.hidden and spec.dropout:
        parts.append(nn.Dropout(spec.dropout))
    for width in spec.hidden:
        parts += [nn.Linear(n_inputs, width), nn.ReLU(inplace=True)]
        if spec.dropout:
            parts.append(nn.Dropout(spec.dropout))
        n_inputs = width
    return nn.Sequential(*parts, nn.Linear(n_inputs, n_outputs))


def _is_channels_last(shape: Sequence[int]) -> bool:
    """Whether maps are (height, width, channels), as some transformers give them."""
    return shape[0] == shape[1] != shape[2]


def _channels_first_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = shape
    return (third, first, second) if _is_channels_last(shape) else (first, second, third)


def _channels_first(features: torch.Tensor) -> torch.Tensor:
    is_last = _is_channels_last(features.shape[1:])
    return features.permute(0, 3, 1, 2) if is_last else features
