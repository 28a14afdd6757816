"""What a job does: its tasks one after the other, each with its own record, log and result."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from jobs.interruption import Interruption, JobEndingError
from jobs.session import Session
from toolkit.cluster.run_folder import Attempt, RunFolder
from toolkit.task import Task, TaskKind, TaskState

_log = logging.getLogger("toolkit")

_PROGRESS_INTERVAL_S = 1.0

Progress = Callable[[int, int], None]


def run_tasks(
    run_path: str,
    task_ids: Sequence[str],
    n_cpus: int | None,
    interruption: Interruption | None = None,
) -> None:
    """Run those of these tasks that are planned; see :func:`work_through`."""
    run = RunFolder(run_path)
    work_through(run, run.find_tasks(task_ids), n_cpus, interruption)


def work_through(
    run: RunFolder,
    tasks: Sequence[Task],
    n_cpus: int | None = None,
    interruption: Interruption | None = None,
) -> None:
    """Run tasks in order; one that fails is recorded and the next one runs.

    Parameters
    ----------
    run
        The run folder.
    tasks
        Parents first. Tasks that are done are left out; so are those whose parents are not.
    n_cpus
        Threads that numerical libraries may use; None for all cores of this process.
    interruption
        Where the scheduler's announcement of the job's end is noticed.

    Raises
    ------
    JobEndingError
        If that came: the task at hand is to be continued, later ones have not begun.
    """
    interruption = interruption or Interruption()
    with closing(Session(run, n_cpus or len(os.sched_getaffinity(0)))) as session:
        for task in tasks:
            interruption.check()
            if not run.is_done(task.id) and all(run.is_done(parent) for parent in task.inputs):
                _run_task(task, session, interruption)


def _run_task(task: Task, session: Session, interruption: Interruption) -> None:
    run = session.run
    attempt = run.start_attempt(task.id)
    with _logging_to(run.log_path(task.id)), run.heartbeat(task.id):
        _log.info("start %s (%s), attempt %d", task.label, task.id, attempt.number)
        try:
            _work_of(task.kind)(task, session, _recorder(run, attempt, interruption))
        except JobEndingError as error:
            _log.info("%s; the task will be continued", error)
            last = run.attempt(task.id) or attempt
            run.record(
                replace(
                    last,
                    state=TaskState.PENDING,
                    error_class=error.error_class,
                    error_message=str(error),
                    n_timeouts=last.n_timeouts + (error.error_class == "timeout"),
                )
            )
            raise
        except BaseException as error:
            state = TaskState.FAILED if isinstance(error, Exception) else TaskState.CANCELLED
            _log.exception("%s: %s", state, task.label)
            last = run.attempt(task.id) or attempt
            run.record(
                replace(
                    last, state=state, error_class=error_class(error), error_message=_text(error)
                )
            )
            if not isinstance(error, Exception) or error_class(error) == "timeout":
                raise
        else:
            run.forget_attempt(task.id)
            _log.info("done %s", task.label)


def _work_of(kind: TaskKind) -> Callable[[Task, Session, Progress], None]:
    if kind is TaskKind.EXTRACT:
        from jobs.extract import extract_features

        return extract_features
    if kind is TaskKind.TRAIN:
        from jobs.train import train_network

        return train_network
    if kind is TaskKind.PROBE:
        from jobs.probe import say_where

        return say_where
    from jobs.encode import encode_layer

    return encode_layer


def _recorder(run: RunFolder, attempt: Attempt, interruption: Interruption) -> Progress:
    """Write progress into the attempt's record, at most once a second and at the end."""
    started = last = time.monotonic()

    def record(n_done: int, n_total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_INTERVAL_S or n_done == n_total or last == started:
            last = now
            _log.info("%d of %d", n_done, n_total)
            run.record(replace(attempt, seconds=now - started, n_done=n_done, n_total=n_total))
        if n_done < n_total:
            interruption.check()

    return record


def error_class(error: BaseException) -> str:
    """Short name of what went wrong: the exception's own ``error_class``, or what its type says."""
    own = getattr(error, "error_class", None)
    if isinstance(own, str):
        return own
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    by_type = {
        "UncompletedJobError": "timeout",
        "OutOfMemoryError": "cuda_out_of_memory",
        "MemoryError": "out_of_memory",
        "ModuleNotFoundError": "import_error",
        "ImportError": "import_error",
        "KeyboardInterrupt": "cancelled",
        "SystemExit": "cancelled",
    }
    return by_type.get(type(error).__name__, "unknown")


def _text(error: BaseException) -> str:
    name = "" if hasattr(error, "error_class") else f"{type(error).__name__}: "
    return "; ".join([f"{name}{error}", *getattr(error, "__notes__", ())])


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    level = _log.level
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)
        handler.close()
