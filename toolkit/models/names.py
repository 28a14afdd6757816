"""Which networks exist, by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import lru_cache

from toolkit.models.spec import LIBRARIES, ModelError, require_library

_KNOWN_PACKAGES = ("timm", "toolkit")
_ASK_FOR_NAMES = "from toolkit.models import model_names; print(*model_names('timm'))"


def model_names(library: str) -> list[str]:
    """Every network of a library, sorted: torchvision's classifiers, timm's architectures.

    Raises
    ------
    ModelError
        If the library is unknown.
    """
    require_library(library)
    return list(_names(library))


def match_names(library: str, pattern: str) -> list[str]:
    """The networks a name or an ``fnmatch`` pattern stands for, in the order of the library's list.

    A pattern with a dot is also matched against timm's weights tags: ``resnet50.*_in1k``.

    Raises
    ------
    ModelError
        If there is none; the message lists the nearest names, and the library that has the name
        when another one does.
    """
    names = model_names(library)
    if library == "timm" and "." in pattern:
        names += _timm_tagged_names()
    if pattern in names:
        return [pattern]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise ModelError(_unknown_name(library, pattern, names))
    return found


def require_name(library: str, name: str) -> None:
    """Raise :class:`ModelError` unless ``name`` is exactly one network of the library."""
    if match_names(library, name) != [name]:
        raise ModelError(f"{name!r} is a pattern; one {library} network is needed here")


def names_of_this_process(names: Iterable[str]) -> list[str]:
    """Which of these timm networks a script registered that a fresh process knows nothing of.

    Nothing is imported where timm is not, since nothing has been registered then.
    """
    if "timm" not in sys.modules:
        return []
    from timm.models import is_model, model_entrypoint

    own = [
        name
        for name in names
        if is_model(name) and model_entrypoint(name).__module__.split(".")[0] not in _KNOWN_PACKAGES
    ]
    if not own:
        return []
    fresh = subprocess.run(
        [sys.executable, "-c", _ASK_FOR_NAMES], capture_output=True, text=True, check=True
    )
    return [name for name in own if name.split(".")[0] not in fresh.stdout.split()]


@lru_cache
def _names(library: str) -> tuple[str, ...]:
    if library == "pixels":
        return ("pixels",)
    if library == "timm":
        import timm

        return tuple(sorted(timm.list_models()))
    import torchvision.models

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


@lru_cache
def _timm_tagged_names() -> tuple[str, ...]:
    import timm

    return tuple(sorted(timm.list_models(pretrained=True)))


def _unknown_name(library: str, pattern: str, names: list[str]) -> str:
    message = f"{library} has no network named {pattern!r}"
    others = [
        other
        for other in LIBRARIES
        if other != library and any(fnmatchcase(name, pattern) for name in _names(other))
    ]
    if others:
        message += f"; {' and '.join(others)} has: write library: {others[0]}"
    nearest = get_close_matches(pattern, names, n=5, cutoff=0.5)
    if nearest:
        message += f". Nearest {library} names: {', '.join(nearest)}"
    return message
