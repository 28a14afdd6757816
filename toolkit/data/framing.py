"""Images of any size on one canvas: padded, cropped, letterboxed, or placed by visual angle."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image

from toolkit.data.errors import DataError
from toolkit.data.stimuli import Stimuli

FRAME_MODES = ("pad", "crop", "letterbox")
MID_GREY = (128, 128, 128)


class Frame(Protocol):
    """Puts an image on a canvas."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return a canvas with the image on it; :class:`DataError` if it does not go on it."""

    def key(self) -> str:
        """Everything that decides the result, as text."""


@dataclass(frozen=True)
class SquareFrame:
    """Make images of different sizes and shapes square.

    Parameters
    ----------
    mode
        ``"pad"``: the image at its own scale in the middle of the canvas. ``"crop"``: its middle.
        ``"letterbox"``: all of it, scaled to touch two sides of the canvas.
    size_px
        Side of the canvas; if left out, the image's longer side (``pad``) or its shorter one
        (``crop``). ``letterbox`` needs it.
    background
        RGB, 0 to 255, of what the image does not cover.

    Raises
    ------
    DataError
        If the mode is unknown, the size is missing or not positive, or the background no colour.
    """

    mode: str
    size_px: int | None = None
    background: Sequence[int] = MID_GREY

    def __post_init__(self) -> None:
        if self.mode not in FRAME_MODES:
            raise DataError(f"frame mode is {self.mode!r}; write one of {', '.join(FRAME_MODES)}")
        if self.size_px is None and self.mode == "letterbox":
            raise DataError("frame mode 'letterbox' needs size_px, the side of the canvas")
        if self.size_px is not None and self.size_px < 1:
            raise DataError(f"frame size_px is {self.size_px}; write at least 1")
        require_colour(self.background)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return the square canvas, mode RGB."""
        if self.mode == "letterbox":
            return self._letterbox(image)
        if self.mode == "pad":
            side = self.size_px or max(image.size)
            if side < max(image.size):
                raise DataError(
                    f"an image of {image.width} × {image.height} pixels does not go on a canvas of "
                    f"{side}; raise frame size_px, or write mode letterbox or crop"
                )
        else:
            side = self.size_px or min(image.size)
            if side > min(image.size):
                raise DataError(
                    f"no {side} pixels can be cropped from an image of {image.width} × "
                    f"{image.height}; lower frame size_px, or write mode pad or letterbox"
                )
        return centred(image, (side, side), self.background)

    def _letterbox(self, image: Image.Image) -> Image.Image:
        side = self.size_px or 0
        scale = side / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        scaled = image.resize(size, Image.Resampling.BICUBIC)
        return centred(scaled, (side, side), self.background)

    def key(self) -> str:
        """Everything that decides the result, as text."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class VisualField:
    """Show an image of known visual angle in a field of another, as Brain-Score places it.

    A larger field is filled up with the background, a smaller one crops the middle of the image;
    pixels per degree stay as they are.

    Parameters
    ----------
    image_deg
        Width of the image when it was shown to the animal, degrees of visual angle.
    field_deg
        Width of what the network sees, degrees.
    background
        RGB, 0 to 255.
    """

    image_deg: float
    field_deg: float
    background: Sequence[int] = MID_GREY

    def __post_init__(self) -> None:
        if not (self.image_deg > 0 and self.field_deg > 0):
            raise DataError(
                f"an image of {self.image_deg}° in a field of {self.field_deg}°: write both above 0"
            )
        require_colour(self.background)

    def __call__(self, image: Image.Image) -> Image.Image:
        """Return what a field of this width shows."""
        width, height = np.round(np.array(image.size) * self.field_deg / self.image_deg).astype(int)
        return centred(image, (max(1, int(width)), max(1, int(height))), self.background)

    def key(self) -> str:
        """Everything that decides the result, as text."""
        return json.dumps(asdict(self), sort_keys=True)


class FramedStimuli(Stimuli):
    """Images on a canvas; they show exactly what a network should see.

    Parameters
    ----------
    images
        The images themselves, giving PIL images.
    frame
        Puts them on the canvas.
    """

    framed = True

    def __init__(self, images: Stimuli, frame: Frame) -> None:
        self.ids = images.ids
        self._images = images
        self._frame = frame

    def __getitem__(self, index: int) -> Image.Image:
        """Canvas with image ``index``, mode RGB."""
        image = self._images[index]
        if not isinstance(image, Image.Image):
            raise DataError(f"image {self.ids[index]!r} is stored as numbers and cannot be framed")
        try:
            return self._frame(image)
        except DataError as error:
            raise DataError(f"image {self.ids[index]!r}: {error}") from error

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know of the images' files."""
        return self._images.remarks()

    def _content(self) -> Iterator[bytes | memoryview]:
        key = self._frame.key().encode()
        for piece in self._images._content():
            yield b"".join((key, piece))


def framed_as(images: Stimuli, frame: Mapping[str, Any] | None) -> Stimuli:
    """Put images on the canvas that the parameters of :class:`SquareFrame` describe, if any."""
    return images if frame is None else FramedStimuli(images, SquareFrame(**frame))


def centred(image: Image.Image, size: tuple[int, int], background: Sequence[int]) -> Image.Image:
    """Canvas of ``size`` (width, height) whose centre is the image's; what juts out is cut off."""
    canvas = Image.new("RGB", size, tuple(background))
    corner = np.round((np.array(size) - image.size) / 2).astype(int)
    canvas.paste(image, (int(corner[0]), int(corner[1])))
    return canvas


def require_colour(background: Sequence[int]) -> None:
    """Raise :class:`DataError` unless this is an RGB colour."""
    if len(background) != 3 or not all(0 <= value <= 255 for value in background):
        raise DataError(f"background is {list(background)}; write three numbers from 0 to 255")
