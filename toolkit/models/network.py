"""Networks that can run: an architecture with its weights, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.download import file_digest
from toolkit.models.architecture import build, timm_config, torchvision_weights
from toolkit.models.checkpoint import load_strictly, misfit
from toolkit.models.download import (
    download,
    download_from_hub,
    hash_prefix_of,
    torch_cache,
)
from toolkit.models.names import require_name
from toolkit.models.preprocessing import Preprocessing, preprocessing_of
from toolkit.models.spec import ModelError, ModelSpec, WeightsUnavailableError


@dataclass
class Network:
    """A module in evaluation mode whose parameters need no gradient, and what its input must be."""

    module: nn.Module
    preprocessing: Preprocessing


def load_network(spec: ModelSpec, device: str | torch.device = "cpu") -> Network:
    """Build a network, give it its weights, and put it on a device.

    Random weights are the library's own initialisation drawn from ``spec.seed``: the same seed
    gives the same weights whatever was drawn before, and the global generator is left as it was.
    Checkpoints must fit exactly. For torchvision
    :func:`~toolkit.models.checkpoint.read_checkpoint` says which files are understood; timm's own
    loader reads timm's: the same kinds, ``.npz`` for some networks, and of a training state that
    has them the averaged (EMA) weights.

    Raises
    ------
    ModelError
        If the network does not exist, has no pretrained weights, or the checkpoint does not fit.
    WeightsUnavailableError
        If the weights' file is neither here nor to be had over the network.
    """
    require_name(spec.library, spec.name)
    path = _weights_path(spec)
    with _seeded(spec.seed):
        module = build(spec) if path is None else _build_with(spec, path)
    module.eval().requires_grad_(False)
    return Network(module.to(device), preprocessing_of(spec))


def weights_digest(spec: ModelSpec) -> str:
    """What identifies the weights in a task: two specs with one digest have the same weights.

    "pretrained:" and the tag of the weights; "random", to be read together with ``spec.seed``;
    the SHA-256 of a checkpoint's file; "none" for pixels.

    Raises
    ------
    ModelError, WeightsUnavailableError
        As :func:`load_network`, but nothing is downloaded.
    """
    require_name(spec.library, spec.name)
    if spec.library == "pixels":
        return "none"
    if spec.weights == "random":
        return "random"
    if spec.has_checkpoint:
        return file_digest(_checkpoint_path(spec))
    if spec.library == "torchvision":
        return f"pretrained:{torchvision_weights(spec.name)}"
    config = _timm_pretrained_config(spec.name)
    return f"pretrained:{config.architecture}.{config.tag or ''}".rstrip(".")


def fetch_weights(spec: ModelSpec) -> None:
    """Bring the weights into the cache, so that a machine without network finds them there.

    Raises
    ------
    ModelError, WeightsUnavailableError
        As :func:`load_network`.
    """
    _weights_path(spec)


def _weights_path(spec: ModelSpec) -> Path | None:
    if spec.library == "pixels" or spec.weights == "random":
        return None
    if spec.has_checkpoint:
        return _checkpoint_path(spec)
    if spec.library == "torchvision":
        url = torchvision_weights(spec.name).url
        return download(url, torch_cache(), hash_prefix_of(url))
    config = _timm_pretrained_config(spec.name)
    if config.hf_hub_id:
        return download_from_hub(config.hf_hub_id)
    return download(config.url, torch_cache(), hash_prefix_of(config.url))


def _checkpoint_path(spec: ModelSpec) -> Path:
    path = Path(spec.weights).expanduser()
    if not path.is_file():
        raise WeightsUnavailableError(
            f"weights {spec.weights!r} of {spec.library} network {spec.name!r} is not a file here; "
            'write "pretrained", "random" or the path of a checkpoint'
        )
    return path


def _timm_pretrained_config(name: str) -> Any:
    config = timm_config(name)
    if not config.has_weights:
        raise ModelError(
            f"timm has no pretrained weights for {name!r}; write weights: random, the path of a "
            f"checkpoint, or take a network of timm.list_models(pretrained=True)"
        )
    return config


def _build_with(spec: ModelSpec, path: Path) -> nn.Module:
    if spec.library == "torchvision":
        module = build(spec)
        load_strictly(module, spec.name, path)
        return module
    import timm

    # By timm's own loader: many of its architectures convert the files of earlier versions.
    source = {"file": str(path), "custom_load": path.suffix == ".npz"}
    try:
        return timm.create_model(spec.name, pretrained=True, pretrained_cfg_overlay=source)
    except Exception as error:  # the converters raise anything on a file of another network
        raise misfit(spec.name, path, error) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
