"""A Dask cluster whose workers are Slurm jobs of their own, submitted by dask-jobqueue."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed.deploy.spec import ProcessInterface

from toolkit.encoding.slurm_workers import (
    DEATH_TIMEOUT_S,
    MAKE_TMPDIR,
    NodeWorker,
    kept_up,
    last_lines,
    limit_bytes,
    outside_of_jobs,
)

MEMORY_OPTION = "--mem="
# Share of its lifetime by which a worker's end may be moved, so that they do not end together.
_STAGGER = 0.05


@dataclass(frozen=True)
class JobState:
    """What Slurm says of a job.

    Attributes
    ----------
    words
        Such as ``PENDING (Resources)``; ``unknown`` if it does not know the job or does not answer.
    is_waiting
        Whether it has not begun.
    is_over
        Whether nothing follows.
    """

    words: str = "unknown"
    is_waiting: bool = False
    is_over: bool = False


@contextmanager
def queued_workers(
    n_workers: int,
    worker: NodeWorker,
    *,
    directives: Sequence[str],
    asks_memory: bool,
    job_name: str,
    time_limit_min: int,
    warning_s: int,
    job_state: Callable[[str], JobState],
    ask_interval_s: float,
    timeout_s: float = 60.0,
) -> Iterator[str]:
    """A Dask cluster whose workers are Slurm jobs of their own.

    A worker retires before its time limit and is replaced by a new job, like one that is lost.

    Parameters
    ----------
    n_workers
        Jobs, of one worker each.
    worker
        In each of them.
    directives
        Further options of ``sbatch``: partition, account and the like.
    asks_memory
        Whether jobs ask for memory.
    job_name
        What the queue shows.
    time_limit_min
        Of each job, minutes.
    warning_s
        How long before it a worker is to have retired.
    job_state
        Asks Slurm about a job, given its id.
    ask_interval_s
        Least seconds between two questions about a job that has not joined.
    timeout_s
        How long to wait for the first worker.

    Yields
    ------
    str
        The scheduler's address, once it has a worker.

    Raises
    ------
    ComputeError
        If Slurm refuses the jobs, or all have ended before they joined; with the reason.
    WorkersLateError
        If none joins within ``timeout_s``; with the reason for which they wait.
    """
    limit_s = 60.0 * time_limit_min
    stagger_s = _STAGGER * limit_s
    lifetime_s = max(limit_s - warning_s - stagger_s, stagger_s)
    log = worker.log_folder / "dask-%j.log"
    cluster = _JobCluster(
        n_workers=n_workers,
        job_state=job_state,
        ask_interval_s=ask_interval_s,
        log=log,
        cores=worker.n_threads,
        processes=1,
        memory=f"{limit_bytes(worker.memory_bytes)}B",
        job_mem=f"{worker.memory_bytes >> 20}M",
        walltime=str(time_limit_min),
        job_name=job_name,
        job_extra_directives=[
            *directives,
            f"--output={shlex.quote(str(log))}",
            "--open-mode=append",
        ],
        job_directives_skip=[] if asks_memory else [MEMORY_OPTION],
        job_script_prologue=[*worker.setup, MAKE_TMPDIR],
        python=f"{worker.python} -u -P",
        death_timeout=DEATH_TIMEOUT_S,
        local_directory='"$TMPDIR"',
        worker_extra_args=[
            "--no-dashboard",
            *("--lifetime", f"{lifetime_s:.0f}s", "--lifetime-stagger", f"{stagger_s:.0f}s"),
        ],
        scheduler_options={"dashboard_address": ":0"},
    )
    with closing(cluster):
        yield kept_up(cluster, n_workers, timeout_s)


class _WorkerJob(SLURMJob):
    """A worker in a job of its own, submitted as if from outside of any."""

    def __init__(
        self,
        *args: Any,
        job_state: Callable[[str], JobState],
        ask_interval_s: float,
        log: Path,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._ask, self._ask_interval_s, self._log = job_state, ask_interval_s, log
        self._asked_s = time.monotonic()
        self._state = JobState()
        self._refusal = ""

    async def _submit_job(self, script_filename: str) -> str:
        return await self._call([self.submit_command, script_filename], env=outside_of_jobs())

    async def start(self) -> None:
        try:
            await super().start()
        except (OSError, RuntimeError, ValueError) as error:
            said = re.findall(r"^sbatch: error: (.*)$", str(error), re.MULTILINE)
            self._refusal = "; ".join(said) or str(error)
            await ProcessInterface.start(self)

    async def close(self) -> None:
        await super().close()
        await ProcessInterface.close(self)

    def is_over(self) -> bool:
        if self._refusal:
            return True
        if self.job_id and time.monotonic() - self._asked_s > self._ask_interval_s:
            self._asked_s = time.monotonic()
            self._state = self._ask(self.job_id)
        return self._state.is_over

    def last_words(self) -> str:
        if not self.job_id:
            return f"Slurm did not take a worker's job: {self._refusal or 'no answer yet'}"
        state = self._ask(self.job_id)
        words = f"job {self.job_id} is {state.words}"
        said = last_lines(Path(str(self._log).replace("%j", self.job_id)))
        return words if state.is_waiting else f"{words}; {said}"


class _JobCluster(SLURMCluster):
    job_cls = _WorkerJob  # type: ignore[assignment]
