"""What is recorded of jobs that are over, and what follows, from three witnesses put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit.cluster.failure_log import append_failures, forgive, histories, read_failures
from toolkit.cluster.failures import FailureClass
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.manifests import Submission, element_log_path
from toolkit.cluster.queue import Queue
from toolkit.cluster.retries import GiveUp, Retry, RetryPolicy
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler import QueryFailed, SchedulerReport
from toolkit.cluster.scheduler_output import SchedulerView
from toolkit.cluster.settling import judge, settle
from toolkit.cluster.snapshot import take_snapshot
from toolkit.task import Task, TaskKind, TaskState

NOW_S = 1e9
REQUEST = JobRequest(n_cpus=1, n_gpus=0, memory_gb=2.0, timeout_min=10)
EXTRACT = [
    Task(TaskKind.EXTRACT, {"library": library, "model": f"net{i}"}, label=f"net{i}")
    for i, library in enumerate(("timm", "timm", "torchvision"))
]
ENCODE = Task(TaskKind.ENCODE, {"layer": "x"}, inputs=(EXTRACT[0].id,), label="net0 x")
TASKS = [*EXTRACT, ENCODE]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.create()
    run.write_plan(TASKS, {})
    return run


def queue(
    elements: Sequence[Sequence[Task]], *views: SchedulerView, report: SchedulerReport | None = None
) -> Queue:
    """One array 7 with these elements, of which the scheduler says this."""
    ids = tuple(tuple(task.id for task in element) for element in elements)
    array = Submission("a", "a", TaskKind.EXTRACT, REQUEST, ids, "", "", array_id="7")
    said = replace(report or SchedulerReport(), views={view.element: view for view in views})
    return Queue([array], said, NOW_S)


def ended(element: str, state: str, reason: str = "") -> SchedulerView:
    return SchedulerView(element, state, reason, node="n1", since_s=NOW_S - 300)


def try_it(run: RunFolder, task: Task, element: str, **changes: object) -> None:
    """Leave the record of a try in this element."""
    attempt = replace(run.start_attempt(task.id), job=element)
    run.record(replace(attempt, **changes))  # type: ignore[arg-type]


def say(run: RunFolder, element: str, text: str) -> None:
    element_log_path(run, element).write_text(f"=== start now\n{text}\n")


def classes(run: RunFolder) -> list[tuple[str, str]]:
    labels = {task.id: task.label for task in TASKS}
    return [(labels[f.task_id], str(f.failure)) for f in read_failures(run)]


def test_a_job_that_died_speaks_for_the_task_at_hand_only(run: RunFolder) -> None:
    """Of three tasks that shared it, one was done, one was at work, one had not begun."""
    run.result_path(EXTRACT[0].id).write_text("{}")
    try_it(run, EXTRACT[1], "7_0")
    say(run, "7_0", "slurmstepd: error: StepId=7.0 exceeded memory limit (3221225472 > 2147483648)")
    shared = queue([EXTRACT], ended("7_0", "FAILED"))
    settle(run, TASKS, shared, RetryPolicy())
    assert classes(run) == [("net1", "out_of_memory"), ("net2", "blocked")]
    attempt = run.attempt(EXTRACT[1].id)
    assert attempt is not None
    assert attempt.error_message == "job 7_0 used 3 GB of the 2 GB that it had asked for"
    assert run.attempt(EXTRACT[2].id) is None
    steps = judge(run, TASKS, RetryPolicy()).steps
    assert steps[EXTRACT[1].id] == Retry(memory_gb=4.5)
    assert steps[EXTRACT[2].id] == Retry(memory_gb=2.0)
    assert settle(run, TASKS, shared, RetryPolicy()) == []


def test_each_time_limit_is_a_try(run: RunFolder) -> None:
    try_it(run, EXTRACT[0], "7_0.5", state=TaskState.FAILED, error_class="timeout", n_timeouts=6)
    settle(run, TASKS, queue([[EXTRACT[0]]], ended("7_0", "FAILED")), RetryPolicy(timeout=5))
    assert classes(run) == [("net0", "timeout")] * 6
    verdicts = judge(run, TASKS, RetryPolicy(timeout=5))
    assert isinstance(verdicts.steps[EXTRACT[0].id], GiveUp)
    assert verdicts.is_given_up(EXTRACT[0])
    forgive(run, [EXTRACT[0].id])
    assert not judge(run, TASKS, RetryPolicy(timeout=5)).is_given_up(EXTRACT[0])


def test_what_the_task_says_itself_stays(run: RunFolder) -> None:
    said = {"error_class": "bad_model", "error_message": "not a checkpoint"}
    try_it(run, EXTRACT[0], "7_0", state=TaskState.FAILED, **said)
    (failure,) = settle(run, TASKS, queue([[EXTRACT[0]]], ended("7_0", "FAILED")), RetryPolicy())
    assert failure.failure is FailureClass.BAD_DATA
    (view, *_, child) = take_snapshot(run, TASKS)
    assert (view.state, view.reason) == (TaskState.FAILED, "bad_model: not a checkpoint")
    assert child.state is TaskState.BLOCKED
    assert view.task.id in child.reason


def test_an_import_error_stops_its_family_and_no_other(run: RunFolder) -> None:
    say(run, "7_0", "ModuleNotFoundError: No module named 'timm'")
    settle(run, TASKS, queue([[EXTRACT[0]]], ended("7_0", "FAILED")), RetryPolicy())
    verdicts = judge(run, TASKS, RetryPolicy())
    assert [verdicts.is_given_up(task) for task in EXTRACT] == [True, True, False]


def test_a_job_that_vanished_is_not_over_on_one_reading(run: RunFolder) -> None:
    unknown = SchedulerReport(unknown_since_s={"7_0": NOW_S - 20}, answered_s=NOW_S - 20)
    assert settle(run, TASKS, queue([[EXTRACT[0]]], report=unknown), RetryPolicy()) == []
    again = replace(unknown, answered_s=NOW_S)
    (failure,) = settle(run, TASKS, queue([[EXTRACT[0]]], report=again), RetryPolicy())
    assert failure.failure is FailureClass.UNKNOWN
    assert "gone from the queue" in failure.message


def test_a_result_may_be_seen_later_than_the_end_of_its_job(run: RunFolder) -> None:
    just_now = replace(ended("7_0", "COMPLETED"), since_s=NOW_S - 5)
    assert settle(run, TASKS, queue([[EXTRACT[0]]], just_now), RetryPolicy()) == []
    long_ago = queue([[EXTRACT[0]]], ended("7_0", "COMPLETED"))
    (failure,) = settle(run, TASKS, long_ago, RetryPolicy())
    assert failure.failure is FailureClass.DAMAGED_FEATURES


def test_a_question_without_an_answer_ends_nothing(run: RunFolder) -> None:
    failure = QueryFailed("Unable to contact slurm controller", NOW_S, NOW_S, 1)
    running = replace(ended("7_0", "RUNNING"), since_s=NOW_S - 9999)
    away = queue([[EXTRACT[0]]], running, report=SchedulerReport(failure=failure))
    assert settle(run, TASKS, away, RetryPolicy()) == []
    assert not away.has_ended(EXTRACT[0].id)


def test_a_line_cut_off_by_a_kill_spoils_no_other(run: RunFolder) -> None:
    settle(run, TASKS, queue([[EXTRACT[0]]], ended("7_0", "TIMEOUT")), RetryPolicy())
    (first,) = read_failures(run)
    with (run.path / "failures.jsonl").open("a") as file:
        file.write('\n{"task_id": "extract-')
    append_failures(run, [first])
    assert read_failures(run) == [first, first]
    assert len(histories([first, first])[first.task_id]) == 2
