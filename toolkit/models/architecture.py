"""Networks without weights: how each library builds one by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from toolkit.models.names import require_name
from toolkit.models.spec import ModelError, ModelSpec

# torchvision's Inceptions rescale their input when they carry trained weights, and have auxiliary
# classifiers that only training uses. Random twins see the same input and lack the same parts.
_INCEPTIONS = ("googlenet", "inception_v3")


class Image(nn.Module):
    """Return the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images, shape (n, 3, height, width), unchanged."""
        return images


class Pixels(nn.Module):
    """The image itself, as the output of one layer named "pixels"."""

    def __init__(self) -> None:
        super().__init__()
        self.pixels = Image()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images, shape (n, 3, height, width), unchanged."""
        return self.pixels(images)


def build(spec: ModelSpec) -> nn.Module:
    """The network with its library's own initialisation, drawn from torch's global generator.

    Raises
    ------
    ModelError
        If the network does not exist.
    """
    require_name(spec.library, spec.name)
    if spec.library == "pixels":
        return Pixels()
    if spec.library == "timm":
        import timm

        return timm.create_model(spec.name)
    import torchvision.models

    return torchvision.models.get_model(spec.name, **_torchvision_arguments(spec))


def _torchvision_arguments(spec: ModelSpec) -> dict[str, Any]:
    if spec.name in _INCEPTIONS:
        is_random = spec.weights == "random"
        return {"transform_input": True, "aux_logits": False, "init_weights": is_random}
    if spec.name.startswith("vit_"):
        return {"image_size": torchvision_weights(spec.name).transforms().crop_size[0]}
    return {}


def torchvision_weights(name: str) -> Any:
    """The default member of a torchvision network's weights enum."""
    import torchvision.models

    return torchvision.models.get_model_weights(name).DEFAULT


def timm_config(name: str) -> Any:
    """Give timm's ``PretrainedCfg`` of a network: input, normalisation, where its weights are.

    Raises
    ------
    ModelError
        If somebody registered the network without any.
    """
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    if config is None:
        raise ModelError(
            f"network {name!r} was registered with timm without saying what its images are: write "
            f"default_cfgs = generate_default_cfgs({{{name!r}: {{'input_size': (3, 224, 224)}}}}) "
            "beside it, as docs/extending.md shows"
        )
    return config
