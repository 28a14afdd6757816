"""Who holds a run: a lock on a file of the run folder, and in it the process that has the lock.

The lock is what counts. The record only says whose it is, and is believed of no process that does
not have it: anybody may have written it, and process ids are used again.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import psutil

from toolkit.cluster.records import BAD_JSON, check_types

_LOCK_POLL_S = 0.1
_SAME_START_S = 1.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class NotHeldError(RuntimeError):
    """A run cannot be held; the message says why, and what to do."""


@dataclass(frozen=True)
class Owner:
    """A process, as the one that holds a run recorded itself.

    Parameters
    ----------
    host, boot
        Its machine, and the id of that machine's boot.
    pid, process_started_s
        The process; its start time (seconds since the epoch) tells it from a later one that
        got the same pid.
    """

    host: str
    boot: str
    pid: int
    process_started_s: float

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, one of this machine."""
        return self.host == socket.gethostname()

    def process(self) -> psutil.Process | None:
        """That very process of this machine, if it runs still."""
        if not self.is_here or self.boot != _boot_id():
            return None
        return find_process(self.pid, self.process_started_s)


def find_process(pid: int, started_s: float) -> psutil.Process | None:
    """The process with this pid that started at ``started_s``, if it runs still."""
    if pid <= 0:  # to a signal, these are groups of processes
        return None
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_s) < _SAME_START_S
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return None


def _this_process() -> Owner:
    return Owner(socket.gethostname(), _boot_id(), os.getpid(), psutil.Process().create_time())


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def read_owner(path: Path) -> Owner | None:
    """Who holds a file, as far as that can be seen from here; None if nobody is known to.

    Parameters
    ----------
    path
        The file. What it says of a process of another machine is believed, since the lock cannot
        be seen from here; of this machine's only the one that has the lock counts.
    """
    try:
        owner = Owner(**json.loads(path.read_bytes()))
        check_types(owner)
    except (OSError, *BAD_JSON):
        return None
    if not owner.is_here:
        return owner
    process = owner.process()
    return owner if process is not None and _has_lock(process, path) else None


def _has_lock(process: psutil.Process, path: Path) -> bool:
    """Whether a process of this machine has a lock on a file, by what the kernel says of it.

    Of somebody else's process the kernel does not say; but nor can that be ended from here.
    """
    folder = Path("/proc") / str(process.pid)
    try:
        descriptors = list((folder / "fd").iterdir())
    except OSError as error:
        return isinstance(error, PermissionError)
    for descriptor in descriptors:
        with suppress(OSError):
            is_locked = "lock:" in (folder / "fdinfo" / descriptor.name).read_text()
            if is_locked and descriptor.samefile(path):
                return True
    return False


@contextmanager
def held(path: Path, wait_s: float) -> Iterator[None]:
    """Hold the run folder that a file is in, and record in the file that this process does.

    Parameters
    ----------
    path
        The file; it is made if need be.
    wait_s
        How long to wait for another process that holds it.

    Raises
    ------
    NotHeldError
        If another process holds it, which the message names, or it cannot be locked or written.
    """
    run = path.parent
    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise NotHeldError(f"{run} cannot be written: {error.strerror}") from error
    with file:
        limit_s = time.monotonic() + wait_s
        while not lock_now(file, run):
            if time.monotonic() >= limit_s:
                raise NotHeldError(_held_text(path))
            time.sleep(_LOCK_POLL_S)
        file.truncate(0)
        json.dump(asdict(_this_process()), file)
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def lock_now(file: IO[str], run: Path) -> bool:
    """Lock an open file of a run folder; False if another process has it locked.

    Raises
    ------
    NotHeldError
        If its file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second from some network file systems
        return False
    except OSError as error:
        raise NotHeldError(
            f"{run} is on a file system without file locks ({error.strerror}), so two commands "
            "could run it at once without knowing; choose an --out elsewhere, or have it mounted "
            "with locks (Lustre: the option flock; NFS: version 4, or its lock service)"
        ) from error
    return True


def _held_text(path: Path) -> str:
    owner, run = read_owner(path), path.parent
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return (
        f"{run} is being run by {who}; watch it with "
        f"'python -m toolkit.sweep status {shlex.quote(str(run))}' or stop it with 'cancel'"
    )
