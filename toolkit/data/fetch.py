"""Fetch a data set into a folder: from its publishers, a mirror, or another folder."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

from toolkit.atomic import atomic_path
from toolkit.data import dandi
from toolkit.data.archive import Archive, RemoteFile, archive_named
from toolkit.data.errors import DataError, MissingDataError
from toolkit.download import (
    DISK_FULL,
    TIMEOUT_S,
    Digest,
    DownloadError,
    WrongHashError,
    download,
    file_digest,
)

SUMS = "SHA256SUMS"

FileProgress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """A file that is now here.

    Parameters
    ----------
    path
        Where.
    sha256
        Its hash.
    is_verified
        Whether it was compared with a hash known beforehand.
    """

    path: Path
    sha256: str
    is_verified: bool


def fetch(
    name: str,
    *,
    to: Path | None = None,
    source: str | None = None,
    sessions: Sequence[str] = (),
    sha256: str | None = None,
    progress: FileProgress | None = None,
    dandi_api: str = dandi.API,
) -> Iterator[Fetched]:
    """Put the files of a data set into a folder, one after the other.

    Files that are there with the right hash are left alone; broken transfers go on where they
    were. Hashes are the published ones, else those that a ``SHA256SUMS`` beside the source or in
    the folder names; all are written to ``SHA256SUMS`` in the folder.

    Parameters
    ----------
    name
        One of :data:`toolkit.data.archive.ARCHIVES`.
    to
        The folder; the archive's own default if None.
    source
        Folder or URL where the files lie side by side, instead of the publishers'; for a data set
        of one file also the file itself.
    sessions
        Which sessions, for archives that are fetched by session.
    sha256
        Hash of the file, for a data set of one file without a published one.
    progress
        Called with a file's name, its bytes here, and its size (None if unknown).
    dandi_api
        Address of DANDI's REST interface.

    Raises
    ------
    DataError
        If the request makes no sense, or the source lacks a file.
    DownloadError
        If a file cannot be fetched or has the wrong hash; the message says what to do.
    """
    archive = archive_named(name)
    folder = Path(archive.folder) if to is None else to
    for file in _files(archive, source, sessions, sha256, dandi_api):
        known = _known_digest(file, folder, source)
        place = _address(archive, file, source)
        report = None if progress is None else partial(progress, file.name)
        path = folder / file.name
        try:
            download(place, path, expected=known, progress=report)
        except WrongHashError:
            raise
        except DownloadError as error:
            raise DownloadError(f"{error}\n{_remedy(error, file, folder)}") from error
        digest = file_digest(path)
        _record(folder / SUMS, file.name, digest)
        yield Fetched(path, digest, known is not None)


def _files(
    archive: Archive,
    source: str | None,
    sessions: Sequence[str],
    sha256: str | None,
    dandi_api: str,
) -> list[RemoteFile]:
    if sessions and not archive.by_session:
        raise DataError(f"{archive.name} is fetched whole; leave out --session")
    if sha256 is not None and len(archive.files) != 1:
        raise DataError(
            f"--sha256 is for a data set of one file; {archive.name} has its own hashes"
        )
    if not archive.by_session:
        given = None if sha256 is None else Digest("sha256", sha256)
        return [replace(file, digest=given or file.digest) for file in archive.files]
    if not sessions:
        raise DataError(
            f"{archive.name} is fetched by session; say which, as in "
            "--session sub-An_ses-20220105T173929"
        )
    if source is None:
        return [f for session in sessions for f in dandi.session_files(session, dandi_api)]
    return [RemoteFile(f"{s}{suffix}.nwb") for s in sessions for suffix in ("", "_image")]


def _address(archive: Archive, file: RemoteFile, source: str | None) -> str:
    """URL or path of one file.

    Raises
    ------
    DataError
        If nobody publishes it and no source is given, or a local source lacks it.
    """
    if source is None:
        if file.url is None:
            raise DataError(f"{file.name} of {archive.name} is {archive.remark}")
        return file.url
    is_file_itself = len(archive.files) == 1 and bool(Path(urlparse(source).path).suffix)
    if "://" in source:
        return source if is_file_itself else f"{source.rstrip('/')}/{file.name}"
    path = Path(source).expanduser()
    path = path if is_file_itself and not path.is_dir() else path / file.name
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    return str(path)


def _known_digest(file: RemoteFile, folder: Path, source: str | None) -> Digest | None:
    """The published hash, else what a ``SHA256SUMS`` beside the source or in the folder says."""
    if file.digest is not None:
        return file.digest
    recorded = _sums_beside(source).get(file.name) or _read_sums(folder / SUMS).get(file.name)
    return Digest("sha256", recorded) if recorded else None


def _sums_beside(source: str | None) -> dict[str, str]:
    if source is None:
        return {}
    if "://" not in source:
        path = Path(source).expanduser()
        return _read_sums((path if path.is_dir() else path.parent) / SUMS)
    is_file_itself = bool(Path(urlparse(source).path).suffix)
    folder = source.rsplit("/", 1)[0] if is_file_itself else source.rstrip("/")
    try:
        with urllib.request.urlopen(f"{folder}/{SUMS}", timeout=TIMEOUT_S) as response:
            return _sums_in(response.read().decode())
    except (OSError, HTTPException, ValueError):
        return {}  # there need not be one


def _read_sums(path: Path) -> dict[str, str]:
    return _sums_in(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sums_in(text: str) -> dict[str, str]:
    """File name → SHA-256, from what ``sha256sum`` writes."""
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    return {p[1].lstrip("*").removeprefix("./"): p[0] for p in pairs if len(p) == 2}


def _record(path: Path, name: str, sha256: str) -> None:
    sums = {**_read_sums(path), name: sha256}
    with atomic_path(path) as temporary:
        lines = [f"{digest}  {file}\n" for file, digest in sorted(sums.items())]
        temporary.write_text("".join(lines), encoding="utf-8")


def _remedy(error: DownloadError, file: RemoteFile, folder: Path) -> str:
    if isinstance(error.__cause__, OSError) and error.__cause__.errno in DISK_FULL:
        return f"Make room in {folder}, or give --to another folder."
    return (
        f"Without a network, copy {file.name} into {folder} (its hash is checked by the same "
        "command), or give --from a folder or another address that has it."
    )
