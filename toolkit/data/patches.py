"""What the animal looked at: square patches of images around the gaze."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from toolkit.data.errors import DataError
from toolkit.data.nwb import Display
from toolkit.data.stimuli import Stimuli

# Shapes that differ less than this are the same image at another scale.
_SHAPE_TOLERANCE = 0.02


@dataclass(frozen=True, eq=False)
class Gaze:
    """Where fixations fell; all arrays are (n,).

    Parameters
    ----------
    image
        Index of the image.
    x_deg, y_deg
        From the centre of the image, degrees of visual angle right and up.
    session
        Index of the display that the image was shown on.
    """

    image: np.ndarray
    x_deg: np.ndarray
    y_deg: np.ndarray
    session: np.ndarray


class FixatedPatches(Stimuli):
    """A square patch of the image around each fixation, in the image's own pixels.

    Beyond the edges of the image lies the background. An image file of the shape in which it was
    shown is taken to have been scaled to the size on the screen; one of another shape to have been
    shown pixel for pixel.

    Parameters
    ----------
    images
        The whole images.
    ids
        Id of each fixation.
    gaze
        Where each fell.
    displays
        The displays that ``gaze.session`` refers to.
    patch_deg
        Side of a patch, degrees of visual angle.
    background
        RGB, 0 to 255.
    """

    framed = True

    def __init__(
        self,
        images: Stimuli,
        ids: tuple[str, ...],
        gaze: Gaze,
        displays: tuple[Display, ...],
        patch_deg: float,
        background: tuple[int, ...],
    ) -> None:
        self.ids = ids
        self._images = images
        self._gaze = gaze
        self._displays = displays
        self._patch_deg = patch_deg
        self._background = background
        self._last: tuple[int, Image.Image] | None = None

    def __getitem__(self, index: int) -> Image.Image:
        """Patch of fixation ``index``, mode RGB."""
        image = self._image(int(self._gaze.image[index]))
        px_per_deg = px_of_image_per_deg(image.size, self._displays[self._gaze.session[index]])
        side = max(1, round(self._patch_deg * px_per_deg))
        left = round(image.width / 2 + float(self._gaze.x_deg[index]) * px_per_deg - side / 2)
        top = round(image.height / 2 - float(self._gaze.y_deg[index]) * px_per_deg - side / 2)
        patch = Image.new("RGB", (side, side), self._background)
        patch.paste(image, (-left, -top))
        return patch

    def _image(self, index: int) -> Image.Image:
        """Whole image; consecutive fixations on one decode it once."""
        if self._last is None or self._last[0] != index:
            image = self._images[index]
            if not isinstance(image, Image.Image):
                raise DataError(f"image {self._images.ids[index]!r} is stored as numbers")
            self._last = (index, image)
        return self._last[1]

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know of the images' files."""
        return self._images.remarks()

    def _content(self) -> Iterator[bytes]:
        of_image = [hashlib.sha256(piece).hexdigest() for piece in self._images._content()]
        gaze = self._gaze
        for i in range(len(self)):
            display = self._displays[gaze.session[i]]
            place = [float(gaze.x_deg[i]), float(gaze.y_deg[i]), self._patch_deg]
            shown = [display.size_px, display.px_per_deg, list(self._background)]
            yield json.dumps([of_image[gaze.image[i]], place, shown]).encode()


def px_of_image_per_deg(size_px: tuple[int, int], display: Display) -> float:
    """Pixels of an image file per degree of visual angle, given how it was shown."""
    width, height = size_px
    shown_width, shown_height = display.size_px
    other_shape = abs(width * shown_height / (height * shown_width) - 1) > _SHAPE_TOLERANCE
    return display.px_per_deg * (1.0 if other_shape else width / shown_width)
