"""What became of the jobs that are over: why tasks have no result, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit.cluster.failure_log import (
    Failure,
    append_failures,
    histories,
    read_failures,
    utc_now,
)
from toolkit.cluster.failures import (
    FailureClass,
    classify,
    last_words,
    peak_memory_gb,
    says_why,
)
from toolkit.cluster.manifests import element_log_path
from toolkit.cluster.queue import Place, Queue
from toolkit.cluster.retries import (
    GiveUp,
    NextStep,
    PastAttempt,
    RetryPolicy,
    StopFamily,
    next_step,
)
from toolkit.cluster.run_folder import Attempt, RunFolder
from toolkit.cluster.scheduler_output import SchedulerView
from toolkit.task import Task, TaskKind, TaskState

_STATE_OF = {FailureClass.CANCELLED: TaskState.CANCELLED}


def family_of(task: Task) -> str:
    """What fails together where the environment is at fault: extractions by library, or a stage."""
    library = task.params["library"] if task.kind is TaskKind.EXTRACT else ""
    return f"{task.kind} {library}".strip()


@dataclass(frozen=True)
class Verdicts:
    """What follows from all failures so far.

    Parameters
    ----------
    steps
        For each task that has failed since it was forgiven last, what follows.
    history
        Its failures, oldest first.
    stopped
        For each family of which nothing more is tried, why.
    """

    steps: Mapping[str, NextStep]
    history: Mapping[str, Sequence[PastAttempt]]
    stopped: Mapping[str, str]

    def is_given_up(self, task: Task) -> bool:
        """Whether the task is not to be tried again."""
        step = self.steps.get(task.id)
        return isinstance(step, GiveUp | StopFamily) or family_of(task) in self.stopped


def judge(run: RunFolder, tasks: Sequence[Task], policy: RetryPolicy) -> Verdicts:
    """Apply the policy to every recorded failure of tasks that are not done."""
    history = histories(read_failures(run))
    steps = {task_id: next_step(attempts, policy) for task_id, attempts in history.items()}
    stopped: dict[str, str] = {}
    for task in tasks:
        if isinstance(steps.get(task.id), StopFamily):
            stopped.setdefault(
                family_of(task), f"{history[task.id][-1].failure} in {task.label} ({task.id})"
            )
    return Verdicts(steps, history, stopped)


def settle(
    run: RunFolder, tasks: Sequence[Task], queue: Queue, policy: RetryPolicy
) -> list[Failure]:
    """Record why tasks whose jobs are over have no result; what is recorded stays as it is.

    To be called by the process that holds the run.

    Parameters
    ----------
    run
        The run folder.
    tasks
        Those that are planned.
    queue
        How their jobs stand.
    policy
        What stops a whole family.

    Returns
    -------
    list of Failure
        Those that were not recorded yet.
    """
    done = run.done_ids()
    recorded = {(failure.task_id, failure.element) for failure in read_failures(run)}
    stopped = judge(run, tasks, policy).stopped
    found = []
    for task in tasks:
        place = queue.place(task.id)
        if place is None or task.id in done or not queue.has_ended(task.id):
            continue
        if (task.id, place.element) in recorded:
            continue
        attempt = _attempt_at(run, task.id, place)
        is_untried = attempt is None and (
            not done.issuperset(task.inputs)
            or family_of(task) in stopped
            or _others_were_tried(run, task.id, place, done)
        )
        failure = _failure(run, task, place, queue.view(task.id), attempt, is_untried=is_untried)
        n_tries = max(1, attempt.n_timeouts if attempt is not None else 1)
        found += [failure] * (n_tries if failure.failure is FailureClass.TIMEOUT else 1)
    append_failures(run, found)
    for failure in found:
        _show(run, failure)
    return found


def _attempt_at(run: RunFolder, task_id: str, place: Place) -> Attempt | None:
    """The task's own record of its try in this element."""
    attempt = run.attempt(task_id)
    return attempt if attempt is not None and attempt.element == place.element else None


def _others_were_tried(run: RunFolder, task_id: str, place: Place, done: set[str]) -> bool:
    """Whether the job ended over another of its tasks."""
    others = set(place.submission.elements[place.index]) - {task_id}
    return any(i in done or _attempt_at(run, i, place) is not None for i in others)


def _failure(
    run: RunFolder,
    task: Task,
    place: Place,
    view: SchedulerView | None,
    attempt: Attempt | None,
    *,
    is_untried: bool,
) -> Failure:
    log = element_log_path(run, place.element)
    said = last_words(log)
    if is_untried:
        failure = FailureClass.BLOCKED
    elif attempt is None and view is not None and view.state == "COMPLETED":
        failure = FailureClass.DAMAGED_FEATURES  # it was done; what it had made is no longer right
    else:
        failure = classify(view, attempt, said)
    request = place.submission.request
    return Failure(
        task_id=task.id,
        noticed=utc_now(),
        element=place.element,
        failure=failure,
        message=_message(failure, attempt, view, said, place),
        memory_gb=request.memory_gb,
        peak_memory_gb=peak_memory_gb(said),
        node=view.node if view is not None else attempt.host if attempt is not None else "",
    )


def _message(
    failure: FailureClass,
    attempt: Attempt | None,
    view: SchedulerView | None,
    said: str,
    place: Place,
) -> str:
    """In words: the task's own, or those of Slurm."""
    request, job = place.submission.request, f"job {place.element}"
    if attempt is not None and attempt.error_class == failure:
        return attempt.error_message
    if failure is FailureClass.OUT_OF_MEMORY:
        peak_gb = peak_memory_gb(said)
        used = f"used {peak_gb:.2g} GB of" if peak_gb else "used more than"
        return f"{job} {used} the {request.memory_gb:g} GB that it had asked for"
    if failure is FailureClass.TIMEOUT:
        return f"{job} reached its time limit of {request.timeout_min} min"
    if failure is FailureClass.NODE_FAILURE and view is not None:
        return f"node {view.node} failed under {job}"
    if failure is FailureClass.CANCELLED:
        return f"{job} was cancelled"
    if failure is FailureClass.BLOCKED:
        return f"{job} was not tried"
    if attempt is not None and attempt.error_message:
        return attempt.error_message
    lines = [line.strip() for line in said.splitlines()[1:] if line.strip()]
    end = lines[-1] if lines else "it printed nothing"
    state = f"{view.state}, exit code {view.exit_code}" if view else "gone from the queue"
    return f"{job} ended ({state}): {end}"


def _show(run: RunFolder, failure: Failure) -> None:
    """Make it the state of its task, unless the task says why itself or was not tried at all."""
    kind = failure.failure
    attempt = run.attempt(failure.task_id)
    is_own = attempt is not None and attempt.element == failure.element
    if kind is None or kind is FailureClass.BLOCKED or (is_own and says_why(attempt)):
        return
    state = _STATE_OF.get(kind, TaskState.FAILED)
    run.record_end(failure.task_id, state, str(kind), failure.message)
