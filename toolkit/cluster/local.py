"""Run batches in processes of this machine, through submitit's LocalExecutor.

submitit starts every job at once and gives each the first GPUs; the bound on how many run at the
same time, the choice of free GPUs and the number of threads are decided here.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import psutil
import submitit

from toolkit.cluster.batches import Batch
from toolkit.cluster.inprocess import Work
from toolkit.cluster.ownership import find_process
from toolkit.cluster.run_folder import RunFolder
from toolkit.task import TaskKind, TaskState

_POLL_S = 0.2
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_DRIVER_VARIABLE = "TOOLKIT_SWEEP_PROCESS"
_WARNING_BEFORE_LIMIT_S = 10
_GPU_NAME = re.compile(r"\d+|GPU-[0-9a-fA-F-]+|MIG-[\w/-]+", re.ASCII)


@dataclass(frozen=True)
class JobResources:
    """What one job may use: threads, GPUs, and wall time in minutes."""

    n_cpus: int
    n_gpus: int
    timeout_min: int


@dataclass
class _Running:
    batch: Batch
    job: submitit.Job[None]
    gpus: tuple[str, ...]
    resources: JobResources
    started_s: float = field(default_factory=time.monotonic)


def available_gpus() -> tuple[str, ...]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Numbers, or ids such as ``GPU-8932f937-…`` and ``MIG-…``. As in CUDA, a name that is none ends
    the list.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        n_gpus = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        return tuple(map(str, range(n_gpus)))
    names = (name.strip() for name in visible.split(","))
    return tuple(dict.fromkeys(takewhile(_GPU_NAME.fullmatch, names)))


def run_local(
    run: RunFolder,
    batches: Sequence[Batch],
    work: Work,
    resources: dict[TaskKind, JobResources],
    max_parallel: int,
) -> None:
    """Run every batch in a process of its own, at most ``max_parallel`` at a time.

    A batch starts when the results that it waits for are published; it is left out when the
    batch that should publish them has ended without.

    Parameters
    ----------
    run
        The run folder; a task whose job ends without a word is recorded there as failed.
    batches
        In an order in which parents come first.
    work
        A picklable function that runs tasks by id with a number of threads.
    resources
        For each stage.
    max_parallel
        Bound on the jobs that run at the same time.
    """
    waiting = list(batches)
    running: list[_Running] = []
    free_gpus = list(available_gpus())
    executor = submitit.LocalExecutor(run.jobs_folder)
    try:
        while waiting or running:
            for ended in [entry for entry in running if entry.job.done()]:
                running.remove(ended)
                free_gpus += ended.gpus
                _record_unfinished(run, ended)
            waiting = _without_hopeless(run, waiting, running)
            for batch in [b for b in waiting if _is_ready(run, b)]:
                need = resources[batch.kind]
                if len(running) >= max_parallel or need.n_gpus > len(free_gpus):
                    break
                gpus = tuple(free_gpus[: need.n_gpus])
                del free_gpus[: need.n_gpus]
                running.append(_submit(executor, batch, work, need, gpus))
                waiting.remove(batch)
            time.sleep(_POLL_S)
    except BaseException:
        _stop(run, running)
        raise


def _is_ready(run: RunFolder, batch: Batch) -> bool:
    return all(run.is_done(task_id) for task_id in batch.waits_for)


def _without_hopeless(
    run: RunFolder, waiting: Sequence[Batch], running: Sequence[_Running]
) -> list[Batch]:
    coming = {i for batch in waiting for i in batch.task_ids}
    coming |= {i for entry in running for i in entry.batch.task_ids}
    return [
        batch for batch in waiting if all(i in coming or run.is_done(i) for i in batch.waits_for)
    ]


def _submit(
    executor: submitit.LocalExecutor,
    batch: Batch,
    work: Work,
    need: JobResources,
    gpus: tuple[str, ...],
) -> _Running:
    executor.update_parameters(
        timeout_min=need.timeout_min,
        gpus_per_node=need.n_gpus,
        signal_delay_s=_WARNING_BEFORE_LIMIT_S,
    )
    executor.parameters["visible_gpus"] = gpus  # given above, it would have to be of numbers
    me = psutil.Process()
    variables = dict.fromkeys(_THREAD_VARIABLES, str(need.n_cpus))
    variables[_DRIVER_VARIABLE] = f"{me.pid} {me.create_time()}"
    with _environment(variables):
        job = executor.submit(work_with_driver, work, list(batch.task_ids), need.n_cpus)
    return _Running(batch, job, gpus, need)


def work_with_driver(work: Work, task_ids: Sequence[str], n_cpus: int) -> None:
    """Run ``work`` in a job, which ends at once when the process that started it is gone.

    A killed sweep must not leave jobs behind that a second sweep would run again beside them.
    """
    pid, started_s = os.environ[_DRIVER_VARIABLE].split()

    def watch() -> None:
        while find_process(int(pid), float(started_s)) is not None:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    work(task_ids, n_cpus)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _record_unfinished(run: RunFolder, ended: _Running) -> None:
    """Name the reason for tasks whose job has ended without recording one.

    A task whose parent is not done was not tried: it is blocked, which needs no record.
    """
    elapsed_s = time.monotonic() - ended.started_s
    limit_s = 60 * ended.resources.timeout_min
    for task_id in ended.batch.task_ids:
        attempt = run.attempt(task_id)
        says_why = attempt is not None and attempt.state.is_terminal
        waits = not all(run.is_done(parent) for parent in run.task(task_id).inputs)
        if run.is_done(task_id) or says_why or waits:
            continue
        if elapsed_s >= limit_s - _WARNING_BEFORE_LIMIT_S - 1:
            why = "timeout", f"the job's limit of {ended.resources.timeout_min} min was reached"
        else:
            died = "the job's process ended early, often for lack of memory"
            why = "killed", f"{died}; see {ended.job.paths.stderr}"
        run.record_end(task_id, TaskState.FAILED, *why)


def _stop(run: RunFolder, running: Sequence[_Running]) -> None:
    """End the running jobs, with the processes they started, and record it."""
    processes = [p for entry in running for p in _process_tree(int(entry.job.job_id))]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=3)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for entry in running:
        for task_id in entry.batch.task_ids:
            if not run.is_done(task_id) and run.attempt(task_id) is not None:
                run.record_end(task_id, TaskState.CANCELLED, "cancelled", "the sweep was stopped")


def _process_tree(pid: int) -> list[psutil.Process]:
    """A process that this one started, and those that it started; none if it is gone."""
    with suppress(psutil.NoSuchProcess):
        child = psutil.Process(pid)
        if child.ppid() == os.getpid():
            return [*child.children(recursive=True), child]
    return []
