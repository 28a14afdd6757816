"""A copy of the code in the run folder, so that editing while jobs wait changes nothing."""

from __future__ import annotations

import hashlib
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("toolkit", "jobs")
GIT_SHA_FILE = "git_sha"
_DIGITS = 16


class CodeChangedError(RuntimeError):
    """The code that runs is not the code that was submitted."""

    error_class = "code_changed"


def code_root() -> Path:
    """The folder from which this process has the packages."""
    return Path(sys.modules["toolkit"].__path__[0]).resolve().parent


def code_digest(root: Path) -> str:
    """16 hexadecimal digits of the SHA-256 over all files of the packages, names and content.

    Parameters
    ----------
    root
        The folder that holds the packages.
    """
    digest = hashlib.sha256()
    for path in _files(root):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


def _files(root: Path) -> Iterator[Path]:
    found = [path for package in PACKAGES for path in (root / package).rglob("*")]
    return (p for p in sorted(found) if p.is_file() and p.suffix != ".pyc")


def take_code_snapshot(run_path: Path, git_sha: str, root: Path | None = None) -> Path:
    """Copy the packages to ``code/<digest>`` of a run folder, unless that copy is there.

    Parameters
    ----------
    run_path
        The run folder.
    git_sha
        The commit, which the copy itself cannot tell; kept beside it.
    root
        The folder that holds the packages; where this process has them from if left out.

    Returns
    -------
    Path
        The folder for ``PYTHONPATH``, named like the :func:`code_digest` of what is in it.
    """
    root = root or code_root()
    folder = run_path / "code"
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        for package in PACKAGES:
            shutil.copytree(
                root / package, temporary / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        (temporary / GIT_SHA_FILE).write_text(git_sha, encoding="ascii")
        # The digest is of the copy: somebody may be editing the original.
        snapshot = folder / code_digest(temporary)
        if not snapshot.is_dir():
            _move(temporary, snapshot)
        return snapshot
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, snapshot: Path) -> None:
    try:
        temporary.rename(snapshot)
    except OSError:
        if not snapshot.is_dir():
            raise


def check_code(digest: str) -> None:
    """Assert that this process runs the code with this digest.

    Raises
    ------
    CodeChangedError
        If it does not.
    """
    root = code_root()
    found = code_digest(root)
    if found != digest:
        raise CodeChangedError(
            f"this job was submitted with code {digest}, but {root} holds {found}; the folder "
            "code/ of a run is not to be edited: remove it and submit the tasks again"
        )
