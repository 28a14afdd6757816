"""The scheduler as a witness: what its words mean, how often it is asked, when it is silent."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.manifests import Submission
from toolkit.cluster.queue import Queue
from toolkit.cluster.scheduler import Scheduler, SchedulerReport
from toolkit.cluster.scheduler_output import SchedulerView, parse_sacct, parse_squeue
from toolkit.task import TaskKind

if TYPE_CHECKING:
    from fake_slurm import FakeSlurm

pytest_plugins = ("fake_slurm",)

RECORDED = Path(__file__).parent / "data" / "slurm"
LINE = "{element}|{state}|None|n1|{restarts}|0|1|\n"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def scheduler(tmp_path: Path, clock: Clock) -> Scheduler:
    return Scheduler(tmp_path, min_interval_s=30, clock=clock)


def line(element: str, state: str, restarts: int = 0) -> str:
    return LINE.format(element=element, state=state, restarts=restarts)


# What is read


def test_what_squeue_says_of_jobs_that_ended() -> None:
    views = parse_squeue((RECORDED / "squeue_ended.txt").read_text()).views
    assert views["1_0"] == SchedulerView("1_0", "COMPLETED", node="n1", may_requeue=True)
    assert (views["1_1"].state, views["1_1"].exit_code) == ("FAILED", "3:0")
    assert (views["3_0"].state, views["3_0"].reason) == ("TIMEOUT", "TimeLimit")
    assert views["7_1"].exit_code == "0:15"
    assert views["6_0"].restarts == 1
    assert [e for e, view in views.items() if view.is_blocked] == ["2_3", "2_2", "2_1"]


def test_why_jobs_wait() -> None:
    views = parse_squeue((RECORDED / "squeue_waiting.txt").read_text()).views
    assert views["1_9"].reason == "JobArrayTaskLimit"
    assert views["5_0"].reason == "Dependency"
    assert views["6_0"].reason == "Resources"
    assert not views["6_0"].is_over(0.0)


@pytest.mark.parametrize("moment", ["ended", "waiting"])
def test_both_witnesses_agree(moment: str) -> None:
    queue = parse_squeue((RECORDED / f"squeue_{moment}.txt").read_text()).views
    accounts = parse_sacct((RECORDED / f"sacct_{moment}.txt").read_text()).views
    assert accounts.keys() == queue.keys()
    for element, view in accounts.items():
        assert view.state == queue[element].state
        assert view.is_blocked == queue[element].is_blocked
        assert view.node == queue[element].node


def test_accounting_says_who_cancelled() -> None:
    assert parse_sacct("7_1|CANCELLED by 0|0:0|n1|None").views["7_1"].reason == "by 0"


@pytest.mark.parametrize(
    ("job", "elements", "is_whole"),
    [
        ("9_[0,2-4,7%3]", ["9_0", "9_2", "9_3", "9_4", "9_7"], True),
        ("1_[0-12:4]", ["1_0", "1_4", "1_8", "1_12"], True),
        ("1_[0-5:2,9%2]", ["1_0", "1_2", "1_4", "1_9"], True),
        ("1", ["1"], True),
        ("1_7", ["1_7"], True),
        ("1_[0,2,10...]", ["1_0", "1_2"], False),
        ("1_[0-1,3,...%4]", ["1_0", "1_1", "1_3"], False),
        ("1_[0-99999999]", [], False),
        ("1_[5-2]", ["1_5"], True),
        ("1_[0-4:0]", [], False),
        ("1_[0,2", [], False),
        ("1_", [], False),
        ("123+0", [], False),
    ],
)
def test_indices_of_an_array(job: str, elements: list[str], is_whole: bool) -> None:
    answer = parse_sacct(f"{job}|PENDING|0:0|None assigned|Priority")
    assert list(answer.views) == elements
    assert (not answer.unreadable) == is_whole


# Answers that cannot be read


@pytest.mark.parametrize(
    "beside",
    ["CLUSTER: one", "", "  ", "JOBID|STATE|REASON|NODELIST|RESTART_COUNT|EXIT_CODE|REQUEUE|",
     "*** maintenance on Friday, 8:00 ***", "squeue: warning: deprecated"],
)  # fmt: skip
def test_what_is_printed_beside_a_table_is_no_part_of_it(beside: str) -> None:
    answer = parse_squeue(f"{beside}\n{line('1_0', 'RUNNING')}{beside}\n")
    assert {e: view.state for e, view in answer.views.items()} == {"1_0": "RUNNING"}
    assert answer.unreadable == ()


@pytest.mark.parametrize("value", ["", "N/A", "(null)", "n/a", "1-00:00:00", "\u0664", "-1"])
def test_a_column_that_cannot_be_read_does_not_hide_the_state(value: str) -> None:
    answer = parse_squeue(f"1_0|NODE_FAIL|{value}|{value}|{value}|{value}|{value}|\n")
    assert answer.unreadable == ()
    view = answer.views["1_0"]
    assert view.state == "NODE_FAIL"
    assert not view.is_over(view.since_s), "it may be requeued, as far as is known"


def test_lines_that_cannot_be_read_say_nothing_and_the_others_count(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock
) -> None:
    fake_slurm.answers("squeue", line("1_0", "RUNNING") + line("1_1", "PENDING"))
    scheduler.refresh(["1_0", "1_1"])
    fake_slurm.answers("squeue", line("1_0", "COMPLETED") + "1_1|RUNN")
    for _ in range(3):
        clock.now_s += 1000
        report = scheduler.refresh(["1_0", "1_1"])
    assert {e: view.state for e, view in report.views.items()} == {
        "1_0": "COMPLETED",
        "1_1": "PENDING",
    }
    assert report.unknown_since_s == {}
    assert report.failure is not None
    assert (report.failure.n_failures, report.failure.answered) == (3, frozenset())
    assert "squeue printed what cannot be read: '1_1|RUNN'" in report.failure.reason
    fake_slurm.answers("squeue", line("1_1", "FAILED"))
    clock.now_s += 1000
    assert scheduler.refresh(["1_0", "1_1"]).failure is None


def _damaged(text: str, chance: random.Random) -> str:
    """Some lines cut, without a column, doubled, or with others between them."""
    lines = text.splitlines()
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(lines))
        columns = lines[at].split("|")
        del columns[chance.randrange(len(columns))]
        cut = lines[at][: chance.randint(1, len(lines[at]) + 1)]
        odd = ["\0\0\0", "|||||||", "1_[", "é|ß|ü", "CLUSTER: x", "x" * 100_000, "9" * 5000]
        lines[at : at + 1] = chance.choice(
            [["|".join(columns)], [cut], [chance.choice(odd), lines[at]], [lines[at]] * 2,
             [lines[at] + (lines[at + 1] if at + 1 < len(lines) else "")]]
        )  # fmt: skip
    return "\n".join(lines)


@pytest.mark.parametrize("moment", ["ended", "waiting"])
def test_no_damage_to_an_answer_ends_a_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: Clock, moment: str
) -> None:
    whole = {
        program: (RECORDED / f"{program}_{moment}.txt").read_text()
        for program in ("squeue", "sacct")
    }
    truth = parse_squeue(whole["squeue"]).views
    live = {element for element, view in truth.items() if not view.is_over(0.0)}
    assert live
    chance = random.Random(0)
    said = dict(whole)
    monkeypatch.setattr(
        "toolkit.cluster.scheduler.slurm_output", lambda command, **_: said[command[0]]
    )
    n_unreadable = 0
    for i in range(300):
        scheduler = Scheduler(tmp_path, min_interval_s=1, clock=clock)
        (tmp_path / "scheduler.json").unlink(missing_ok=True)
        for _ in range(2):
            said = {program: _damaged(text, chance) for program, text in whole.items()}
            clock.now_s += 1000
            report = scheduler.refresh(truth)
        n_unreadable += report.failure is not None
        queue = Queue([submission_of(element) for element in live], report, clock.now_s)
        over = {element for element in live if queue.has_ended(element)}
        assert not over, (i, said["squeue"])
    assert n_unreadable > 100


def submission_of(element: str) -> Submission:
    array, _, index = element.partition("_")
    tasks = (*((),) * int(index), (element,))
    return Submission(
        "a", "a", TaskKind.PROBE, JobRequest(1, 0, 1.0, 10), tasks, "", "", array_id=array
    )


# What is final


@pytest.mark.parametrize(
    "state",
    ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"],
)
def test_final_states(state: str) -> None:
    assert SchedulerView("1_0", state, may_requeue=True).is_over(0.0)


@pytest.mark.parametrize(
    "state",
    ["PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "RESIZING",
     "STOPPED", "SIGNALING", "SPECIAL_EXIT", "A_STATE_OF_ANOTHER_VERSION", ""],
)  # fmt: skip
def test_nothing_else_is_final(state: str) -> None:
    assert not SchedulerView("1_0", state).is_over(1e12)


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_a_job_that_may_be_requeued_is_given_time_to_come_back(state: str) -> None:
    assert SchedulerView("1_0", state, may_requeue=False).is_over(0.0)
    stopped = SchedulerView("1_0", state, may_requeue=True, since_s=1000.0)
    assert not stopped.is_over(1060.0)
    assert stopped.is_over(1200.0)


# How often it is asked


def test_one_question_for_the_whole_run(fake_slurm: FakeSlurm, scheduler: Scheduler) -> None:
    fake_slurm.answers("squeue", from_file="squeue_ended.txt")
    report = scheduler.refresh(["1_0", "1_1", "7_0", "3_0"])
    assert len(fake_slurm.calls("squeue")) == 1
    assert "--jobs=1,3,7 " in fake_slurm.calls("squeue")[0]
    assert report.n_queries == 1
    assert report.views["7_0"].state == "RUNNING"
    assert fake_slurm.calls("sacct") == []


def test_nobody_asks_again_before_the_interval_is_over(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock, tmp_path: Path
) -> None:
    fake_slurm.answers("squeue", line("1_0", "PENDING"))
    first = scheduler.refresh(["1_0"])
    fake_slurm.answers("squeue", line("1_0", "RUNNING"))
    clock.now_s += 29
    other_process = Scheduler(tmp_path, min_interval_s=30, clock=clock)
    assert other_process.refresh(["1_0"]) == first
    clock.now_s += 2
    second = other_process.refresh(["1_0"])
    assert second.views["1_0"].state == "RUNNING"
    assert scheduler.report() == second
    assert second.n_queries == len(fake_slurm.calls("squeue")) == 2


def test_many_who_ask_at_once_ask_once(fake_slurm: FakeSlurm, tmp_path: Path, clock: Clock) -> None:
    fake_slurm.answers("squeue", line("1_0", "PENDING"), sleeps_s=1)
    reports: list[SchedulerReport] = []

    def ask() -> None:
        reports.append(Scheduler(tmp_path, clock=clock).refresh(["1_0"]))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fake_slurm.calls("squeue")) == 1
    assert all(report.views["1_0"].state == "PENDING" for report in reports)


def test_nothing_is_asked_about_what_is_over(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock
) -> None:
    fake_slurm.answers("squeue", line("1_0", "COMPLETED") + line("2_0", "RUNNING"))
    scheduler.refresh(["1_0", "2_0"])
    clock.now_s += 31
    fake_slurm.answers("squeue", line("2_0", "FAILED"))
    scheduler.refresh(["1_0", "2_0"])
    assert "--jobs=2 " in fake_slurm.calls("squeue")[1]
    clock.now_s += 31
    report = scheduler.refresh(["1_0", "2_0"])
    assert len(fake_slurm.calls("squeue")) == 2
    assert {e: view.state for e, view in report.views.items()} == {
        "1_0": "COMPLETED",
        "2_0": "FAILED",
    }


def test_a_damaged_answer_is_asked_for_again(
    fake_slurm: FakeSlurm, scheduler: Scheduler, tmp_path: Path
) -> None:
    fake_slurm.answers("squeue", line("1_0", "RUNNING"))
    (tmp_path / "scheduler.json").write_text('{"views": ')
    assert scheduler.refresh(["1_0"]).views["1_0"].state == "RUNNING"


# Silence


def test_a_question_that_fails_says_nothing_about_jobs(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock
) -> None:
    fake_slurm.answers("squeue", line("1_0", "RUNNING"))
    before = scheduler.refresh(["1_0"])
    fake_slurm.answers("squeue", fails="slurm_load_jobs error: Unable to contact slurm controller")
    clock.now_s += 31
    failed_s = clock.now_s
    report = scheduler.refresh(["1_0"])
    assert report.views == before.views
    assert report.answered_s == before.answered_s
    assert report.failure is not None
    assert "Unable to contact slurm controller" in report.failure.reason
    assert report.failure.since_s == failed_s
    assert report.unknown_since_s == {}


def test_after_failures_it_is_asked_less_and_less(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock
) -> None:
    fake_slurm.answers("squeue", fails="no")
    start_s, asked_s = clock.now_s, []
    for _ in range(360):
        n_before = len(fake_slurm.calls("squeue"))
        scheduler.refresh(["1_0"])
        if len(fake_slurm.calls("squeue")) > n_before:
            asked_s.append(clock.now_s - start_s)
        clock.now_s += 10
    assert asked_s == [0, 60, 180, 420, 900, 1800, 2700]
    failure = scheduler.report().failure
    assert failure is not None
    assert (failure.since_s, failure.n_failures) == (start_s, 7)

    clock.now_s += 900
    fake_slurm.answers("squeue", line("1_0", "RUNNING"))
    assert scheduler.refresh(["1_0"]).failure is None


def test_a_program_that_is_missing_is_a_failure(
    fake_slurm: FakeSlurm, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(fake_slurm.folder))
    failure = scheduler.refresh(["1_0"]).failure
    assert failure is not None
    assert "squeue is not installed here" in failure.reason


# What the queue has forgotten


def test_accounting_is_asked_about_what_the_queue_has_forgotten(
    fake_slurm: FakeSlurm, scheduler: Scheduler
) -> None:
    fake_slurm.answers("squeue", line("1_0", "RUNNING"))
    fake_slurm.answers(
        "sacct", "2_0|COMPLETED|0:0|n1|None\n3|CANCELLED by 0|0:0|None assigned|None"
    )
    report = scheduler.refresh(["1_0", "2_0", "3_0", "3_1", "4_0"])
    assert "--jobs=2,3,4 " in fake_slurm.calls("sacct")[0]
    assert report.n_queries == 2
    assert report.views["2_0"].state == "COMPLETED"
    assert report.views["3_1"].state == "CANCELLED"
    assert report.unknown_since_s == {"4_0": report.answered_s}


def test_a_single_job_that_the_queue_has_forgotten_is_no_failure(
    fake_slurm: FakeSlurm, scheduler: Scheduler
) -> None:
    fake_slurm.answers("squeue", fails="slurm_load_jobs error: Invalid job id specified")
    fake_slurm.answers("sacct", "1_0|TIMEOUT|0:0|n1|None")
    report = scheduler.refresh(["1_0"])
    assert report.failure is None
    assert report.views["1_0"].state == "TIMEOUT"


def test_without_accounting_what_left_the_queue_is_unknown(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock
) -> None:
    fake_slurm.answers("squeue", line("1_0", "RUNNING"))
    fake_slurm.answers("sacct", fails="Slurm accounting storage is disabled")
    scheduler.refresh(["1_0"])
    fake_slurm.answers("squeue", "")
    clock.now_s += 31
    left_s = clock.now_s
    for _ in range(4):
        report = scheduler.refresh(["1_0"])
        clock.now_s += 31
    assert report.failure is None
    assert report.views == {}
    assert report.unknown_since_s == {"1_0": left_s}
    assert report.accounting_failure is not None
    assert "accounting storage is disabled" in report.accounting_failure.reason
    assert len(fake_slurm.calls("sacct")) == 2  # it is asked less often than the queue
    assert report.n_queries == 7


def test_a_requeued_job_begins_a_new_state(
    fake_slurm: FakeSlurm, scheduler: Scheduler, clock: Clock
) -> None:
    fake_slurm.answers("squeue", line("1_0", "PREEMPTED"))
    first = scheduler.refresh(["1_0"]).views["1_0"]
    clock.now_s += 100
    fake_slurm.answers("squeue", line("1_0", "PREEMPTED", restarts=1))
    second = scheduler.refresh(["1_0"]).views["1_0"]
    assert second.since_s == first.since_s + 100
    clock.now_s += 100
    assert scheduler.refresh(["1_0"]).views["1_0"].since_s == second.since_s


def test_accounting_that_is_late_is_not_believed(
    fake_slurm: FakeSlurm, scheduler: Scheduler
) -> None:
    fake_slurm.answers("squeue", "")
    fake_slurm.answers("sacct", "1_0|RUNNING|0:0|n1|None\n1_1|NODE_FAIL|0:0|n1|None")
    report = scheduler.refresh(["1_0", "1_1"])
    assert report.views.keys() == {"1_1"}
    assert report.unknown_since_s.keys() == {"1_0"}
