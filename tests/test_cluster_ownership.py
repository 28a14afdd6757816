"""Who holds a run, and that nothing but the process that holds it is ended."""

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
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.verbs import local

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
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "pid": pid,
        "process_started_s": psutil.Process(pid).create_time(),
        **changes,
    }


def write_record(run: RunFolder, record: object) -> None:
    (run.path / "owner.json").write_text(json.dumps(record))


def stop(run: RunFolder) -> str:
    console = Console(width=200)
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
