"""How much of an image a preprocessing leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def share_seen(preprocessing: Mapping[str, Any], size_px: tuple[int, int], framed: bool) -> float:
    """Share of an image's area that a network sees.

    Parameters
    ----------
    preprocessing
        :meth:`toolkit.models.Preprocessing.to_dict` of the network.
    size_px
        Height and width of the image.
    framed
        As for :class:`toolkit.models.Preprocessing`: such an image is resized whole.

    Returns
    -------
    float
        In (0, 1]; true up to the rounding of sides to whole pixels.
    """
    if framed:
        return 1.0
    target, crop = preprocessing["resize_px"], preprocessing["crop"]
    scales = [side / of for side, of in zip(target, size_px, strict=True)]
    if crop != "squash":
        scales = [min(scales) if crop == "border" else max(scales)] * 2
    share = 1.0
    for kept, side, scale in zip(preprocessing["input_px"], size_px, scales, strict=True):
        share *= min(1.0, kept / (side * scale))
    return share
