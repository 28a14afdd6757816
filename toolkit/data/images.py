"""Image files, in a folder or a zip archive, decoded to RGB only when asked for."""

from __future__ import annotations

import io
import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image

from toolkit.data.dataset import check_unique, shortened
from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.naming import is_image, leaves_folder, matched, slashed, unmatched
from toolkit.data.stimuli import PerProcess, Stimuli

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
# What zipfile raises on damaged, locked or foreign archives.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)
_COMPRESSIONS = frozenset(
    {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
)
_ENCRYPTED = 0x1
# Files that stand for content kept elsewhere are shorter, and begin so.
_POINTER_BYTES = 1024
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "a Git-LFS pointer; run git lfs pull",
    b"/annex/objects/": "a git-annex pointer; run git annex get",
}
# A header with an embedded thumbnail and colour profile is rarely longer.
_HEADER_BYTES = 2**17
_ORIENTATION = 0x0112  # EXIF tag; 1 is upright
_UPRIGHT = 1


class ImageSource(Protocol):
    """Where image files lie: a folder or an archive."""

    def names(self) -> list[str]:
        """Image files in it, as relative POSIX paths sorted by code point."""

    def has(self, name: str) -> bool:
        """Whether this very file is in it, readable or not."""

    def fault(self, name: str) -> str | None:
        """Why a file that is in it cannot be read, as far as a glance tells; None if it can."""

    def read(self, name: str, n_bytes: int = -1) -> bytes:
        """Content of one file, or its first bytes; :class:`DataError` if it is gone or damaged."""

    def where(self, name: str) -> str:
        """How messages name one file."""


class ImageFolder:
    """Image files under a folder, at any depth, also behind links."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """Image files in it, as relative POSIX paths sorted by code point."""
        files = (path.relative_to(self._path).as_posix() for path in _files_under(self._path))
        return sorted(filter(is_image, files))

    def has(self, name: str) -> bool:
        """Whether this very file is in it; a link counts, wherever it leads."""
        path = self._path / name
        return path.is_symlink() or path.is_file()

    def fault(self, name: str) -> str | None:
        """Why a file that is in it cannot be read, as far as a glance tells; None if it can."""
        path = self._path / name
        try:
            size = path.stat().st_size
            if size > _POINTER_BYTES:
                return None
            return _fault_of(path.read_bytes())
        except FileNotFoundError:
            return _fault_of_link(str(path.readlink()))
        except OSError as error:
            return f"cannot be read ({error.strerror})"

    def read(self, name: str, n_bytes: int = -1) -> bytes:
        """Content of one file, or its first bytes."""
        try:
            with (self._path / name).open("rb") as file:
                return file.read(n_bytes)
        except FileNotFoundError as error:
            raise DataError(f"{self.where(name)}: no such file") from error
        except OSError as error:
            raise DataError(f"{self.where(name)}: cannot be read ({error.strerror})") from error

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
        return sorted(filter(is_image, self._members))

    def has(self, name: str) -> bool:
        """Whether this very file is in it."""
        return name in self._members

    def fault(self, name: str) -> str | None:
        """Why a file that is in it cannot be read, as far as a glance tells; None if it can."""
        member = self._members[name]
        if member.flag_bits & _ENCRYPTED:
            return "needs a password; pack the archive without one"
        if member.compress_type not in _COMPRESSIONS:
            return (
                f"is packed by zip's method {member.compress_type} (9 is Deflate64), which Python "
                "does not unpack; pack it by deflate"
            )
        return _fault_of(self.read(name)) if member.file_size <= _POINTER_BYTES else None

    def read(self, name: str, n_bytes: int = -1) -> bytes:
        """Content of one file, its checksum verified, or its first bytes."""
        try:
            with self._archive.get().open(self._members[name]) as file:
                return file.read(n_bytes)
        except KeyError as error:
            raise DataError(f"{self.where(name)}: no such file") from error
        except _ZIP_ERRORS as error:
            raise DataError(f"{self.where(name)}: damaged in the archive ({error})") from error

    def where(self, name: str) -> str:
        """How messages name one file."""
        return f"{self._path}: {name}"

    @cached_property
    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """Every file by its path, however the packer wrote that."""
        members: dict[str, zipfile.ZipInfo] = {}
        for member in self._archive.get().infolist():
            name = slashed(member.filename)
            if member.is_dir():
                continue
            if is_image(name) and leaves_folder(member.filename):
                raise DataError(
                    f"{self._path}: {member.filename!r} would lie outside of the folder that the "
                    "archive is unpacked to; pack it with paths below that"
                )
            if name in members:
                raise DataError(f"{self._path}: more than one file is called {name!r}")
            members[name] = member
        return members


def located(source: ImageSource, names: Sequence[str], table: object, place: object) -> list[str]:
    r"""Files of a source that a table means by these names, each seen to be there and readable.

    Parameters
    ----------
    source
        Where they lie.
    names
        Paths as the table gives them, perhaps with ``\\``, or accents in another Unicode form.
    table, place
        What messages call the table and the source.

    Raises
    ------
    DataError
        If a path leaves the source, is not in it, means several files, or cannot be read.
    """
    outside = [repr(name) for name in names if leaves_folder(name)]
    if outside:
        raise DataError(
            f"{table}: {shortened(outside)} lies outside of {place}; write paths relative to it, "
            "and put a link there to what lies elsewhere"
        )
    found: list[str | None] = [posixpath.normpath(slashed(name)) for name in names]
    if not all(name and source.has(name) for name in found):
        found = [
            path if path and source.has(path) else by_form
            for path, by_form in zip(found, matched(names, source.names(), str(place)), strict=True)
        ]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        raise DataError(
            f"{table}: names {len(missing)} images that are not in {place}: "
            f"{unmatched(missing, source.names())}"
        )
    files = [path for path in found if path is not None]
    check_unique(files, "file", table)
    require_readable(source, files)
    return files


def require_readable(source: ImageSource, names: Sequence[str]) -> None:
    """Raise :class:`DataError` if files are empty, pointers to content elsewhere, or locked."""
    faults = {name: fault for name in names if (fault := source.fault(name)) is not None}
    if faults:
        first = next(iter(faults))
        alike = [source.where(name) for name, fault in faults.items() if fault == faults[first]]
        raise DataError(
            f"{len(faults)} of {len(names)} images cannot be read: {shortened(alike)}: "
            f"{faults[first]}"
        )


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
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> DataError:
        return DataError(
            f"{self._source.where(name)}: cannot be read as an image ({error}); replace the file "
            "or leave it out of the data set"
        )

    def sizes_px(self) -> set[tuple[int, int]]:
        """Height and width of the images, from the headers of their files."""
        return {size for size, _ in self._headers}

    def remarks(self) -> tuple[str, ...]:
        """Say which photographs are turned only by a viewer."""
        turned = [
            name
            for name, (_, orientation) in zip(self._names, self._headers, strict=True)
            if orientation != _UPRIGHT
        ]
        if not turned:
            return ()
        return (
            f"{len(turned)} of {len(self)} images have an EXIF orientation that viewers turn them "
            f"by; networks see them unturned, as stored: {shortened(turned)}",
        )

    @cached_property
    def _headers(self) -> list[tuple[tuple[int, int], int]]:
        """Height and width, and EXIF orientation, of each file."""
        return list(map(self._header, self._names))

    def _header(self, name: str) -> tuple[tuple[int, int], int]:
        try:
            return _header_in(self._source.read(name, _HEADER_BYTES))
        except _DECODING_ERRORS:
            whole = self._source.read(name)
        try:
            return _header_in(whole)
        except _DECODING_ERRORS as error:
            raise self._unreadable(name, error) from error

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
    except _ZIP_ERRORS as error:
        raise DataError(
            f"{path}: not a readable zip archive ({error}); it may be cut off or of another kind: "
            "fetch or pack it again"
        ) from error


def _files_under(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files at any depth, through links to folders, except those that lead back up."""
    real = folder.resolve()
    if real in above:
        return
    for path in folder.iterdir():
        if not path.is_dir():
            yield path
        elif not path.name.startswith("."):
            yield from _files_under(path, above | {real})


def _header_in(content: bytes) -> tuple[tuple[int, int], int]:
    """Height and width, and EXIF orientation."""
    with Image.open(io.BytesIO(content)) as image:
        decodes_first = image.format == "PNG" and "exif" not in image.info
        exif = {} if decodes_first else image.getexif()
        return (image.height, image.width), exif.get(_ORIENTATION, _UPRIGHT)


def _fault_of(content: bytes) -> str | None:
    if not content:
        return "empty, 0 bytes"
    return next((fault for start, fault in _POINTERS.items() if content.startswith(start)), None)


def _fault_of_link(target: str) -> str:
    if "annex/objects" in target:
        return "content not here; run git annex get"
    if ".dvc/" in target or "/files/md5/" in target:
        return "content not here; run dvc pull"
    return f"a link to {target}, which is not there"
