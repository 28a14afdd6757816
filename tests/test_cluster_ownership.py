"""Who holds a run, and that nothing but the process that holds it is ended."""

import argparse
import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_slurm import FakeSlurm

from jobs import keeper
from toolkit.cluster.commands import SlurmCommandError
from toolkit.cluster.dispatch import SlurmSettings, cancel_jobs
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.keeper import cancel_keeper, has_keeper, submit_keeper
from toolkit.cluster.manifests import (
    Submission,
    manifest_path,
    read_submissions,
    record_array_id,
    write_manifest,
)
from toolkit.cluster.profiles import SiteProfile
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.submission import recover_submissions
from toolkit.task import TaskKind
from toolkit.terminal import make_console
from toolkit.verbs import local, running, slurm

pytest_plugins = ("fake_slurm",)

HOLD = """
import sys, time
from toolkit.cluster.run_folder import RunFolder
with RunFolder(sys.argv[1]).owned():
    print("held", flush=True)
    time.sleep(600)
"""
OPEN = "import sys, time; f = open(sys.argv[1]); print('open', flush=True); time.sleep(600)"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    return folder


@contextmanager
def python(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process of somebody, once it has printed a line."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def record_of(pid: int, /, **changes: object) -> dict[str, Any]:
    """What the process would have written, had it taken the run."""
    return {
        "host": socket.gethostname(),
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip(),
        "pid": pid,
        "process_started_s": psutil.Process(pid).create_time(),
        **changes,
    }


def write_record(run: RunFolder, record: object) -> None:
    (run.path / "owner.json").write_text(json.dumps(record))


def stop(run: RunFolder) -> str:
    console = make_console(width=200)
    with console.capture() as capture:
        assert local.stop(run, console) == 0
    return capture.get()


def test_the_process_that_holds_a_run_is_ended(run: RunFolder) -> None:
    with python(HOLD, run.path) as holder:
        owner = run.owner()
        assert owner is not None
        assert owner.pid == holder.pid
        assert "Stopped" in stop(run)
        assert holder.wait(10) == -15
    assert "Nothing is running" in stop(run)


def test_a_process_that_only_the_record_names_is_left_alone(run: RunFolder) -> None:
    with python(OPEN, os.devnull) as victim:
        write_record(run, record_of(victim.pid))
        assert run.owner() is None
        assert "Nothing is running" in stop(run)
        assert victim.poll() is None


def test_a_process_that_reads_the_record_of_another_is_left_alone(run: RunFolder) -> None:
    with (
        python(HOLD, run.path) as holder,
        python(OPEN, run.path / "owner.json") as victim,
    ):
        write_record(run, record_of(victim.pid))
        with pytest.raises(RunFolderError, match="being run by another process"):
            stop(run)
        assert victim.poll() is None
        assert holder.poll() is None


@pytest.mark.parametrize(
    "changes",
    [
        {"process_started_s": 1.0},
        {"process_started_s": float("nan")},
        {"boot": "of another boot"},
        *({"pid": pid} for pid in (0, 1, -1, -4711, 2**31, 2**70, 1.5, True, "4711", None, [1])),
        {"pid": os.getpid()},
        {"host": None},
    ],
)
def test_a_record_that_does_not_fit_its_holder_names_nobody(
    run: RunFolder, changes: dict[str, object]
) -> None:
    with python(HOLD, run.path) as holder:
        write_record(run, record_of(holder.pid, **changes))
        assert run.owner() is None
        with pytest.raises(RunFolderError, match="being run by another process"):
            stop(run)
        assert holder.poll() is None


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"pid": 1}', "\0" * 80, "[" * 9999])
def test_a_record_that_cannot_be_read_names_nobody(run: RunFolder, text: str) -> None:
    (run.path / "owner.json").write_text(text)
    assert run.owner() is None
    assert "Nothing is running" in stop(run)


def test_of_another_machine_nothing_is_ended_here(run: RunFolder) -> None:
    with python(OPEN, os.devnull) as victim:
        write_record(run, record_of(victim.pid, host="another-machine"))
        with pytest.raises(RunFolderError, match="held on another-machine; cancel it there"):
            stop(run)
        assert victim.poll() is None


def test_a_copy_of_a_run_does_not_end_the_run(run: RunFolder, tmp_path: Path) -> None:
    with python(HOLD, run.path) as holder:
        copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
        assert copy.owner() is None
        assert "Nothing is running" in stop(copy)
        assert holder.poll() is None


def test_a_link_to_a_run_is_the_run(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path)
    with python(HOLD, run.path) as holder:
        assert "Stopped" in stop(RunFolder(tmp_path / "link"))
        assert holder.wait(10) == -15


@pytest.mark.parametrize(
    "number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EIO]
)
def test_a_file_system_without_locks_is_named_as_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(RunFolderError, match=r"file system without file locks .*; choose an --out"),
        run.owned(),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_of_another_is_named_as_one(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFolderError, match="being run by another process"), run.owned():
        pass


# Jobs


RUN_PROFILE = SiteProfile.model_validate({"default": {"partition": "main"}})


def submission_of(run: RunFolder, array_id: str) -> Submission:
    request = JobRequest(1, 0, 1.0, 10)
    name = f"probe-{array_id}"
    submission = Submission(
        name, f"{run.path.name}.{name}", TaskKind.PROBE, request, (("a",), ("b",)), "", ""
    )
    record_array_id(write_manifest(run, submission), array_id)
    return replace(submission, array_id=array_id)


def test_only_arrays_of_the_runs_own_names_are_cancelled(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    ours, others, over = (submission_of(run, array_id) for array_id in ("1", "2", "3"))
    said = f"CLUSTER: one\n1|{ours.job_name}|\n77|{others.job_name}|\n"
    fake_slurm.answers("squeue", said)
    fake_slurm.answers("scancel")
    cancel_jobs([ours, others, over], {"1_0", "1_1", "2_0", "3"})
    assert fake_slurm.calls("scancel") == ["1_0 1_1"]


@pytest.mark.parametrize("said", ["1", "1|", "x|run.probe-1|", "1|run.probe-1", "2|a|\n1|run.pr"])
def test_nothing_is_cancelled_after_an_answer_that_cannot_be_read(
    run: RunFolder, fake_slurm: FakeSlurm, said: str
) -> None:
    ours = submission_of(run, "1")
    fake_slurm.answers("squeue", said)
    fake_slurm.answers("scancel")
    with pytest.raises(SlurmCommandError, match="cannot be read"):
        cancel_jobs([ours], {"1"})
    assert fake_slurm.calls("scancel") == []


def test_after_an_answer_that_cannot_be_read_nothing_is_submitted_again(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    submission = submission_of(run, "1")
    manifest = manifest_path(run, submission.name)
    manifest.with_suffix(".id").unlink()
    fake_slurm.answers("sacct", "")
    fake_slurm.answers("squeue", "4711\n")
    with pytest.raises(SlurmCommandError, match="cannot be read"):
        recover_submissions(run)
    assert manifest.is_file()
    fake_slurm.answers("squeue", f"good morning\n4711|{submission.job_name}|\n")
    assert [found.array_id for found in recover_submissions(run)] == ["4711"]


def test_the_jobs_of_a_run_are_not_those_of_its_copy(
    run: RunFolder, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    submission = submission_of(run, "1")
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy" / "run"))
    (tmp_path / "link").symlink_to(run.path)
    assert read_submissions(copy) == []
    assert read_submissions(RunFolder(tmp_path / "link")) == [submission]
    moved = RunFolder(run.path.rename(tmp_path / "moved"))
    assert read_submissions(moved) == [submission]


def test_a_damaged_manifest_is_named(run: RunFolder) -> None:
    path = manifest_path(run, submission_of(run, "1").name)
    for content in (
        b"",
        b"\0\0",
        b"{}",
        b'{"run": 1}',
        b'{"run": "a", "kind": "x"}',
        b"[]",
        b"[" * 9999,
    ):
        path.write_bytes(content)
        with pytest.raises(RunFolderError, match=r"probe-1\.json is damaged"):
            read_submissions(run)


@pytest.mark.parametrize("text", ["", "--me", "1 2", "\0", "-1", "½"])
def test_an_id_that_is_none_is_not_recorded(run: RunFolder, text: str) -> None:
    submission = submission_of(run, "1")
    manifest = manifest_path(run, submission.name)
    manifest.with_suffix(".id").write_text(text)
    assert read_submissions(run)[0].array_id == ""
    record_array_id(manifest, "5")
    assert read_submissions(run)[0].array_id == "5"


def test_only_the_keeper_of_the_folder_is_cancelled(
    run: RunFolder, fake_slurm: FakeSlurm, tmp_path: Path
) -> None:
    settings = SlurmSettings(RUN_PROFILE, {}, None, "")
    fake_slurm.answers("sbatch", "welcome\n4711;one\n")
    fake_slurm.answers("scancel", fails="scancel: error: Kill job error: Invalid job id specified")
    assert submit_keeper(run, settings) == "4711"
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy" / "run"))
    cancel_keeper(run)
    cancel_keeper(copy)
    own, of_copy = (call.split() for call in fake_slurm.calls("scancel"))
    assert own[-1] == of_copy[-1] == "4711"
    name = next(word for word in own if word.startswith("--name="))
    assert name.replace("--name", "--job-name") in fake_slurm.calls("sbatch")[0]
    assert name not in of_copy
    (run.path / "keeper.id").write_text("--me")
    cancel_keeper(run)
    assert len(fake_slurm.calls("scancel")) == 2
    assert not has_keeper(run)


def test_a_submission_without_an_id_is_a_failure(run: RunFolder, fake_slurm: FakeSlurm) -> None:
    fake_slurm.answers("sbatch", "it is done\n")
    with pytest.raises(SlurmCommandError, match="printed no id of a job, but 'it is done"):
        submit_keeper(run, SlurmSettings(RUN_PROFILE, {}, None, ""))


# Runs that are cancelled


@pytest.fixture
def submitted(run: RunFolder, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> Submission:
    """An array of two that waits in the queue for good, and a keeper."""
    monkeypatch.setattr(slurm, "_CANCEL_S", 0.0)
    request = JobRequest(1, 0, 1.0, 10)
    elements = (("probe-a",), ("probe-b",))
    written = Submission("one", f"{run.path.name}.one", TaskKind.PROBE, request, elements, "", "")
    record_array_id(write_manifest(run, written), "1")
    fake_slurm.answers("sbatch", "4711\n")
    fake_slurm.answers_by_word("squeue", {f"--name={written.job_name}": f"1|{written.job_name}|\n"})
    fake_slurm.answers("scancel")
    submit_keeper(run, SlurmSettings(RUN_PROFILE, {}, None, ""))
    return written


def cancel(run: RunFolder) -> str:
    console = make_console(width=200)
    with console.capture() as capture:
        assert running.cancel(argparse.Namespace(run=run.path), console) == 0
    return capture.get()


@pytest.mark.parametrize("plan", [None, "", "{", '{"name":"x"', '{"slurm":{},"tasks":[\n]}\n'])
@pytest.mark.usefixtures("submitted")
def test_a_run_is_cancelled_whatever_became_of_its_plan(
    run: RunFolder, fake_slurm: FakeSlurm, plan: str | None
) -> None:
    if plan is not None:
        run.plan_path.write_text(plan)
    assert "2 jobs taken out of the queue" in cancel(run)
    of_keeper, of_jobs = fake_slurm.calls("scancel")
    assert of_keeper.endswith(" 4711")
    assert of_jobs == "1"
    assert not has_keeper(run)


@pytest.mark.parametrize("plan", [None, "{"])
def test_a_process_is_stopped_whatever_became_of_the_plan(run: RunFolder, plan: str | None) -> None:
    if plan is not None:
        run.plan_path.write_text(plan)
    with python(HOLD, run.path) as holder:
        assert "Stopped" in cancel(run)
        assert holder.wait(10) == -15


@pytest.mark.usefixtures("submitted")
def test_of_a_run_that_was_taken_over_process_jobs_and_keeper_are_ended(
    run: RunFolder, fake_slurm: FakeSlurm
) -> None:
    run.write_plan([], {"executor": {"kind": "local"}})
    with python(HOLD, run.path) as holder:
        said = cancel(run)
        assert holder.wait(10) == -15
    assert "Stopped" in said
    assert "2 jobs taken out of the queue" in said
    assert [call.split()[-1] for call in fake_slurm.calls("scancel")] == ["4711", "1"]


@pytest.mark.usefixtures("submitted")
def test_a_keeper_leaves_a_run_that_was_taken_over(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    run.write_plan([], {"executor": {"kind": "local"}})
    assert keeper.main([str(run.path)]) == 0
    assert "is not run on Slurm any more" in capsys.readouterr().out
    assert not has_keeper(run)


def test_a_folder_of_something_else_is_not_cancelled(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a run folder"):
        cancel(RunFolder(tmp_path))
