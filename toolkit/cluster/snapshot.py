"""What is known of every task of a run, read from the run folder alone.

Three witnesses: the published result, the record and heartbeat of the process at work, and what the
scheduler said last. Each is believed only in what it can know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.cluster.queue import Queue, read_queue
from toolkit.cluster.run_folder import Attempt, RunFolder
from toolkit.task import Task, TaskKind, TaskState

_WORDS = {
    "Dependency": "it waits for other jobs",
    "Priority": "others come first",
    "Resources": "no free place yet",
    "JobArrayTaskLimit": "as many of its array run as max_running allows",
    "BeginTime": "it starts again soon",
}


@dataclass(frozen=True)
class TaskView:
    """One task, where it stands, and why.

    Parameters
    ----------
    task
        The task.
    state
        Where it stands.
    attempt
        The record of its last attempt, if it is not done and was ever tried.
    reason
        Why it is not running or done, in words; empty where there is nothing to say.
    """

    task: Task
    state: TaskState
    attempt: Attempt | None
    reason: str


def take_snapshot(run: RunFolder, tasks: Sequence[Task]) -> list[TaskView]:
    """Look at every task once.

    Parameters
    ----------
    run
        The run folder.
    tasks
        The planned tasks, parents before children.
    """
    attempts = run.attempts()
    done = run.done_ids()
    queue = read_queue(run)
    views: dict[str, TaskView] = {}
    for task in tasks:
        if task.id in done:
            views[task.id] = TaskView(task, TaskState.DONE, None, "")
            continue
        attempt = attempts.get(task.id)
        parents = [views[parent] for parent in task.inputs if parent in views]
        if attempt is not None and attempt.state is TaskState.RUNNING and run.is_alive(attempt):
            state, reason = TaskState.RUNNING, ""
        else:
            state, reason = _not_running(task, attempt, parents, queue)
        views[task.id] = TaskView(task, state, attempt, reason)
    return list(views.values())


def _not_running(
    task: Task, attempt: Attempt | None, parents: Sequence[TaskView], queue: Queue | None
) -> tuple[TaskState, str]:
    for parent in parents:
        if parent.state in (TaskState.FAILED, TaskState.BLOCKED, TaskState.CANCELLED):
            why = f"{parent.task.label} ({parent.task.id}) {parent.state}"
            return TaskState.BLOCKED, f"{why}: {parent.reason}"
    if queue is not None and queue.place(task.id) and not queue.has_ended(task.id):
        return _in_queue(task, attempt, parents, queue)
    if attempt is None or attempt.state is TaskState.PENDING:
        return TaskState.PENDING, "not submitted yet" if queue is not None else ""
    if attempt.state is TaskState.RUNNING:
        return TaskState.PENDING, "interrupted; it will continue"
    reason = f"{attempt.error_class}: {attempt.error_message}" if attempt.error_class else ""
    return attempt.state, reason


def _in_queue(
    task: Task, attempt: Attempt | None, parents: Sequence[TaskView], queue: Queue
) -> tuple[TaskState, str]:
    """Of a task that gives no sign of life, and whose job has not ended as far as is known."""
    place, view, failure = queue.place(task.id), queue.view(task.id), queue.report.failure
    assert place is not None
    if attempt is not None and attempt.element == place.element and attempt.state.is_terminal:
        return attempt.state, f"{attempt.error_class}: {attempt.error_message}"
    job = f"job {place.element}"
    if failure is not None and place.element not in failure.answered:
        last = f"; it was {view.state.lower()}" if view else ""
        return TaskState.UNKNOWN, f"Slurm does not answer: {failure.reason}{last}"
    if place.element in queue.report.unknown_since_s:
        return TaskState.UNKNOWN, f"Slurm does not know {job} any more"
    if view is None:
        return TaskState.PENDING, f"{job} is submitted"
    if view.state == "RUNNING":
        return TaskState.PENDING, f"{job} runs on {view.node}; this task has not begun"
    waits = [parent.task.label for parent in parents if parent.state is not TaskState.DONE]
    if view.reason == "Dependency" and waits:
        return TaskState.PENDING, f"{job} waits for {', '.join(waits)}"
    words = f" ({_WORDS.get(view.reason, view.reason)})" if view.reason else ""
    again = f", restarted {view.restarts} times" if view.restarts else ""
    return TaskState.PENDING, f"{job} is {view.state.lower()}{words}{again}"


def count_states(views: Sequence[TaskView]) -> dict[TaskKind, Counter[TaskState]]:
    """Number of tasks in each state, by stage."""
    counts: dict[TaskKind, Counter[TaskState]] = {}
    for view in views:
        counts.setdefault(view.task.kind, Counter())[view.state] += 1
    return counts
