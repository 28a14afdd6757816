"""Classes of failure from recorded logs and states, and what follows each."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.cluster.failures import (
    START_LINE,
    FailureClass,
    classify,
    last_words,
    peak_memory_gb,
)
from toolkit.cluster.retries import (
    GiveUp,
    PastAttempt,
    Retry,
    RetryPolicy,
    StopFamily,
    next_step,
)
from toolkit.cluster.run_folder import Attempt
from toolkit.cluster.scheduler_output import SchedulerView, parse_squeue
from toolkit.task import TaskState

RECORDED = Path(__file__).parent / "data" / "slurm"
ENDED = parse_squeue((RECORDED / "squeue_ended.txt").read_text(encoding="utf-8")).views
RUNNING = Attempt(
    "encode-1", 1, TaskState.RUNNING, host="n1", pid=1, process_started_s=0.0, started=""
)


def says(error_class: str) -> Attempt:
    return replace(RUNNING, state=TaskState.FAILED, error_class=error_class)


# Classes


@pytest.mark.parametrize(
    ("element", "log", "failure"),
    [
        ("1_1", "exit_3.log", FailureClass.UNKNOWN),
        ("1_2", "over_memory.log", FailureClass.OUT_OF_MEMORY),
        ("1_3", "import_error.log", FailureClass.IMPORT_ERROR),
        ("2_1", "none.log", FailureClass.BLOCKED),
        ("3_0", "time_limit.log", FailureClass.TIMEOUT),
        ("5_0", "none.log", FailureClass.NODE_FAILURE),
        ("7_1", "cancelled.log", FailureClass.CANCELLED),
    ],
)
@pytest.mark.parametrize("attempt", [None, RUNNING], ids=["no record", "record of a start"])
def test_what_slurm_did_to_recorded_jobs(
    element: str, log: str, failure: FailureClass, attempt: Attempt | None
) -> None:
    assert classify(ENDED[element], attempt, last_words(RECORDED / log)) is failure


@pytest.mark.parametrize("log", ["over_memory", "time_limit", "preempted", "not_started"])
def test_the_log_says_it_where_the_scheduler_has_forgotten(log: str) -> None:
    expected = {"over_memory": "out_of_memory", "time_limit": "timeout"}.get(log, log)
    assert classify(None, RUNNING, last_words(RECORDED / f"{log}.log")) == expected


@pytest.mark.parametrize("said", ["cancelled", "killed", "timeout", ""])
def test_a_task_that_was_told_to_stop_does_not_know_why(said: str) -> None:
    words = last_words(RECORDED / "preempted.log")
    assert classify(None, says(said), words) is FailureClass.PREEMPTED


def test_what_the_task_says_counts_before_what_others_saw() -> None:
    words = last_words(RECORDED / "over_memory.log")
    assert classify(ENDED["1_2"], says("bad_data"), words) is FailureClass.BAD_DATA


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("cuda_out_of_memory", FailureClass.CUDA_OUT_OF_MEMORY),
        ("diverged", FailureClass.DIVERGED),
        ("damaged_features", FailureClass.DAMAGED_FEATURES),
        ("bad_responses", FailureClass.BAD_DATA),
        ("data_changed", FailureClass.BAD_DATA),
        ("download_failed", FailureClass.UNAVAILABLE),
        ("code_changed", FailureClass.IMPORT_ERROR),
        ("something_new", FailureClass.UNKNOWN),
        ("timeout", FailureClass.TIMEOUT),
        ("killed", FailureClass.UNKNOWN),
    ],
)
def test_the_rooms_own_errors(said: str, failure: FailureClass) -> None:
    assert classify(None, says(said), "") is failure


@pytest.mark.parametrize(
    ("words", "failure"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", FailureClass.CUDA_OUT_OF_MEMORY),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step tasks "
            "have been OOM Killed.",
            FailureClass.OUT_OF_MEMORY,
        ),
        ("Traceback:\nMemoryError", FailureClass.OUT_OF_MEMORY),
        ("OSError: [Errno 28] No space left on device", FailureClass.DISK_FULL),
        ("/usr/bin/python3: No module named jobs.element", FailureClass.IMPORT_ERROR),
        (
            "slurmstepd: error: execve(): /gone/bin/python: No such file or directory",
            FailureClass.IMPORT_ERROR,
        ),
        ("script: line 4: module: command not found", FailureClass.IMPORT_ERROR),
        ("UserWarning: No module named 'xformers', continuing", FailureClass.UNKNOWN),
    ],
)
def test_words_of_other_versions_and_programs(words: str, failure: FailureClass) -> None:
    assert classify(SchedulerView("1_0", "FAILED"), None, words) is failure


def test_newer_versions_say_out_of_memory_as_a_state() -> None:
    view = SchedulerView("1_0", "OUT_OF_MEMORY")
    assert classify(view, None, "") is FailureClass.OUT_OF_MEMORY


def test_words_before_the_last_start_do_not_count() -> None:
    words = last_words(RECORDED / "preempted_and_done.log")
    assert "DUE TO PREEMPTION" in (RECORDED / "preempted_and_done.log").read_text()
    assert classify(None, None, words) is FailureClass.UNKNOWN


def test_last_words_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(f"{START_LINE}\n".encode() + b"\xff" * 100_000 + b"the end")
    assert last_words(log, n_bytes=1000).endswith("the end")
    assert len(last_words(log, n_bytes=1000)) == 1000
    assert last_words(tmp_path / "none") == ""


def test_the_measured_peak() -> None:
    peak_gb = peak_memory_gb(last_words(RECORDED / "over_memory.log"))
    assert peak_gb == pytest.approx(325996544 / 2**30)
    assert peak_memory_gb(last_words(RECORDED / "time_limit.log")) is None


def test_every_class_has_a_budget() -> None:
    policy = RetryPolicy()
    for failure in FailureClass:
        budget = policy.budget(failure)
        assert budget is None or budget >= 0


# What follows


def past(*failures: FailureClass, memory_gb: float = 8.0) -> list[PastAttempt]:
    return [PastAttempt(failure, memory_gb) for failure in failures]


def test_out_of_memory_gets_more_from_what_was_measured() -> None:
    history = [PastAttempt(FailureClass.OUT_OF_MEMORY, memory_gb=8, peak_memory_gb=12)]
    assert next_step(history, RetryPolicy(memory_factor=1.5)) == Retry(memory_gb=18)


def test_out_of_memory_gets_more_than_it_asked_for_where_nothing_was_measured() -> None:
    history = past(FailureClass.OUT_OF_MEMORY)
    assert next_step(history, RetryPolicy(memory_factor=2)) == Retry(memory_gb=16)


def test_memory_is_bounded() -> None:
    policy = RetryPolicy(max_memory_gb=20)
    history = past(FailureClass.OUT_OF_MEMORY, memory_gb=16)
    assert next_step(history, policy) == Retry(memory_gb=20)
    history += past(FailureClass.OUT_OF_MEMORY, memory_gb=20)
    step = next_step(history, policy)
    assert isinstance(step, GiveUp)
    assert "20 GB" in step.reason


def test_memory_of_the_gpu_is_not_memory_of_the_job() -> None:
    assert next_step(past(FailureClass.CUDA_OUT_OF_MEMORY), RetryPolicy()) == Retry(memory_gb=8)


def test_nodes_that_failed_are_left_out_from_then_on() -> None:
    history = [
        PastAttempt(FailureClass.NODE_FAILURE, 8, node="n3"),
        PastAttempt(FailureClass.TIMEOUT, 8, node="n1"),
        PastAttempt(FailureClass.NODE_FAILURE, 8, node="n2"),
        PastAttempt(FailureClass.UNKNOWN, 8, node="n1"),
    ]
    assert next_step(history, RetryPolicy()) == Retry(8, exclude=("n3", "n2"))


def test_preemption_costs_nothing() -> None:
    history = past(*[FailureClass.PREEMPTED] * 100, FailureClass.UNKNOWN)
    assert isinstance(next_step(history, RetryPolicy()), Retry)
    history = past(FailureClass.UNKNOWN, *[FailureClass.PREEMPTED] * 100)
    assert isinstance(next_step(history, RetryPolicy()), Retry)


def test_a_broken_environment_stops_the_family() -> None:
    assert isinstance(next_step(past(FailureClass.IMPORT_ERROR), RetryPolicy()), StopFamily)


@pytest.mark.parametrize("failure", ["bad_data", "diverged", "cancelled", "disk_full"])
def test_some_failures_are_not_tried_again(failure: str) -> None:
    step = next_step(past(FailureClass(failure)), RetryPolicy())
    assert step == GiveUp(f"{failure}: once, and it is not tried again")


def test_the_unknown_is_tried_once_more() -> None:
    assert next_step(past(FailureClass.UNKNOWN), RetryPolicy()) == Retry(8)
    step = next_step(past(FailureClass.UNKNOWN, FailureClass.UNKNOWN), RetryPolicy())
    assert step == GiveUp("unknown: 2 times, after 1 further try")


@given(st.lists(st.sampled_from(FailureClass), max_size=30), st.data())
def test_no_class_is_tried_more_often_than_its_budget(
    before: list[FailureClass], data: st.DataObject
) -> None:
    policy = RetryPolicy()
    failure = data.draw(st.sampled_from(FailureClass))
    step = next_step(past(*before, failure), policy)
    budget = policy.budget(failure)
    if isinstance(step, Retry):
        assert budget is None or before.count(failure) < budget
    elif isinstance(step, GiveUp):
        assert budget is not None
        assert before.count(failure) >= budget
    else:
        assert failure in policy.stop_family
