"""Networks that can run: an architecture with its weights, in evaluation mode."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.download import file_digest
from toolkit.models.architecture import build, timm_config, torchvision_weights
from toolkit.models.checkpoint import (
    load_strictly,
    misfit,
    read_weights,
    require_kinds,
    state_dict_in,
)
from toolkit.models.download import (
    download,
    download_from_hub,
    hash_prefix_of,
    hub_hash_of,
    torch_cache,
)
from toolkit.models.layers import built_on
from toolkit.models.names import require_name
from toolkit.models.preprocessing import Preprocessing, preprocessing_of
from toolkit.models.spec import (
    CheckpointError,
    ModelError,
    ModelSpec,
    WeightsChangedError,
    WeightsUnavailableError,
)


@dataclass
class Network:
    """A module in evaluation mode whose parameters need no gradient, and what its input must be."""

    module: nn.Module
    preprocessing: Preprocessing


def load_network(spec: ModelSpec, device: str | torch.device = "cpu") -> Network:
    """Build a network, give it its weights, and put it on a device.

    Random weights are the library's own initialisation drawn from ``spec.seed``: the same seed
    gives the same weights whatever was drawn before, and the global generator is left as it was.
    Checkpoints must fit exactly; :func:`~toolkit.models.checkpoint.state_dict_in` says which files
    are understood. For timm these are also ``.npz`` for some networks. No library reads the file:
    it is given tensors.

    Raises
    ------
    ModelError
        If the network does not exist, has no pretrained weights, or the checkpoint does not fit.
    WeightsUnavailableError
        If the weights' file is neither here nor to be had over the network.
    WeightsChangedError
        If the weights are not those of ``spec.digest``.
    """
    require_name(spec.library, spec.name)
    _require_planned(spec)
    file = _weights_file(spec)
    with _seeded(spec.seed):
        module = build(spec) if file is None else _build_with(spec, file[0], _read(spec, *file))
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


def require_fit(spec: ModelSpec) -> None:
    """Read a checkpoint; compare names, shapes and kinds of number with those of the network.

    Raises
    ------
    ModelError, WeightsUnavailableError, WeightsChangedError
        As :func:`load_network`.
    """
    path = _checkpoint_path(spec)
    weights = _read(spec, path, spec.digest)
    shapes = weights
    if not isinstance(weights, io.BytesIO):
        shapes = {name: value.to("meta") for name, value in weights.items()}
    try:
        built_on(partial(_build_with, spec, path, shapes), "meta")
    except CheckpointError:  # it may only be that something has no meta implementation
        with _seeded(spec.seed):
            _build_with(spec, path, weights)


def fetch_weights(spec: ModelSpec) -> None:
    """Bring the weights into the cache, so that a machine without network finds them there.

    Raises
    ------
    ModelError, WeightsUnavailableError
        As :func:`load_network`.
    """
    _weights_file(spec)


def _require_planned(spec: ModelSpec) -> None:
    """A library's new version may mean other weights by the same word."""
    if spec.digest and not spec.has_checkpoint and weights_digest(spec) != spec.digest:
        raise WeightsChangedError(
            f"{spec.weights} weights of {spec.library} network {spec.name!r} are "
            f"{weights_digest(spec)} here, but the sweep was planned for {spec.digest}; run the "
            "sweep again to plan it anew, or with the versions of then"
        )


def _weights_file(spec: ModelSpec) -> tuple[Path, str] | None:
    """Where the weights are, and the first digits of the SHA-256 they have, as far as known."""
    if spec.library == "pixels" or spec.weights == "random":
        return None
    if spec.has_checkpoint:
        return _checkpoint_path(spec), spec.digest
    url = torchvision_weights(spec.name).url if spec.library == "torchvision" else ""
    if not url:
        config = _timm_pretrained_config(spec.name)
        if config.hf_hub_id:
            path = download_from_hub(config.hf_hub_id)
            return path, hub_hash_of(path)
        url = config.url
    return download(url, torch_cache(), hash_prefix_of(url)), hash_prefix_of(url)


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


def _read(spec: ModelSpec, path: Path, sha256: str) -> Mapping[str, torch.Tensor] | io.BytesIO:
    """What a library is given of a file: tensors, or the numbers that timm's ``.npz`` hold."""
    content = read_weights(path, sha256)
    if spec.library == "timm" and path.suffix == ".npz":
        return io.BytesIO(content)
    return state_dict_in(content, path)


def _build_with(
    spec: ModelSpec, path: Path, weights: Mapping[str, torch.Tensor] | io.BytesIO
) -> nn.Module:
    if spec.library == "torchvision":
        assert not isinstance(weights, io.BytesIO)
        module = build(spec)
        load_strictly(module, spec.name, path, weights)
        return module
    import timm

    # By timm's own loader: many of its architectures convert the files of earlier versions.
    is_npz = isinstance(weights, io.BytesIO)
    source = {"file" if is_npz else "state_dict": weights, "custom_load": is_npz}
    try:
        module = timm.create_model(spec.name, pretrained=True, pretrained_cfg_overlay=source)
    except Exception as error:  # the converters raise anything on a file of another network
        untrained = built_on(partial(build, spec), "meta")
        raise misfit(spec.name, path, error, untrained, weights) from error
    if not isinstance(weights, io.BytesIO):
        require_kinds(module, spec.name, path, weights)
    for key in source:
        module.pretrained_cfg.pop(key, None)  # it would keep the weights a second time
    return module


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
