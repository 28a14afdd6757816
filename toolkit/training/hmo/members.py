"""Briefly trained modules as files, so that other jobs choose among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors.torch import save_file

from toolkit.atomic import atomic_path
from toolkit.models.checkpoint import read_weights
from toolkit.models.network_spec import SmallModule
from toolkit.models.trained import WeightsFileError, metadata_in
from toolkit.training.hmo.search import Member

_KEY = "toolkit.training.hmo"
_IS_RIGHT = "is_right"


def save_members(path: Path, members: Sequence[Member]) -> None:
    """Write members with what they got right; the file appears whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    for number, member in enumerate(members):
        tensors[f"{number}.{_IS_RIGHT}"] = torch.from_numpy(member.is_right.astype(np.uint8))
        tensors |= {f"{number}.{name}": v.contiguous() for name, v in member.weights.items()}
    modules = [member.module.to_plain() for member in members]
    with atomic_path(path, durable=True) as temporary:
        save_file(tensors, temporary, metadata={_KEY: json.dumps(modules)})


def load_members(path: Path, sha256: str = "") -> list[Member]:
    """Read what :func:`save_members` wrote.

    Parameters
    ----------
    path
        The file.
    sha256
        The hash that it must have, hexadecimal; empty for any.

    Raises
    ------
    WeightsFileError
        If the file is not one.
    toolkit.models.WeightsChangedError
        If it has another hash.
    """
    content = read_weights(path, sha256)
    try:
        tensors = safetensors.torch.load(content)
        modules = json.loads(metadata_in(content)[_KEY])
    except Exception as error:  # broken bytes raise anything
        raise WeightsFileError(f"{path} holds no trained modules: {error!r}") from error
    return [
        _member(number, SmallModule.from_plain(plain), tensors)
        for number, plain in enumerate(modules)
    ]


def _member(number: int, module: SmallModule, tensors: dict[str, torch.Tensor]) -> Member:
    prefix = f"{number}."
    own = {n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)}
    is_right = own.pop(_IS_RIGHT).numpy().astype(bool)
    return Member(module, own, is_right)
