"""What is known of every task of a run, read from the run folder alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.cluster.run_folder import Attempt, RunFolder
from toolkit.task import Task, TaskKind, TaskState


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
    views: dict[str, TaskView] = {}
    for task in tasks:
        parents = [views[parent] for parent in task.inputs if parent in views]
        attempt = attempts.get(task.id)
        runs = (
            attempt is not None
            and attempt.state is TaskState.RUNNING
            and task.id not in done
            and run.is_alive(attempt)
        )
        views[task.id] = _view(task, task.id in done, runs, attempt, parents)
    return list(views.values())


def _view(
    task: Task, is_done: bool, runs: bool, attempt: Attempt | None, parents: Sequence[TaskView]
) -> TaskView:
    if is_done:
        return TaskView(task, TaskState.DONE, None, "")
    if runs:
        return TaskView(task, TaskState.RUNNING, attempt, "")
    for parent in parents:
        if parent.state in (TaskState.FAILED, TaskState.BLOCKED, TaskState.CANCELLED):
            why = f"{parent.task.label} ({parent.task.id}) {parent.state}"
            return TaskView(task, TaskState.BLOCKED, attempt, f"{why}: {parent.reason}")
    if attempt is None or attempt.state is TaskState.PENDING:
        return TaskView(task, TaskState.PENDING, attempt, "")
    if attempt.state is TaskState.RUNNING:
        return TaskView(task, TaskState.PENDING, attempt, "interrupted; it will continue")
    reason = f"{attempt.error_class}: {attempt.error_message}" if attempt.error_class else ""
    return TaskView(task, attempt.state, attempt, reason)


def count_states(views: Sequence[TaskView]) -> dict[TaskKind, Counter[TaskState]]:
    """Number of tasks in each state, by stage."""
    counts: dict[TaskKind, Counter[TaskState]] = {}
    for view in views:
        counts.setdefault(view.task.kind, Counter())[view.state] += 1
    return counts
