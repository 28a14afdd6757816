"""The run folder: what is done, what was tried, and who holds it."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from toolkit.cluster.batches import make_batches
from toolkit.cluster.dispatch import SlurmSettings
from toolkit.cluster.failure_log import Failure, append_failures, read_failures
from toolkit.cluster.failures import FailureClass
from toolkit.cluster.ownership import find_process
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.snapshot import count_states, take_snapshot
from toolkit.task import Task, TaskKind, TaskState

PARENT = Task(TaskKind.EXTRACT, {"model": "a"}, label="a")
CHILD = Task(
    TaskKind.ENCODE, {"layer": "x"}, inputs=(PARENT.id,), label="a x", columns={"model": "a"}
)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.write_plan([PARENT, CHILD], {"name": "test"})
    return folder


def states(run: RunFolder) -> list[TaskState]:
    return [view.state for view in take_snapshot(run, run.tasks())]


def test_a_result_alone_makes_a_task_done(run: RunFolder) -> None:
    assert states(run) == [TaskState.PENDING, TaskState.PENDING]
    run.start_attempt(PARENT.id)
    run.record_end(PARENT.id, TaskState.FAILED, "unknown", "it broke")
    assert states(run) == [TaskState.FAILED, TaskState.BLOCKED]
    run.result_path(PARENT.id).write_text("{}")
    assert states(run) == [TaskState.DONE, TaskState.PENDING]


def test_a_blocked_task_names_its_parent_and_the_reason(run: RunFolder) -> None:
    run.record_end(PARENT.id, TaskState.FAILED, "bad_data", "image 7 is broken")
    blocked = take_snapshot(run, run.tasks())[1]
    assert blocked.state is TaskState.BLOCKED
    assert PARENT.id in blocked.reason
    assert "image 7 is broken" in blocked.reason


def test_a_running_task_whose_process_is_gone_was_interrupted(run: RunFolder) -> None:
    attempt = run.start_attempt(PARENT.id)
    assert states(run)[0] is TaskState.RUNNING
    code = (
        "from toolkit.cluster.run_folder import RunFolder\n"
        f"RunFolder({str(run.path)!r}).start_attempt({PARENT.id!r})\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    second = run.attempt(PARENT.id)
    assert second is not None
    assert second.number == attempt.number + 1
    view = take_snapshot(run, run.tasks())[0]
    assert view.state is TaskState.PENDING
    assert "interrupted" in view.reason


def test_a_pid_used_again_is_not_the_same_process() -> None:
    me = psutil.Process()
    assert find_process(me.pid, me.create_time()) == me
    assert find_process(me.pid, me.create_time() - 100) is None


def test_reopening_keeps_the_count_of_attempts(run: RunFolder) -> None:
    run.start_attempt(PARENT.id)
    run.record_end(PARENT.id, TaskState.FAILED, "unknown", "it broke")
    run.reopen(PARENT.id)
    assert states(run) == [TaskState.PENDING, TaskState.PENDING]
    assert run.start_attempt(PARENT.id).number == 2


def test_half_written_results_do_not_count(run: RunFolder) -> None:
    (run.results_folder / f".{PARENT.id}.json.tmp").write_text("{")
    (run.results_folder / f".{PARENT.id}.json").write_text("{")
    assert run.done_ids() == set()


def test_a_second_process_is_told_who_holds_the_run(run: RunFolder) -> None:
    code = (
        "from toolkit.cluster.run_folder import RunFolder, RunFolderError\n"
        f"try:\n    RunFolder({str(run.path)!r}).owned().__enter__()\n"
        "except RunFolderError as error:\n    print(error)\n"
    )
    with run.owned():
        assert run.owner() is not None
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"process {os.getpid()}" in done.stdout
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert free.stdout == ""


def test_folders_of_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(RunFolderError, match="holds files that no sweep wrote"):
        RunFolder(tmp_path).create()
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder.open(tmp_path)


def test_plans_are_read_back(run: RunFolder) -> None:
    assert run.tasks() == [PARENT, CHILD]
    assert json.loads(run.plan_path.read_text())["name"] == "test"
    counts = count_states(take_snapshot(run, run.tasks()))
    assert counts[TaskKind.EXTRACT][TaskState.PENDING] == 1


def test_read_outs_of_one_network_share_a_job_after_its_extraction() -> None:
    other = Task(TaskKind.EXTRACT, {"model": "b"}, label="b")
    children = [
        Task(TaskKind.ENCODE, {"layer": i}, (parent.id,), columns={"model": parent.label})
        for parent in (PARENT, other)
        for i in range(3)
    ]
    batches = make_batches([PARENT, other, *children])
    assert [len(batch.task_ids) for batch in batches] == [1, 3, 1, 3]
    together = make_batches([PARENT, *children[:3]], one_job_per_network=True)
    assert [batch.task_ids[0] for batch in together] == [PARENT.id]
    assert len(together[0].task_ids) == 4
    assert batches[1].waits_for == {PARENT.id}
    assert batches[3].waits_for == {other.id}


def test_a_process_elsewhere_lives_as_long_as_its_record_is_touched(run: RunFolder) -> None:
    here = run.start_attempt(PARENT.id)
    elsewhere = replace(here, host="another-node")
    run.record(elsewhere)
    assert states(run)[0] is TaskState.RUNNING
    long_ago_s = run.attempt_path(PARENT.id).stat().st_mtime - 600
    os.utime(run.attempt_path(PARENT.id), (long_ago_s, long_ago_s))
    assert states(run)[0] is TaskState.PENDING
    with run.heartbeat(PARENT.id):
        pass
    assert not run.is_alive(elsewhere)


def test_a_heartbeat_touches_the_record(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.cluster.run_folder.HEARTBEAT_S", 0.02)
    attempt = replace(run.start_attempt(PARENT.id), host="another-node")
    os.utime(run.attempt_path(PARENT.id), (1, 1))
    assert not run.is_alive(attempt)
    with run.heartbeat(PARENT.id):
        deadline = time.monotonic() + 10
        while not run.is_alive(attempt) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert run.attempt_path(PARENT.id).stat().st_mtime > 1


# Files that are not as they were written

DAMAGED = [b"[" * 9999, b"", b"\0" * 200, b"{", b"[1]", b"null", b'{"number": "x"}', b"\xff\xfe"]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_record_is_no_record(run: RunFolder, content: bytes) -> None:
    run.start_attempt(PARENT.id)
    run.attempt_path(PARENT.id).write_bytes(content)
    assert run.attempt(PARENT.id) is None
    assert run.attempts() == {}
    assert states(run) == [TaskState.PENDING, TaskState.PENDING]
    run.record_end(PARENT.id, TaskState.FAILED, "unknown", "it broke")
    assert states(run) == [TaskState.FAILED, TaskState.BLOCKED]


@pytest.mark.parametrize("changes", [{"number": "1"}, {"pid": None}, {"state": 7}, {"job": 4711}])
def test_a_record_with_values_of_other_types_is_no_record(
    run: RunFolder, changes: dict[str, object]
) -> None:
    run.start_attempt(PARENT.id)
    path = run.attempt_path(PARENT.id)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    assert run.attempt(PARENT.id) is None


@pytest.mark.parametrize("content", [*DAMAGED, b'{"tasks": [{"id": 3}]}', b'{"tasks": 7}'])
def test_a_damaged_plan_is_said_to_be_damaged(run: RunFolder, content: bytes) -> None:
    run.plan_path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"plan\.json is damaged"):
        run.tasks()
    if not content.startswith(b'{"tasks"'):
        with pytest.raises(RunFolderError, match=r"plan\.json is damaged"):
            run.read_summary()


def test_a_plan_cut_anywhere_is_damaged_or_whole(run: RunFolder) -> None:
    whole = run.plan_path.read_bytes()
    for end in range(len(whole) - 1):
        run.plan_path.write_bytes(whole[:end])
        for read in (run.tasks, partial(run.find_tasks, [CHILD.id])):
            try:
                assert all(task in (PARENT, CHILD) for task in read())
            except RunFolderError as error:
                assert "is damaged" in str(error)


def test_a_plan_of_another_version_is_said_to_be_one(run: RunFolder) -> None:
    text = run.plan_path.read_text()
    run.plan_path.write_text(text.replace(PARENT.id, "extract-000000000000"))
    with pytest.raises(RunFolderError, match="written by another version"):
        RunFolder(run.path).tasks()


@pytest.mark.parametrize("slurm", [None, {}, {"profile": {"nodes": 3}, "requests": {}}, [1]])
def test_settings_of_another_version_are_said_to_be_of_one(run: RunFolder, slurm: object) -> None:
    run.write_plan([PARENT], {"slurm": slurm})
    with pytest.raises(RunFolderError, match="written by another version"):
        SlurmSettings.of_run(run)


def test_failures_that_cannot_be_read_are_left_out(run: RunFolder) -> None:
    append_failures(run, [Failure("a", "now", "1_0", FailureClass.TIMEOUT)])
    path = run.path / "failures.jsonl"
    path.write_bytes(path.read_bytes() + b'\n{"task_id": "b"}\n{"x\n\0\0\n[[[[}\n\xff}\n{"task_id"')
    append_failures(run, [Failure("c", "now", "1_1", FailureClass.TIMEOUT)])
    assert [failure.task_id for failure in read_failures(run)] == ["a", "c"]


def test_who_may_not_write_in_a_run_still_sees_how_it_stands(run: RunFolder) -> None:
    run.record(replace(run.start_attempt(PARENT.id), host="another-node"))
    for name in ("owner.json", "states/.clock"):
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(name.rpartition("/")[2])  # cannot be opened, even by root
    assert states(run)[0] is TaskState.RUNNING
    assert run.owner() is None
    with pytest.raises(RunFolderError, match="cannot be written"), run.owned():
        pass


def test_records_from_a_clock_that_is_ahead_are_alive(run: RunFolder) -> None:
    attempt = replace(run.start_attempt(PARENT.id), host="another-node")
    ahead_s = time.time() + 600
    os.utime(run.attempt_path(PARENT.id), (ahead_s, ahead_s))
    assert run.is_alive(attempt)
