"""How files and ids are told apart, matched and put in order by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath, PureWindowsPath

from toolkit.data.dataset import shortened
from toolkit.data.errors import DataError

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"}) | frozenset(
    {".tif", ".tiff", ".webp"}
)
_N_EXPLAINED = 3  # names whose nearest relatives a message gives


def is_image(name: str) -> bool:
    """Whether a file is an image by its name, and not one that a file manager hides."""
    path = PurePosixPath(name)
    parts = set(path.parts) - {".."}
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def without_image_suffix(name: str) -> str:
    """Return ``faces/im1`` for ``faces/im1.png``; other endings stay."""
    path = PurePosixPath(name)
    is_suffix = path.suffix.lower() in IMAGE_SUFFIXES
    return path.with_suffix("").as_posix() if is_suffix else name


def slashed(name: str) -> str:
    """Return a relative path with ``/`` between its parts and no ``.`` among them."""
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def leaves_folder(name: str) -> bool:
    """Whether a path is absolute on any system, or climbs above the folder it is relative to."""
    if slashed(name).startswith("/") or PureWindowsPath(name).is_absolute():
        return True
    depth = 0
    for part in PurePosixPath(slashed(name)).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False


def natural_key(name: str) -> list[list[str | int]]:
    """Sort key that puts ``im2`` before ``im10`` and folders together, as file managers do."""
    return [
        [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", part)]
        for part in PurePosixPath(name.casefold()).parts
    ]


def matched(wanted: Sequence[str], known: Iterable[str], what: str) -> list[str | None]:
    r"""Which of the known names is meant by each wanted one; None where none is.

    The same name if there is one; else the only one that differs in no more than ``\`` for ``/``,
    the Unicode form of its letters, and the suffix of an image.

    Parameters
    ----------
    wanted, known
        Ids of images, or paths of files.
    what
        What messages call the place of the known names.

    Raises
    ------
    DataError
        If several are meant.
    """
    names = set(known)
    if names.issuperset(wanted):
        return list(wanted)
    alike: dict[str, list[str]] = {}
    for name in sorted(names):
        for form in {normal_form(name), _stem(name)}:
            alike.setdefault(form, []).append(name)
    return [name if name in names else _only(name, alike, what) for name in wanted]


def _only(name: str, alike: dict[str, list[str]], what: str) -> str | None:
    stem = _stem(name)
    without_suffix = [other for other in alike.get(stem, ()) if normal_form(other) == stem]
    found = alike.get(normal_form(name)) or without_suffix
    if len(found) > 1:
        raise DataError(
            f"{name!r} may be any of {shortened(list(map(repr, found)))} in {what}; rename all but "
            "one, or write the name in full"
        )
    return found[0] if found else None


def unmatched(wanted: Sequence[str], known: Iterable[str]) -> str:
    """Name what was not found, and for the first few the known names that come nearest."""
    by_loose: dict[str, str] = {}
    for name in sorted(known, reverse=True):
        by_loose[_loose(name)] = name
    explained = []
    for name in wanted[:_N_EXPLAINED]:
        near = get_close_matches(_loose(name), by_loose, n=1)
        explained.append(f"{name!r} (nearest: {by_loose[near[0]]!r})" if near else repr(name))
    return ", ".join(explained) + (", …" if len(wanted) > _N_EXPLAINED else "")


def normal_form(name: str) -> str:
    """Return a path as every system means it: ``/`` between its parts, accents as one letter."""
    return unicodedata.normalize("NFC", slashed(name))


def _stem(name: str) -> str:
    return without_image_suffix(normal_form(name))


def _loose(name: str) -> str:
    """Return a name without folder, suffix, case, and the zeros that a number may have lost."""
    return re.sub(r"0+(?=\d)", "", PurePosixPath(_stem(name)).name.casefold())
