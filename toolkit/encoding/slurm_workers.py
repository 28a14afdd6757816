"""What Dask workers on a Slurm cluster share, however they are started: they are replaced.

The scheduler is in this process. Its workers are steps of the job that this process belongs to
(:mod:`toolkit.encoding.slurm_steps`), or jobs of their own (:mod:`toolkit.encoding.slurm_jobs`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distributed import Adaptive, SpecCluster

from toolkit.encoding.compute import ComputeError

# How long a worker looks for a scheduler that does not answer.
DEATH_TIMEOUT_S = 60
# Shell: the worker may write there in any case.
MAKE_TMPDIR = 'mkdir -p "${TMPDIR:=/tmp}"'

# For the process beside each worker that starts it again.
_NANNY_BYTES = 2**28
_POLL_S = 0.2
_KEEP_INTERVAL_S = 5.0
_LOG_TAIL_BYTES = 4096
_N_LAST_LINES = 3


class WorkersLateError(ComputeError):
    """The workers may still come, but nobody waits for them."""

    error_class = "not_started"


@dataclass(frozen=True)
class NodeWorker:
    """What one worker is given.

    Attributes
    ----------
    n_threads
        Dask threads, one for each core.
    memory_bytes
        Of its node, for all that is started there.
    python
        Shell words that start Python there, such as ``apptainer exec image.sif python``.
    setup
        Shell lines before it; what they set ``TMPDIR`` to is where the worker may write.
    log_folder
        Where it says what it does; on storage that nodes share.
    """

    n_threads: int
    memory_bytes: int
    python: str
    setup: tuple[str, ...]
    log_folder: Path


class _Startable(Protocol):
    """A worker that this process started."""

    def is_over(self) -> bool:
        """Whether it has ended, so that it cannot join any more; may take a moment."""

    def last_words(self) -> str:
        """What is known of one that has not joined."""


class _KeptUp(Adaptive):
    """Replaces the workers that are lost, and also those that end before they join."""

    async def recommendations(self, target: int) -> dict[str, Any]:
        for name, worker in list(self.cluster.workers.items()):
            if name not in self.observed and await asyncio.to_thread(worker.is_over):
                await worker.close()
                self.cluster.workers.pop(name, None)
        return await super().recommendations(target)


def kept_up(cluster: SpecCluster, n_workers: int, timeout_s: float) -> str:
    """The address of a scheduler that has its first worker; all are replaced from now on.

    Raises
    ------
    ComputeError
        If all have ended before they joined; with their last words.
    WorkersLateError
        If none joins within ``timeout_s``.
    """
    _await_first(cluster, timeout_s)
    cluster.adapt(
        Adaptive=_KeptUp, minimum=n_workers, maximum=n_workers, interval=f"{_KEEP_INTERVAL_S} s"
    )
    return str(cluster.scheduler_address)


def _await_first(cluster: SpecCluster, timeout_s: float) -> None:
    limit_s = time.monotonic() + timeout_s
    while not cluster.scheduler.workers:
        workers: list[_Startable] = list(cluster.workers.values())
        if workers and all(worker.is_over() for worker in workers):
            raise ComputeError(f"no Dask worker could be started: {_last_words(workers)}")
        if time.monotonic() > limit_s:
            raise WorkersLateError(
                f"no Dask worker joined within {timeout_s:g} s: {_last_words(workers)}"
            )
        time.sleep(_POLL_S)


def _last_words(workers: Sequence[_Startable]) -> str:
    words = dict.fromkeys(worker.last_words() for worker in workers)
    return "; ".join(words) or "Slurm has not answered yet"


def outside_of_jobs() -> dict[str, str]:
    """The environment without what Slurm told this job, but still of the same cluster."""
    of_jobs = ("SLURM_", "SLURMD_", "SRUN_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(of_jobs)}
    configuration = os.environ.get("SLURM_CONF")
    return kept | ({"SLURM_CONF": configuration} if configuration else {})


def limit_bytes(memory_bytes: int) -> int:
    """What a worker may use of the memory for it and its nanny.

    Raises
    ------
    ComputeError
        If that is too little to work with.
    """
    if memory_bytes <= 2 * _NANNY_BYTES:
        raise ComputeError(
            f"a Dask worker would have {memory_bytes / 1e9:.2f} GB on its node: give memory_gb of "
            f"resources.encode so that it has more than {2 * _NANNY_BYTES / 1e9:.2f}"
        )
    return memory_bytes - _NANNY_BYTES


def last_lines(log: Path) -> str:
    """What a worker said last, in words."""
    try:
        lines = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = [line.strip() for line in lines if line.strip()][-_N_LAST_LINES:]
    return f"it said last: {' | '.join(said)} (see {log})" if said else f"it said nothing in {log}"
