"""A run on a Slurm cluster: submitted, watched for as long as somebody likes, left alone."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console

from toolkit.cluster.commands import SlurmCommandError
from toolkit.cluster.dispatch import (
    SlurmSettings,
    Standing,
    TakenOverError,
    advance,
    cancel_jobs,
    look,
)
from toolkit.cluster.display import following
from toolkit.cluster.failure_log import forgive
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.keeper import cancel_keeper, has_keeper, submit_keeper
from toolkit.cluster.profiles import load_profile
from toolkit.cluster.queue import Queue, ask_queue, read_queue
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.submission import SubmissionError, recover_submissions
from toolkit.task import Task, TaskKind, TaskState

if TYPE_CHECKING:
    from toolkit.verbs.loading import Sweep

_REFRESH_S = 2.0  # of what is shown, from the run folder; the scheduler is asked less often
_CANCEL_S = 60.0
_CANCEL_QUERY_S = 5.0  # somebody waits
OTHERS_S = 60.0  # longer than another process holds a run on a cluster
_LEAVE_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def settings_of(sweep: Sweep) -> SlurmSettings:
    """The site's profile, and what jobs of each stage ask for.

    Raises
    ------
    ConfigError
        If there is no such profile, or it is wrong.
    """
    import toolkit
    from toolkit.results import git_sha

    executor = sweep.config.executor
    if executor.profile is None:
        raise sweep.source.error(
            ("executor",), "on Slurm, name the site: --profile NAME (of slurm/profiles) or a file"
        )
    profile = load_profile(executor.profile)
    dask, requests = sweep.config.dask, {}
    for kind in TaskKind:
        wanted, stage = getattr(sweep.config.resources, kind), profile.stage(kind)
        requests[kind] = JobRequest(
            n_cpus=wanted.cpus or stage.cpus,
            n_gpus=stage.gpus if wanted.gpus is None else wanted.gpus,
            memory_gb=wanted.memory_gb,
            timeout_min=wanted.timeout_min,
            n_nodes=dask.n_nodes if kind is TaskKind.ENCODE and dask.workers == "allocation" else 1,
        )
    return SlurmSettings(profile, requests, executor.canary_above, git_sha(toolkit.__path__[0]))


def is_slurm_run(folder: RunFolder) -> bool:
    """Whether the run was last meant for a cluster."""
    return "slurm" in folder.read_summary()


def settle_now(folder: RunFolder) -> None:
    """Look at the jobs and record what is over, if nobody else does right now."""
    if is_slurm_run(folder):
        settings = SlurmSettings.of_run(folder)
        with suppress(RunFolderError, SlurmCommandError), folder.owned():
            look(folder, settings)


def _submit_first(folder: RunFolder) -> Standing:
    try:
        return advance(folder)
    except SlurmCommandError as error:
        raise RunFolderError(str(error)) from error
    except SubmissionError as error:
        queue = read_queue(folder)
        others = queue.waiting_elements() if queue else {}
        left = f"; {len(others)} tasks are in the queue, 'cancel' takes them out" if others else ""
        raise RunFolderError(f"{error}{left}") from error


def dispatch(
    folder: RunFolder, again: Sequence[Task], console: Console, *, detach: bool
) -> Standing | None:
    """Submit, and watch until it is over or somebody leaves.

    Parameters
    ----------
    folder
        The run folder.
    again
        Tasks whose earlier failures no longer count.
    console
        Where to say so.
    detach
        Whether to leave at once.

    Returns
    -------
    How the run stands when it is over; None if it was left.

    Raises
    ------
    RunFolderError
        If Slurm cannot be asked, or refuses.
    """
    with folder.owned(wait_s=OTHERS_S):
        forgive(folder, [task.id for task in again])
        for task in again:
            folder.reopen(task.id)
    try:
        with _left_by_signals():
            standing = _submit_first(folder)
            console.print(_submitted_text(standing))
            if not detach:
                return _watch(folder, standing, console)
    except KeyboardInterrupt:
        console.print()
    _leave(folder, console)
    return None


def _submitted_text(standing: Standing) -> str:
    n_before = standing.n_queued - standing.n_submitted
    room = f", {standing.n_waiting} wait for room in it" if standing.n_waiting else ""
    return f"{standing.n_submitted} tasks submitted, {n_before} were in the queue already{room}."


def _watch(folder: RunFolder, standing: Standing, console: Console) -> Standing:
    interval_s = SlurmSettings.of_run(folder).profile.min_query_interval_s
    said = ""
    with following(folder, folder.tasks(), console, refresh_s=_REFRESH_S):
        looked_s = time.monotonic()
        while not standing.is_over:
            time.sleep(min(_REFRESH_S, interval_s))
            is_done = folder.done_ids().issuperset(task.id for task in folder.tasks())
            if not is_done and time.monotonic() - looked_s < interval_s:
                continue
            looked_s = time.monotonic()
            try:
                standing = advance(folder)
            except TakenOverError:
                raise
            except (SlurmCommandError, SubmissionError, RunFolderError) as error:
                if str(error) != said:
                    console.print(f"{error}; trying again", soft_wrap=True)
                said = str(error)
    return standing


def _leave(folder: RunFolder, console: Console) -> None:
    settings = SlurmSettings.of_run(folder)
    path = shlex.quote(str(folder.path))
    console.print("Left; the jobs go on. To see how they stand, and to collect:")
    for verb in ("status", "collect"):
        console.print(f"  python -m toolkit.sweep {verb} {path}", soft_wrap=True)
    try:
        job_id = submit_keeper(folder, settings)
    except SlurmCommandError as error:
        console.print(f"Nothing tries failed tasks again meanwhile: {error}", soft_wrap=True)
        return
    if job_id:
        console.print(f"Job {job_id} tries failed tasks again meanwhile, and collects at the end.")


def was_submitted(folder: RunFolder) -> bool:
    """Whether jobs of the run may be in the queue, by the records of what was submitted."""
    return (folder.path / "submissions").is_dir() or has_keeper(folder)


def cancel(folder: RunFolder, console: Console) -> int:
    """Take a run's jobs out of the queue, by the records of what was submitted: without its plan.

    Raises
    ------
    RunFolderError
        If Slurm cannot be told.
    """
    try:
        with folder.owned(wait_s=OTHERS_S):
            cancel_keeper(folder)
            recover_submissions(folder)
            queue = ask_queue(folder, _CANCEL_QUERY_S)
            elements = _unfinished_elements(folder, queue)
            cancel_jobs(queue.submissions, {element.partition("_")[0] for element in elements})
            n_left = _wait_for_end(folder, len(elements))
    except SlurmCommandError as error:
        raise RunFolderError(str(error)) from error
    ended = f"{len(elements)} jobs taken out of the queue" if elements else "Nothing is running"
    left = f"; {n_left} of them are still ending" if n_left else ""
    console.print(f"{ended}{left}. What is done stays done; run the config again to continue.")
    return 0


def _wait_for_end(folder: RunFolder, n_left: int) -> int:
    limit_s = time.monotonic() + _CANCEL_S
    while n_left and time.monotonic() < limit_s:
        time.sleep(_REFRESH_S)
        n_left = len(_unfinished_elements(folder, ask_queue(folder, _CANCEL_QUERY_S)))
    return n_left


def _unfinished_elements(folder: RunFolder, queue: Queue) -> set[str]:
    waiting = queue.waiting_elements()
    return {element for task_id, element in waiting.items() if not folder.is_done(task_id)}


def failed_tasks(folder: RunFolder) -> list[Task]:
    """Those whose record says that they are over, without a result."""
    over = (TaskState.FAILED, TaskState.CANCELLED, TaskState.BLOCKED)
    failed = {i for i, attempt in folder.attempts().items() if attempt.state in over}
    failed -= folder.done_ids()
    return [task for task in folder.tasks() if task.id in failed]


@contextmanager
def _left_by_signals() -> Iterator[None]:
    """Ctrl-C, a closed terminal and SIGTERM leave the run alone."""

    def leave(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, leave) for number in _LEAVE_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
