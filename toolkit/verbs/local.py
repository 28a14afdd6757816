"""A run on this machine: held by one process until it is over."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import psutil
from rich.console import Console

from toolkit.cluster.batches import make_batches
from toolkit.cluster.display import following
from toolkit.cluster.inprocess import run_inprocess
from toolkit.cluster.queue import read_queue
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.config import ExecutorConfig, StageResources
from toolkit.task import Task, TaskKind, TaskState
from toolkit.verbs.loading import Sweep
from toolkit.verbs.viewing import finish

if TYPE_CHECKING:
    from toolkit.cluster.local import JobResources

_ON_GPU = (TaskKind.EXTRACT, TaskKind.TRAIN)
_REBUILT = ("damaged_features", "bad_result")  # by a second round, where the first found them
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ORPHANS_S = 10.0  # jobs of a killed sweep end by themselves within a second or two


def refuse_impossible_resources(sweep: Sweep) -> None:
    """A job that this machine can never start is refused."""
    from toolkit.cluster.local import available_gpus

    n_gpus = len(available_gpus())
    for stage in TaskKind:
        wanted = getattr(sweep.config.resources, stage).gpus
        if wanted is not None and wanted > n_gpus:
            raise sweep.source.error(
                ("resources", stage, "gpus"), f"{wanted} GPUs wanted, this machine has {n_gpus}"
            )


def detach(folder: RunFolder, words: Sequence[str], console: Console) -> int:
    """Run a command of the sweep, given by its words, in a process of its own."""
    command = [sys.executable, "-m", "toolkit.sweep", *words]
    with (folder.path / "logs" / "sweep.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    console.print(f"Runs on as process {process.pid}. To see how it stands:")
    console.print(
        f"  python -m toolkit.sweep status {shlex.quote(str(folder.path))}", soft_wrap=True
    )
    return 0


def dispatch(folder: RunFolder, tasks: Sequence[Task], console: Console) -> int:
    """Run tasks until they are done or have failed, then collect.

    Raises
    ------
    RunFolderError
        If another process runs them, or the scheduler is to.
    """
    with folder.owned(), _stopped_by_signals():
        refuse_jobs_in_queue(folder)
        _wait_for_orphans(folder)
        for is_last in (False, True):
            try:
                _run_round(folder, tasks, console)
            except KeyboardInterrupt:
                console.print("Stopped; run the same command again to continue.")
                return finish(folder, console)
            status = finish(folder, console)
            if is_last or not _found_damage(folder, tasks):
                break
            console.print("What was damaged is computed again.")
        return status


def stop(folder: RunFolder, console: Console) -> int:
    """End the process that runs a run, and its jobs."""
    owner = folder.owner()
    if owner is None:
        with folder.owned():  # refused where somebody holds it of whom there is no record
            console.print("Nothing is running.")
        return 0
    process = owner.process()
    if process is None:
        raise RunFolderError(f"the run is held on {owner.host}; cancel it there")
    try:
        process.terminate()
    except psutil.AccessDenied as error:
        raise RunFolderError(f"process {owner.pid} belongs to somebody else") from error
    except psutil.NoSuchProcess:
        pass
    deadline = time.monotonic() + _ORPHANS_S
    while folder.owner() == owner and time.monotonic() < deadline:
        time.sleep(0.1)
    if folder.owner() == owner:
        raise RunFolderError(f"process {owner.pid} has not stopped yet; see 'status'")
    console.print("Stopped. What is done stays done; run the config again to continue.")
    return 0


def refuse_jobs_in_queue(folder: RunFolder) -> None:
    """What the scheduler is to do must not be done here too."""
    queue = read_queue(folder)
    waiting = (queue.waiting_elements().keys() - folder.done_ids()) if queue else ()
    if waiting:
        raise RunFolderError(
            f"{len(waiting)} tasks of {folder.path} are in Slurm's queue; leave --executor "
            "out, or take them out first with 'cancel'"
        )


def _run_round(folder: RunFolder, tasks: Sequence[Task], console: Console) -> None:
    from jobs.run import run_tasks

    todo = [task for task in tasks if not folder.is_done(task.id)]
    for task in todo:
        folder.reopen(task.id)
    with folder.reading_plan():
        settings = folder.read_summary()
        executor = ExecutorConfig.model_validate(settings["executor"])
        resources = StageResources.model_validate(settings["resources"])
    work = partial(run_tasks, str(folder.path))
    with following(folder, todo, console):
        if executor.kind == "inprocess":
            cpus = {kind: getattr(resources, kind).cpus for kind in TaskKind}
            run_inprocess(make_batches(todo), work, cpus)
        else:
            from toolkit.cluster.local import run_local

            jobs = job_resources(resources, executor.max_parallel)
            batches = make_batches(todo, one_job_per_network=not jobs[TaskKind.EXTRACT].n_gpus)
            run_local(folder, batches, work, jobs, executor.max_parallel)


def job_resources(resources: StageResources, max_parallel: int) -> dict[TaskKind, JobResources]:
    """What a job of each stage may use of this machine, where its cores are shared by several."""
    from toolkit.cluster.local import JobResources, available_gpus

    n_cores = len(os.sched_getaffinity(0))
    found = {}
    for kind in TaskKind:
        stage = getattr(resources, kind)
        one_if_any = min(1, len(available_gpus())) if kind in _ON_GPU else 0
        found[kind] = JobResources(
            n_cpus=stage.cpus or max(1, n_cores // max_parallel),
            n_gpus=one_if_any if stage.gpus is None else stage.gpus,
            timeout_min=stage.timeout_min,
        )
    return found


def _wait_for_orphans(folder: RunFolder) -> None:
    """Let the jobs of a killed sweep notice that it is gone and end."""
    deadline = time.monotonic() + _ORPHANS_S
    while time.monotonic() < deadline:
        running = [a for a in folder.attempts().values() if a.state is TaskState.RUNNING]
        if not any(folder.is_alive(attempt) for attempt in running):
            return
        time.sleep(0.2)


def _found_damage(folder: RunFolder, tasks: Sequence[Task]) -> bool:
    attempts = (folder.attempt(task.id) for task in tasks)
    return any(a is not None and a.error_class in _REBUILT for a in attempts)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, so that jobs are stopped in order.

    A shell starts background processes with SIGINT ignored; `cancel` sends SIGTERM.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
