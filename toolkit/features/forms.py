"""In which form a layer's output is kept, as arithmetic: shapes and names, without torch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import Any

from toolkit.models import LayerError, LayerInfo

KINDS = ("full", "average", "max", "cls", "projection", "gram")
DTYPES = ("float32", "float16", "bfloat16")

# Class, distillation and register tokens ahead of a grid of patches: at most so many.
_MOST_PREFIX_TOKENS = 8


@dataclass(frozen=True)
class FeatureForm:
    """What is kept of each layer's output.

    Parameters
    ----------
    kind
        "full": everything, flattened in C order.
        "average", "max": over positions, the pixels of a map or the patch tokens of a sequence
        (class and register tokens are left out); one value per channel.
        "cls": the first token of a sequence that has one beside its patches.
        "projection": a sparse random projection of the flattened output
        (:class:`toolkit.features.projection.SparseProjection`); a layer with no more than
        ``n_dims`` features is kept whole.
        "gram": nothing but the Gram matrix over the images, of everything.
    dtype
        "float32", "float16" (half the bytes, nothing beyond 65504), or "bfloat16" (float32 numbers
        rounded to bfloat16, which any reader of Zarr reads, and compression shrinks).
    n_dims, seed
        Of the projection.
    """

    kind: str = "full"
    dtype: str = "float32"
    n_dims: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """How tables call it: "full", "average-float16", "projection6862"."""
        kind = f"{self.kind}{self.n_dims or ''}" + (f"-seed{self.seed}" if self.seed else "")
        return kind if self.dtype == "float32" else f"{kind}-{self.dtype}"

    def to_dict(self) -> dict[str, Any]:
        """JSON values that identify it."""
        return asdict(self)

    @property
    def stored_dtype(self) -> str:
        """NumPy's name of the numbers on disk."""
        return "float16" if self.dtype == "float16" else "float32"

    @property
    def shuffle(self) -> str:
        """Whether compression groups bytes by significance: the last ones of bfloat16 are zero."""
        return "shuffle" if self.dtype == "bfloat16" else "noshuffle"

    def of_layer(self, layer: LayerInfo) -> LayerInfo:
        """The layer as it is kept.

        Raises
        ------
        LayerError
            If the layer has no positions to pool, or no class token.
        """
        if self.kind in ("full", "gram"):
            return layer
        if self.kind == "projection":
            return layer if not self.projects(layer) else replace(layer, shape=(self.n_dims or 0,))
        if self.kind == "cls" and not n_prefix_tokens(layer.shape):
            raise LayerError(
                f"layer {layer.name!r} has no class token: its shape is {layer.shape}; keep full, "
                "average, max or projection"
            )
        return replace(layer, shape=(layer.shape[channel_axis(layer)],))

    def projects(self, layer: LayerInfo) -> bool:
        """Whether the layer is wide enough to be projected."""
        return self.kind == "projection" and layer.n_features > (self.n_dims or 0)


def channel_axis(layer: LayerInfo) -> int:
    """The axis of channels in one output, from its shape.

    (channels,), (channels, height, width), (height, width, channels) where the first two are equal
    and the last is not, or (tokens, channels).

    Raises
    ------
    LayerError
        If the shape is none of these.
    """
    shape = layer.shape
    if len(shape) == 1:
        return 0
    if len(shape) == 2:
        return 1
    if len(shape) == 3:
        return 2 if shape[0] == shape[1] != shape[2] else 0
    raise LayerError(
        f"layer {layer.name!r} of shape {shape} is neither a map, a sequence nor a vector; keep "
        "full or projection"
    )


def n_prefix_tokens(shape: tuple[int, ...]) -> int:
    """Tokens of a sequence (tokens, channels) ahead of its square grid of patches; 0 for others."""
    if len(shape) != 2:
        return 0
    n_extra = shape[0] - isqrt(shape[0]) ** 2
    return n_extra if n_extra <= _MOST_PREFIX_TOKENS else 0


def johnson_lindenstrauss_dims(n_stimuli: int, eps: float) -> int:
    """Dimensions that keep all squared distances within a factor 1 ± eps.

    4 ln n / (eps²/2 − eps³/3), Dasgupta & Gupta 2003, theorem 2.1, as in
    ``sklearn.random_projection.johnson_lindenstrauss_min_dim``.
    """
    return int(4 * math.log(n_stimuli) / (eps**2 / 2 - eps**3 / 3))
