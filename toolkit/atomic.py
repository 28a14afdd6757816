"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a hidden name beside ``path``; on success its file is renamed to ``path``.

    After an exception the temporary file is removed and ``path`` is as it was. A killed writer
    leaves at most a ``.<name>.<uuid>.tmp``, which nothing reads.

    Parameters
    ----------
    path
        The final name.
    durable
        Whether the file must also survive a crash of the whole machine. That takes seconds while
        gigabytes of features wait to be written to the same disk, so it is for results alone.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if durable:
            _sync(temporary)
        temporary.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
