"""From a picture to what a network's weights expect to see."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from toolkit.models.architecture import timm_config, torchvision_weights
from toolkit.models.names import require_name
from toolkit.models.spec import ModelSpec

PIXELS_PX = 224


@dataclass(frozen=True)
class Preprocessing:
    """Resize, crop and normalise one image as the weights' own evaluation transform does.

    Parameters
    ----------
    input_px
        Height and width of what the network sees.
    resize_px
        Height and width the image is resized towards before the crop; what that means is
        decided by ``crop``.
    crop
        How an image of another shape becomes the input (timm's names).
        "center": its shorter side is resized to ``resize_px`` and the centre is cut out.
        "squash": both sides are resized to ``resize_px``, whatever the aspect ratio, then as above.
        "border": its longer side is resized to ``resize_px`` and the rest filled with the mean.
    interpolation
        "bilinear" or "bicubic"; always antialiased.
    mean, std
        Per channel, for values in [0, 1].
    """

    input_px: tuple[int, int]
    resize_px: tuple[int, int]
    crop: str
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values: part of a task's identity."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    def __call__(self, image: Image.Image | np.ndarray, framed: bool) -> torch.Tensor:
        """Make the network's input of one image.

        Parameters
        ----------
        image
            PIL image in mode RGB, or floats of shape (height, width, 3) in [0, 1], not normalised.
            PIL images are resized by PIL and rounded to 8 bits, as the libraries do; floats stay
            floats.
        framed
            True: the image already is what the network should see, so that it is only resized to
            the input size, and left alone when it has it. False: resize and crop.

        Returns
        -------
        torch.Tensor
            Shape (3, height, width), float32, normalised once.

        Raises
        ------
        TypeError
            If the image is neither of the two kinds.
        """
        picture = _as_picture(image)
        picture = self._resize(picture, self.input_px) if framed else self._frame(picture)
        if isinstance(picture, Image.Image):
            picture = functional.convert_image_dtype(
                functional.pil_to_tensor(picture), torch.float32
            )
        # Cubic interpolation of floats overshoots; PIL clips its own.
        return functional.normalize(picture.clamp(0, 1), list(self.mean), list(self.std))

    def _resize(self, picture: Any, size: tuple[int, ...]) -> Any:
        return functional.resize(
            picture, list(size), InterpolationMode(self.interpolation), antialias=True
        )

    def _frame(self, picture: Any) -> Any:
        if self.crop == "border":
            return self._frame_with_border(picture)
        if self.crop == "squash":
            picture = self._resize(picture, self.resize_px)
        elif self.resize_px[0] == self.resize_px[1]:
            picture = self._resize(picture, self.resize_px[:1])
        else:
            from timm.data.transforms import ResizeKeepRatio

            picture = ResizeKeepRatio(self.resize_px, interpolation=self.interpolation)(picture)
        return functional.center_crop(picture, list(self.input_px))

    def _frame_with_border(self, picture: Any) -> Any:
        from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio

        resize = ResizeKeepRatio(self.resize_px, longest=1.0, interpolation=self.interpolation)
        if isinstance(picture, Image.Image):
            fill = tuple(round(255 * value) for value in self.mean)
            return CenterCropOrPad(self.input_px, fill=fill)(resize(picture))
        # Tensors can be padded with one number only, so the mean is moved to 0 meanwhile.
        mean = torch.tensor(self.mean)[:, None, None]
        return CenterCropOrPad(self.input_px)(resize(picture) - mean) + mean


def _as_picture(image: Image.Image | np.ndarray) -> Image.Image | torch.Tensor:
    if isinstance(image, Image.Image) and image.mode == "RGB":
        return image
    if isinstance(image, np.ndarray) and image.dtype.kind == "f" and image.shape[2:] == (3,):
        return torch.from_numpy(np.ascontiguousarray(image, np.float32)).permute(2, 0, 1)
    found = (
        f"a PIL image in mode {image.mode}"
        if isinstance(image, Image.Image)
        else f"{type(image).__name__} {getattr(image, 'dtype', '')}{getattr(image, 'shape', '')}"
    )
    raise TypeError(f"an image must be PIL RGB or floats (height, width, 3) in [0, 1], not {found}")


def preprocessing_of(spec: ModelSpec) -> Preprocessing:
    """The evaluation transform of the network's default weights; downloads nothing.

    Random weights and checkpoints get the transform of the same network's default weights, so that
    every version of a network sees the same input.

    Raises
    ------
    ModelError
        If the network does not exist.
    """
    require_name(spec.library, spec.name)
    if spec.library == "pixels":
        side = (PIXELS_PX, PIXELS_PX)
        return Preprocessing(side, side, "center", "bilinear", (0.0,) * 3, (1.0,) * 3)
    return _of_torchvision(spec.name) if spec.library == "torchvision" else _of_timm(spec.name)


def _of_torchvision(name: str) -> Preprocessing:
    preset = torchvision_weights(name).transforms()
    return Preprocessing(
        input_px=(preset.crop_size[0],) * 2,
        resize_px=(preset.resize_size[0],) * 2,
        crop="center",
        interpolation=preset.interpolation.value,
        mean=_three(preset.mean),
        std=_three(preset.std),
    )


def _of_timm(name: str) -> Preprocessing:
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=timm_config(name).to_dict())
    height, width = config["input_size"][1:]
    crop_fraction = config["crop_pct"]
    return Preprocessing(
        input_px=(height, width),
        resize_px=(int(height / crop_fraction), int(width / crop_fraction)),
        crop=config["crop_mode"],
        interpolation=config["interpolation"],
        mean=_three(config["mean"]),
        std=_three(config["std"]),
    )


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
