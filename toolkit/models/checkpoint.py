"""Checkpoint files: what they may look like, and what is said when one does not fit."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import re
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from toolkit.models.spec import CheckpointError, WeightsChangedError

_WRAPPERS = ("state_dict", "model", "state_dict_ema", "model_ema")
# What data-parallel training and torch.compile put before every name.
_PREFIXES = ("module.", "_orig_mod.")
_ZIP = b"PK\x03\x04"
_KEYS_SHOWN = 3
_ERROR_CHARACTERS = 200

# Parts that only training uses; torchvision's own files carry them.
_AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}

# torchvision's DenseNet files predate the ban on dots in module names: "norm.1" is "norm1" now.
_LEGACY_DENSENET_KEY = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")

# Said by torch of a pickled object that is no tensor.
_REFUSED_OBJECT = re.compile(r"GLOBAL (\S+)")

# Settings that timm's training keeps beside the weights: names and values, no code.
torch.serialization.add_safe_globals([argparse.Namespace])


def read_weights(path: Path, sha256: str = "") -> bytes:
    """The content of a file, read once, so that what is checked is what is used.

    Parameters
    ----------
    path
        The file.
    sha256
        Its hash, hexadecimal, or the first digits of it; empty for any.

    Raises
    ------
    WeightsChangedError
        If it has another hash.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(sha256):
        raise WeightsChangedError(
            f"{path} is another file than the sweep was planned for (SHA-256 {found[:12]}, not "
            f"{sha256[:12]}); run the sweep again to plan it anew"
        )
    return content


def state_dict_in(content: bytes, path: Path) -> dict[str, torch.Tensor]:
    """The state dict that a file holds, on the CPU.

    Understood are what ``torch.save`` writes of a state dict, or of a dict that has it under
    "state_dict", "model", "state_dict_ema" or "model_ema", and ``.safetensors``. Prefixes "module."
    (of data-parallel training) and "_orig_mod." (of torch.compile) that all keys share are removed.
    Only tensors are unpickled, never code.

    Parameters
    ----------
    content
        Of the file.
    path
        What it is called.

    Raises
    ------
    CheckpointError
        If the file is none of these, holds several state dicts, or tensors without numbers.
    """
    state = _tensors_of(content, path)
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            _refuse_several(state, path)
            state = state[wrapper]
    if not isinstance(state, dict) or not _holds_tensors(state):
        raise CheckpointError(
            f"{path} holds no state dict (a dict of tensors, by itself or under "
            f"{' or '.join(map(repr, _WRAPPERS))})"
        )
    if empty := [key for key, value in state.items() if value.is_meta]:
        raise CheckpointError(
            f"{path} holds no numbers for {_some(empty)}: saved was a network on the meta device. "
            "Save one whose weights are loaded"
        )
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def load_strictly(
    module: nn.Module, name: str, path: Path, state: Mapping[str, torch.Tensor]
) -> None:
    """Give a torchvision network the weights of a checkpoint that must fit it exactly.

    Keys of auxiliary training heads are ignored; DenseNet's legacy key names are understood.

    Raises
    ------
    CheckpointError
        If keys are missing, unexpected, of another shape or of another kind of number.
    """
    own = {
        _LEGACY_DENSENET_KEY.sub(r"\1\2", key): value
        for key, value in state.items()
        if not key.startswith(_AUXILIARY_HEADS.get(name, ()))
    }
    require_kinds(module, name, path, own)
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        raise misfit(name, path, error, module, own) from error


def require_kinds(
    module: nn.Module, name: str, path: Path, weights: Mapping[str, torch.Tensor]
) -> None:
    """Assert that tensors of a file hold the kinds of number that a network has by these names.

    Precision may differ. Of another kind they would be cast: quantised weights lose their scale,
    complex ones their imaginary part.

    Raises
    ------
    CheckpointError
        If one is floating, integer, complex or bool where the network's own is not.
    """
    own = module.state_dict()
    # Batch normalisation's counts do nothing after training, and are cast with all the rest.
    of_others = [
        key
        for key, value in weights.items()
        if key in own
        and _kind(value.dtype) != _kind(own[key].dtype)
        and not key.endswith("num_batches_tracked")
    ]
    if of_others:
        found, wanted = (str(state[of_others[0]].dtype) for state in (weights, own))
        raise CheckpointError(
            f"checkpoint {path} does not fit network {name!r}: {_some(of_others)} "
            f"{'is' if len(of_others) == 1 else 'are'} {found.removeprefix('torch.')}, the "
            f"network's own {wanted.removeprefix('torch.')}. Save the weights as numbers of that "
            "kind, those of a quantised network before it is quantised"
        )


def misfit(
    name: str,
    path: Path,
    error: Exception,
    module: nn.Module,
    weights: Mapping[str, torch.Tensor] | io.BytesIO,
) -> CheckpointError:
    """How near a file is to a network, and what ``load_state_dict`` complained about first."""
    beginning = f"checkpoint {path} does not fit network {name!r}"
    if not isinstance(weights, io.BytesIO):
        own = {key: value.shape for key, value in module.state_dict().items()}
        n_fit = sum(own.get(key) == value.shape for key, value in weights.items())
        beginning += (
            f": {n_fit} of its {len(weights)} tensors have name and shape of one of the network's "
            f"{len(own)}"
        )
    first, *lines = str(error).splitlines() or [""]
    if not first.startswith("Error(s) in loading state_dict"):
        return CheckpointError(f"{beginning} ({type(error).__name__}: {first[:_ERROR_CHARACTERS]})")
    mismatches = [line.strip() for line in lines if "size mismatch" in line]
    complaints = [_shorten_keys(line.strip()) for line in lines if "size mismatch" not in line]
    complaints += mismatches[:_KEYS_SHOWN]
    if len(mismatches) > _KEYS_SHOWN:
        complaints.append(f"and {len(mismatches) - _KEYS_SHOWN} more size mismatches")
    return CheckpointError("\n  ".join([f"{beginning}:", *complaints]))


def _tensors_of(content: bytes, path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(content)
        _refuse_archives_of_code(content)
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes raise anything
        raise CheckpointError(
            f"{path} is not a checkpoint that can be read: {_what_is_wrong(error)}. Save it with "
            "torch.save(network.state_dict(), path)"
        ) from error


def _refuse_archives_of_code(content: bytes) -> None:
    """TorchScript and torch's oldest files: not all versions of torch read them without code."""
    file = io.BytesIO(content)
    if content.startswith(_ZIP):
        names = zipfile.ZipFile(file).namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise _ArchiveError("it is a TorchScript program, not a state dict")
    elif tarfile.is_tarfile(file):
        raise _ArchiveError("it is a tar archive, as torch wrote them before 2017")


class _ArchiveError(ValueError):
    """An archive that is not read."""


def _what_is_wrong(error: Exception) -> str:
    if isinstance(error, _ArchiveError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError) and (found := _REFUSED_OBJECT.search(str(error))):
        return (
            f"it holds the Python object {found.group(1)}, and of a pickle only tensors are read, "
            "since other objects can run code"
        )
    return "it is damaged, cut off, or a file of another kind"


def _refuse_several(content: dict[Any, Any], path: Path) -> None:
    sets = [k for k, value in content.items() if isinstance(value, dict) and _holds_tensors(value)]
    if len(sets) > 1:
        raise CheckpointError(
            f"{path} holds {len(sets)} sets of weights: {', '.join(map(repr, sets))}. Save the one "
            f"you mean by itself: torch.save(torch.load({path.name!r})[{sets[0]!r}], 'mine.pth')"
        )


def _kind(dtype: torch.dtype) -> str:
    if dtype is torch.bool:
        return "bool"
    if dtype.is_complex:
        return "complex"
    return "floating" if dtype.is_floating_point else "integer"


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _KEYS_SHOWN} more" if len(keys) > _KEYS_SHOWN else ""
    return ", ".join(map(repr, keys[:_KEYS_SHOWN])) + more


def _holds_tensors(content: dict[Any, Any]) -> bool:
    return bool(content) and all(isinstance(value, torch.Tensor) for value in content.values())


def _shorten_keys(complaint: str) -> str:
    keys = re.findall(r'"[^"]+"', complaint)
    if len(keys) <= _KEYS_SHOWN:
        return complaint
    what = complaint.split(":")[0]
    return f"{what}: {', '.join(keys[:_KEYS_SHOWN])} and {len(keys) - _KEYS_SHOWN} more"
