"""Fetch a file: it goes on where it broke off, its hash is checked, and it appears whole."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException
from io import FileIO
from pathlib import Path
from urllib.error import HTTPError
from urllib.response import addinfourl

TIMEOUT_S = 10.0
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Connections in a row that bring nothing before a fetch is given up, and the first pause between.
_N_FRUITLESS = 4
_PAUSE_S = 0.2
_CHUNK_BYTES = 1 << 20
_RETRIED_STATUS = frozenset({429, 500, 502, 503, 504})

Progress = Callable[[int, int | None], None]


class DownloadError(OSError):
    """A file could not be fetched. What arrived of it is kept, and the next attempt goes on."""

    error_class = "download_failed"


class WrongHashError(DownloadError):
    """What was fetched is not the file that was meant; it has been removed."""

    error_class = "wrong_hash"


@dataclass(frozen=True)
class Digest:
    """A published hash of a file.

    Parameters
    ----------
    algorithm
        A name that :mod:`hashlib` knows: "sha1", "sha256".
    digits
        Hexadecimal; the first digits are enough.
    """

    algorithm: str
    digits: str

    def matches(self, path: Path) -> bool:
        """Whether the file's content has this hash."""
        return file_digest(path, self.algorithm).startswith(self.digits.lower())


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hash of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def download(
    source: str, target: Path, *, expected: Digest | None = None, progress: Progress | None = None
) -> Path:
    """Put the file at ``source`` to ``target``, unless it is already there with the right hash.

    The file appears in one step. Until then it grows as ``.NAME.partial`` beside the target; a
    broken connection is taken up again, now or in a later call, as long as the server says that
    the file is the same or a hash will tell. Who wants a file that another process is fetching
    waits for it.

    Parameters
    ----------
    source
        URL (http, https, file) or path of a local file.
    target
        Where the file is to be; its folder is made.
    expected
        Its hash. Without one a file that is already there is taken as it is.
    progress
        Called with the bytes that are there and those that will be (None if unknown).

    Raises
    ------
    WrongHashError
        If the file has another hash.
    DownloadError
        If it cannot be reached, the connection keeps breaking, or the disk is full.
    """
    if _is_there(target, expected):
        return target
    partial = _Partial(target, resumable=expected is not None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.opened() as file:
            if not _is_there(target, expected):
                _fetch(source, partial, file, expected, progress)
                partial.publish()
    except DownloadError:
        raise
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(
            f"{target.name} could not be fetched from {source}: {error}{partial.remark()}"
        ) from error
    return target


class _Partial:
    """What has arrived of a file, and the server's tag of the version that it is part of."""

    def __init__(self, target: Path, *, resumable: bool) -> None:
        self._target = target
        self._resumable_without_tag = resumable
        self.path = target.with_name(f".{target.name}.partial")
        self._tag_path = target.with_name(f".{target.name}.partial.tag")

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """Open for appending, alone; an empty one does not stay."""
        while True:
            file = FileIO(self.path, "ab")
            with suppress(OSError):  # a file system without locks: the hash has to do
                fcntl.flock(file, fcntl.LOCK_EX)
            if self._is(file):
                break
            file.close()  # its former holder published or removed it
        try:
            if not self._resumable_without_tag and not self.tag:
                file.truncate(0)
            yield file
        finally:
            if self._is(file) and os.fstat(file.fileno()).st_size == 0:
                self.discard()
            file.close()

    def _is(self, file: FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    @property
    def tag(self) -> str:
        """ETag or date of the version, empty if the server gave none."""
        try:
            return self._tag_path.read_text(encoding="ascii")
        except FileNotFoundError:
            return ""

    def remember(self, headers: Message) -> None:
        """Note which version the bytes belong to."""
        tag = headers.get("ETag") or "W/"
        if tag.startswith("W/"):  # a weak tag stands for more than one version
            tag = headers.get("Last-Modified") or ""
        if tag and tag.isascii():
            self._tag_path.write_text(tag, encoding="ascii")
        else:
            self._tag_path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give the complete file its name."""
        self.path.chmod(0o644)
        self.path.replace(self._target)
        self._tag_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove what has arrived."""
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)

    def remark(self) -> str:
        """Say what is kept, for a message."""
        if not self.path.is_file():
            return ""
        return f". {self.path.stat().st_size} bytes are kept; the same command goes on from there"


def _is_there(target: Path, expected: Digest | None) -> bool:
    return target.is_file() and (expected is None or expected.matches(target))


def _fetch(
    source: str,
    partial: _Partial,
    file: FileIO,
    expected: Digest | None,
    progress: Progress | None,
) -> None:
    """Receive the whole file and check it; a continued one that is wrong is fetched once anew."""
    url = source if "://" in source else Path(source).resolve().as_uri()
    was_continued = _size(file) > 0
    _receive(url, partial, file, progress)
    if expected is None or expected.matches(partial.path):
        return
    if was_continued:
        file.truncate(0)
        _receive(url, partial, file, progress)
        if expected.matches(partial.path):
            return
    found = file_digest(partial.path, expected.algorithm)
    partial.discard()
    raise WrongHashError(
        f"{source} gave a file with {expected.algorithm} {found}, which does not begin with "
        f"{expected.digits}: refused. Something between here and there changes files, or it is "
        "another version"
    )


def _receive(url: str, partial: _Partial, file: FileIO, progress: Progress | None) -> None:
    """Connect until all bytes are there; give up when connections bring nothing more."""
    n_fruitless = 0
    was_reached = False
    while True:
        n_before = _size(file)
        try:
            with _connect(url, partial, n_before) as response:
                was_reached = True
                if _append(response, partial, file, progress):
                    return
            error: Exception = OSError(f"the connection broke after {_size(file)} bytes")
        except (OSError, HTTPException) as caught:
            was_reached |= isinstance(caught, HTTPError)
            if not was_reached or not _may_pass(caught):
                raise
            error = caught
        n_fruitless = 0 if _size(file) > n_before else n_fruitless + 1
        if n_fruitless == _N_FRUITLESS:
            raise error
        time.sleep(_PAUSE_S * 2**n_fruitless)


def _connect(url: str, partial: _Partial, n_have: int) -> addinfourl:
    headers = {"Range": f"bytes={n_have}-"} if n_have else {}
    if n_have and partial.tag:
        headers["If-Range"] = partial.tag
    request = urllib.request.Request(url, headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies beyond what is here: it is complete, or of another version.
        return urllib.request.urlopen(url, timeout=TIMEOUT_S)


def _append(
    response: addinfourl,
    partial: _Partial,
    file: FileIO,
    progress: Progress | None,
) -> bool:
    """Write what the response brings; whether the file is then complete."""
    if response.status != 206:
        file.truncate(0)
    partial.remember(response.headers)
    n_announced = response.headers.get("Content-Length")
    n_total = None if n_announced is None else _size(file) + int(n_announced)
    if n_total is not None:
        _require_space(partial.path.parent, n_total - _size(file))
    while chunk := response.read(_CHUNK_BYTES):
        _write_all(file, chunk)
        if progress:
            progress(_size(file), n_total)
    return n_total is None or _size(file) == n_total


def _may_pass(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, HTTPError):
        return error.code in _RETRIED_STATUS
    return not (isinstance(error, OSError) and error.errno in DISK_FULL)


def _require_space(folder: Path, n_bytes: int) -> None:
    n_free = shutil.disk_usage(folder).free
    if n_free < n_bytes:
        raise OSError(
            errno.ENOSPC, f"{n_bytes} bytes are still to come, but {folder} has {n_free} left"
        )


def _write_all(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _size(file: FileIO) -> int:
    return os.fstat(file.fileno()).st_size
