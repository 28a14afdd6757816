"""Which code made a result."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import toolkit

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scikit-learn",
    "zarr",
    "dask",
    "submitit",
)
# A checkout on a slow network file system must not hold up a task.
_GIT_TIMEOUT_S = 30


def git_sha(folder: str | Path) -> str:
    """Full commit of the checkout that ``folder`` lies in.

    ``-dirty`` is appended when a tracked file is modified. Empty when the folder is in no
    checkout, has no commit, or git is missing or does not answer. A copy of the code outside of a
    checkout tells its commit by a file ``git_sha`` beside ``folder``.
    """
    noted = Path(folder).parent / "git_sha"
    if noted.is_file():
        return noted.read_text(encoding="ascii")
    # With every tag excluded, `describe` falls back to the abbreviated (here: full) commit.
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            encoding="ascii",
            timeout=_GIT_TIMEOUT_S,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python, the toolkit and what decides its numbers; absent packages are left out.

    Read from the installed packages' metadata, so nothing is imported.
    """
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "toolkit": toolkit.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
