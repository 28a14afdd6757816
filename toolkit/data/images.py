"""Image files, in a folder or a zip archive, decoded to RGB only when asked for."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image

from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.stimuli import PerProcess, Stimuli

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm"}) | frozenset(
    {".tif", ".tiff", ".webp"}
)
# Transparent pixels show the mid-grey screen that stimuli are usually presented on.
_BACKDROP = (128, 128, 128, 255)
# What Pillow's decoders raise on damaged files.
_DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class ImageSource(Protocol):
    """Where image files lie: a folder or an archive."""

    def names(self) -> list[str]:
        """Image files in it, as relative POSIX paths sorted by code point."""

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are not in it."""

    def read(self, name: str) -> bytes:
        """Content of one file; :class:`DataError` if it is gone or damaged."""

    def where(self, name: str) -> str:
        """How messages name one file."""


class ImageFolder:
    """Image files under a folder, at any depth."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Image files in it, as relative POSIX paths sorted by code point."""
        files = (p.relative_to(self._path) for p in self._path.rglob("*") if p.is_file())
        return sorted(p.as_posix() for p in files if _is_image(p.as_posix()))

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are not in it."""
        return [name for name in names if not (self._path / name).is_file()]

    def read(self, name: str) -> bytes:
        """Content of one file."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"{self.where(name)}: no such file") from error

    def where(self, name: str) -> str:
        """How messages name one file."""
        return str(self._path / name)


class ImageArchive:
    """Image files in a zip archive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._archive = PerProcess(partial(_open_archive, path))

    def names(self) -> list[str]:
        """Image files in it, as relative POSIX paths sorted by code point."""
        return sorted(name for name in self._archive.get().namelist() if _is_image(name))

    def missing(self, names: Sequence[str]) -> list[str]:
        """Those of ``names`` that are not in it."""
        present = set(self._archive.get().namelist())
        return [name for name in names if name not in present]

    def read(self, name: str) -> bytes:
        """Content of one file, its checksum verified."""
        try:
            return self._archive.get().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
            raise DataError(f"{self.where(name)}: damaged in the archive ({error})") from error

    def where(self, name: str) -> str:
        """How messages name one file."""
        return f"{self._path}: {name}"


class ImageFiles(Stimuli):
    """Images stored as files.

    Parameters
    ----------
    source
        Where the files lie.
    names
        File of each image, relative to the source.
    ids
        Id of each image.
    framed
        See :class:`~toolkit.data.stimuli.Stimuli`.
    """

    def __init__(
        self, source: ImageSource, names: tuple[str, ...], ids: tuple[str, ...], framed: bool
    ) -> None:
        self.ids = ids
        self.framed = framed
        self._source = source
        self._names = names

    def __getitem__(self, index: int) -> Image.Image:
        """Image ``index`` in mode RGB."""
        name = self._names[index]
        encoded = self._source.read(name)
        try:
            with Image.open(io.BytesIO(encoded)) as image:
                return to_rgb(image)
        except _DECODING_ERRORS as error:
            raise DataError(
                f"{self._source.where(name)}: cannot be read as an image ({error}); replace the "
                "file or leave it out of the data set"
            ) from error

    def _content(self) -> Iterator[bytes]:
        return map(self._source.read, self._names)


class AbsentImages(Stimuli):
    """Images whose names are known but whose files nobody gave; responses can do without.

    Parameters
    ----------
    ids
        Id of each image.
    """

    framed = True

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = ids

    def __getitem__(self, index: int) -> Image.Image:
        """Raise :class:`MissingDataError`: there are no images."""
        raise MissingDataError(f"image {self.ids[index]!r}: the data set was loaded without images")

    def _content(self) -> Iterator[bytes]:
        raise MissingDataError("the data set was loaded without images")


def source_at(path: Path) -> ImageSource:
    """Folder or zip archive at ``path``.

    Raises
    ------
    DataError
        If there is neither.
    """
    if path.is_dir():
        return ImageFolder(path)
    if not path.exists():
        raise MissingDataError(f"{path}: no such file or folder")
    if path.suffix.lower() == ".zip":
        return ImageArchive(path)
    raise DataError(f"{path}: images must be a folder, a .zip, or a .csv or .parquet table")


def default_id(name: str) -> str:
    """Id of an image without a table: its file's relative path without the suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any of Pillow's modes to 8-bit RGB.

    16-bit grey is scaled so that 65535 becomes 255, where Pillow alone would clip it; transparent
    pixels show mid-grey.

    Raises
    ------
    ValueError
        If pixels are floats or wider than 16 bits, whose white nobody knows.
    """
    if image.mode.startswith("I"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > np.iinfo(np.uint16).max:
            raise ValueError(f"mode {image.mode} with pixels outside 0…65535; save it as 8-bit")
        return Image.fromarray(np.round(grey / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("mode F (floating point); save it as 8-bit")
    if image.has_transparency_data:
        backdrop = Image.new("RGBA", image.size, _BACKDROP)
        return Image.alpha_composite(backdrop, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a readable zip archive ({error})") from error


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden
