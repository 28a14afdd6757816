"""Checkpoint files: what they may look like, and what is said when one does not fit."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit.models.spec import ModelError

_WRAPPERS = ("state_dict", "model")
_KEYS_SHOWN = 5

# Parts that only training uses; torchvision's own files carry them.
_AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}

# torchvision's DenseNet files predate the ban on dots in module names: "norm.1" is "norm1" now.
_LEGACY_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a file, on the CPU.

    Understood are what ``torch.save`` writes of a state dict, or of a dict that has it under
    "state_dict" or "model", and ``.safetensors``. A prefix "module." (of data-parallel
    training) that all keys share is removed. Only tensors are unpickled, never code.

    Raises
    ------
    ModelError
        If the file is none of these.
    """
    try:
        content = _read(path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{path} is not a checkpoint that can be read: {reason}. Save it with "
            "torch.save(network.state_dict(), path)"
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not _holds_tensors(content):
        raise ModelError(
            f"{path} holds no state dict (a dict of tensors, by itself or under "
            f"{' or '.join(map(repr, _WRAPPERS))})"
        )
    if all(key.startswith("module.") for key in content):
        content = {key.removeprefix("module."): value for key, value in content.items()}
    return content


def load_strictly(module: nn.Module, name: str, path: Path) -> None:
    """Give a torchvision network the weights of a checkpoint that must fit it exactly.

    Keys of auxiliary training heads are ignored; DenseNet's legacy key names are understood.

    Raises
    ------
    ModelError
        If the file cannot be read, or keys are missing, unexpected or of another shape.
    """
    state = {
        _LEGACY_DENSENET_KEY.sub(r"\1\2", key): value
        for key, value in read_checkpoint(path).items()
        if not key.startswith(_AUXILIARY_HEADS.get(name, ()))
    }
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise misfit(name, path, error) from error


def misfit(name: str, path: Path, error: Exception) -> ModelError:
    """What ``load_state_dict`` complained about, with its lists of keys cut to the first few."""
    first, *lines = str(error).splitlines() or [""]
    if not first.startswith("Error(s) in loading state_dict"):
        return ModelError(
            f"checkpoint {path} does not fit network {name!r}: {type(error).__name__}: {first}"
        )
    mismatches = [line.strip() for line in lines if "size mismatch" in line]
    complaints = [_shorten_keys(line.strip()) for line in lines if "size mismatch" not in line]
    complaints += mismatches[:_KEYS_SHOWN]
    if len(mismatches) > _KEYS_SHOWN:
        complaints.append(f"and {len(mismatches) - _KEYS_SHOWN} more size mismatches")
    return ModelError(
        f"checkpoint {path} does not fit network {name!r}:\n  " + "\n  ".join(complaints)
    )


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _holds_tensors(content: dict[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, torch.Tensor) for value in content.values())


def _shorten_keys(complaint: str) -> str:
    keys = re.findall(r'"[^"]+"', complaint)
    if len(keys) <= _KEYS_SHOWN:
        return complaint
    what = complaint.split(":")[0]
    return f"{what}: {', '.join(keys[:_KEYS_SHOWN])} and {len(keys) - _KEYS_SHOWN} more"
