"""A Dask cluster inside one Slurm job: the scheduler in its process, a worker on each node."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from distributed import Scheduler, SpecCluster
from distributed.deploy.spec import ProcessInterface

from toolkit.encoding.compute import ComputeError
from toolkit.encoding.slurm_workers import (
    DEATH_TIMEOUT_S,
    MAKE_TMPDIR,
    NodeWorker,
    kept_up,
    last_lines,
    limit_bytes,
    outside_of_jobs,
)

_TERMINATION_S = 10.0


@contextmanager
def allocated_workers(
    nodes: Sequence[str], worker: NodeWorker, *, timeout_s: float = 60.0
) -> Iterator[str]:
    """A Dask cluster inside the Slurm job that this process belongs to.

    ``srun`` starts a worker on each node, and again where it ends. Beside a worker, half of the
    memory is left to the process that asks, which has one of the nodes.

    Parameters
    ----------
    nodes
        Of the job.
    worker
        On each of them.
    timeout_s
        How long to wait for the first of them.

    Yields
    ------
    str
        The scheduler's address, once it has a worker.

    Raises
    ------
    ComputeError
        If this process belongs to no job, or no worker can be started; with what they said last.
    WorkersLateError
        If none joins within ``timeout_s``.
    """
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is None:
        raise ComputeError(
            "this process belongs to no Slurm job, so there are no nodes for its Dask workers: run "
            "with --executor slurm, or write dask: {workers: jobqueue} or {workers: processes}"
        )
    scheduler_file = _new_scheduler_file(worker.log_folder, job_id)
    script = _script(worker, scheduler_file)
    steps = {
        node: {
            "cls": _WorkerStep,
            "options": {
                "command": [*_srun(job_id, node, worker.n_threads), "bash", "-c", script, node],
                "log": worker.log_folder / f"dask-{job_id}-{node}.log",
            },
        }
        for node in nodes
    }
    options = {"dashboard_address": ":0", "scheduler_file": str(scheduler_file)}
    cluster = SpecCluster(
        workers=steps, scheduler={"cls": Scheduler, "options": options}, silence_logs="error"
    )
    with closing(cluster):
        yield kept_up(cluster, len(nodes), timeout_s)


class _WorkerStep(ProcessInterface):
    """A worker in a step of this job, on one of its nodes."""

    def __init__(self, _scheduler: str, name: str, command: Sequence[str], log: Path) -> None:
        super().__init__()
        self._node, self._command, self._log = name, command, log
        self._process: subprocess.Popen[bytes] | None = None
        self._refusal = ""

    async def start(self) -> None:
        try:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._command,
                    env=outside_of_jobs(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        except OSError as error:
            self._refusal = str(error)
        await super().start()

    async def close(self) -> None:
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
        await super().close()

    def is_over(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def last_words(self) -> str:
        return f"{self._node}: {self._refusal or last_lines(self._log)}"


def _end(srun: subprocess.Popen[bytes]) -> None:
    """USR1 is passed on and ends the worker, then its shell; TERM would kill both at once."""
    for signal_ in (signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL):
        srun.send_signal(signal_)
        with suppress(subprocess.TimeoutExpired):
            srun.wait(_TERMINATION_S)
            return


def _new_scheduler_file(folder: Path, job_id: str) -> Path:
    """One that no start of this job, or of another, has written."""
    for stale in folder.glob(f"dask-{job_id}-*.json"):
        with suppress(FileNotFoundError):
            stale.unlink()
    return folder / f"dask-{job_id}-{os.environ.get('SLURM_RESTART_COUNT', '0')}.json"


def _script(worker: NodeWorker, scheduler_file: Path) -> str:
    """Of a worker in a step; ``$0`` is its node."""
    command = (
        f"{worker.python} -u -P -m distributed.cli.dask_worker --scheduler-file "
        f'{shlex.quote(str(scheduler_file))} --name "$0" --nthreads {worker.n_threads} '
        f"--memory-limit {limit_bytes(worker.memory_bytes // 2)} --nanny --no-dashboard "
        f'--death-timeout {DEATH_TIMEOUT_S} --local-directory "$TMPDIR"'
    )
    # The warning that the job's time is over is for the process that asks; and what setup wants to
    # do at the end is done when the worker has ended.
    return "\n".join(["trap '' USR2", "trap : USR1 TERM", *worker.setup, MAKE_TMPDIR, command])


def _srun(job_id: str, node: str, n_cores: int) -> list[str]:
    return [
        "srun",
        f"--jobid={job_id}",
        "--nodes=1",
        "--ntasks=1",
        f"--nodelist={node}",
        f"--cpus-per-task={n_cores}",
        "--overlap",
        "--kill-on-bad-exit=0",
        "--unbuffered",
    ]
