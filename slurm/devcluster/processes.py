"""Daemons known by process id and start time, and processes known by their environment."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_SAME_START_S = 1.0
_TAIL_LINES = 40
_MAX_ROUNDS = 10
_KILL_LIMIT_S = 5.0
_POLL_S = 0.02
# Which daemon a process is or stems from; slurmstepd has it from slurmd.
_DAEMON = "SLURM_DEVCLUSTER"


@dataclass(frozen=True)
class Daemons:
    """The daemons of one cluster: each has a record and a log in the cluster's folder.

    Parameters
    ----------
    folder
        The cluster's folder.
    environment
        What every daemon gets.
    """

    folder: Path
    environment: dict[str, str]

    def record_path(self, name: str) -> Path:
        """Process id and start time of a daemon."""
        return self.folder / "daemons" / f"{name}.json"

    def output_path(self, name: str) -> Path:
        """What a daemon printed."""
        return self.folder / "log" / f"{name}.out"

    def start(self, name: str, arguments: Sequence[str], **environment: str) -> psutil.Process:
        """Start a program in a session of its own and record it.

        Parameters
        ----------
        name
            What to call it.
        arguments
            The program's absolute path and its arguments.
        **environment
            Further variables.
        """
        variables = {**self.environment, **environment, _DAEMON: name}
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            arguments[0],
            list(arguments),
            variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.output_path(name)), append, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        process = psutil.Process(pid)
        record = {"pid": pid, "started_s": process.create_time()}
        self.record_path(name).write_text(json.dumps(record), encoding="utf-8")
        return process

    def process(self, name: str) -> psutil.Process | None:
        """The recorded process, if it is still that one and runs."""
        try:
            record = json.loads(self.record_path(name).read_text(encoding="utf-8"))
            process = psutil.Process(record["pid"])
            same = abs(process.create_time() - record["started_s"]) < _SAME_START_S
            environment = _environment(process.pid)
            if environment:  # of some the kernel does not say with which they started
                same &= environment.get(_DAEMON) == name
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, KeyError, TypeError, OverflowError, psutil.NoSuchProcess):
            return None

    def running(self) -> dict[str, psutil.Process]:
        """Daemons that run, in the order in which they were started."""
        names = [path.stem for path in (self.folder / "daemons").glob("*.json")]
        found = {name: process for name in names if (process := self.process(name))}
        return dict(sorted(found.items(), key=lambda item: item[1].create_time()))

    def stop(self, name: str, patience_s: float = 5.0) -> None:
        """Ask a daemon to end; kill it when it does not in time."""
        process = self.process(name)
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
            if not _are_gone([process], patience_s):
                kill([process])

    def tail(self, name: str) -> str:
        """The last lines that a daemon printed."""
        try:
            text = self.output_path(name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "(it printed nothing)"
        return "\n".join(text.splitlines()[-_TAIL_LINES:])


def slurmd(node: str) -> str:
    """What the daemon of a node is called."""
    return f"slurmd.{node}"


def kill(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    processes = list(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    _are_gone(processes, _KILL_LIMIT_S)


def _are_gone(processes: Sequence[psutil.Process], timeout_s: float) -> bool:
    """Whether processes end in time; one that only waits to be reaped has ended."""
    limit_s = time.monotonic() + timeout_s
    while any(map(_is_alive, processes)):
        if time.monotonic() > limit_s:
            return False
        time.sleep(_POLL_S)
    return True


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.TimeoutExpired):
        process.wait(0)  # reaps it, if it is a child of this process
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _environment(pid: int) -> dict[str, str]:
    """The environment with which a process started; empty when it cannot be read.

    Read here because psutil stops at the gap that slurmstepd's change of its title leaves.
    """
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    lines = (os.fsdecode(line).partition("=") for line in raw.split(b"\0") if line)
    return {name: value for name, _, value in lines}


def strays(conf_path: Path, node: str | None = None) -> list[psutil.Process]:
    """Daemons of a cluster and what its jobs run, with all that these have started.

    They are known by ``SLURM_CONF`` in the environment in which they started. A user's own
    programs that have it too, such as a shell from which jobs are submitted, are not among them.

    Parameters
    ----------
    conf_path
        The cluster's slurm.conf.
    node
        Only what runs on this node.
    """
    found = {}
    me = psutil.Process()
    spared = {me.pid, *(process.pid for process in me.parents())}
    for process in psutil.process_iter():
        variables = _environment(process.pid)
        ours = variables.get("SLURM_CONF") == str(conf_path)
        is_daemon, is_job = _DAEMON in variables, "SLURM_JOB_ID" in variables
        there = node is None or (
            variables.get("SLURMD_NODENAME") == node or variables.get(_DAEMON) == slurmd(node)
        )
        if ours and there and (is_daemon or is_job):
            with suppress(psutil.NoSuchProcess):
                for one in (process, *process.children(recursive=True)):
                    found[one.pid] = one
    return [process for pid, process in found.items() if pid not in spared and _is_alive(process)]


def kill_strays(conf_path: Path, node: str | None = None) -> None:
    """Kill what :func:`strays` finds, and what that started meanwhile."""
    for _ in range(_MAX_ROUNDS):
        found = strays(conf_path, node)
        if not found:
            return
        kill(found)
