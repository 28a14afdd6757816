"""The code of a run: copied once, whole, and recognised in the job."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolkit.cluster.code_snapshot import (
    CodeChangedError,
    check_code,
    code_digest,
    code_root,
    take_code_snapshot,
)
from toolkit.cluster.failures import FailureClass, classify
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.manifests import Submission, write_manifest
from toolkit.cluster.run_folder import RunFolder
from toolkit.results.provenance import git_sha
from toolkit.task import TaskKind

SHA = "4f1b0a9de4c5" + "0" * 28


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    for name in ("toolkit/deep/a.py", "toolkit/__init__.py", "jobs/__init__.py", "notes/x.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"# {name}\n")
    return root


def test_a_snapshot_holds_the_packages_and_is_named_by_content(root: Path, tmp_path: Path) -> None:
    (root / "toolkit" / "__pycache__").mkdir()
    (root / "toolkit" / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    snapshot = take_code_snapshot(tmp_path / "run", SHA, root)
    assert snapshot.name == code_digest(root) == code_digest(snapshot)
    files = sorted(str(p.relative_to(snapshot)) for p in snapshot.rglob("*") if p.is_file())
    assert files == ["git_sha", "jobs/__init__.py", "toolkit/__init__.py", "toolkit/deep/a.py"]
    assert git_sha(snapshot / "toolkit") == SHA


@pytest.mark.parametrize("change", ["edit", "rename", "add", "remove", "move bytes"])
def test_any_change_of_the_code_changes_its_digest(root: Path, change: str) -> None:
    before = code_digest(root)
    file = root / "toolkit" / "deep" / "a.py"
    if change == "edit":
        file.write_text("# other\n")
    elif change == "rename":
        file.rename(file.with_name("b.py"))
    elif change == "add":
        (root / "jobs" / "new.py").touch()
    elif change == "remove":
        file.unlink()
    else:
        file.write_text("")
        (root / "toolkit" / "deep" / "b.py").write_text("# toolkit/deep/a.py\n")
    assert code_digest(root) != before


def test_editing_afterwards_makes_a_second_snapshot(root: Path, tmp_path: Path) -> None:
    first = take_code_snapshot(tmp_path / "run", SHA, root)
    assert take_code_snapshot(tmp_path / "run", SHA, root) == first
    (root / "jobs" / "__init__.py").write_text("changed = True\n")
    second = take_code_snapshot(tmp_path / "run", SHA, root)
    assert second != first
    assert "changed" not in (first / "jobs" / "__init__.py").read_text()
    assert sorted(p.name for p in (tmp_path / "run" / "code").iterdir()) == sorted(
        [first.name, second.name]
    )


def test_several_at_once_make_one(root: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        taken = set(pool.map(lambda _: take_code_snapshot(tmp_path / "run", SHA, root), range(16)))
    assert len(taken) == 1
    assert [p.name for p in (tmp_path / "run" / "code").iterdir()] == [taken.pop().name]


def test_a_job_runs_the_snapshot_wherever_it_is_started(tmp_path: Path) -> None:
    snapshot = take_code_snapshot(tmp_path / "run", SHA)
    program = (
        "import toolkit, jobs; from toolkit.cluster.code_snapshot import check_code, code_root;"
        f"check_code('{snapshot.name}'); print(code_root(), jobs.__path__[0])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=code_root(),
        env={**os.environ, "PYTHONPATH": str(snapshot)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(snapshot), str(snapshot / "jobs")]


def test_other_code_than_submitted_is_refused() -> None:
    check_code(code_digest(code_root()))
    with pytest.raises(CodeChangedError, match="submitted with code 0123"):
        check_code("0123")


def test_a_job_that_finds_its_code_edited_says_so(tmp_path: Path) -> None:
    """And is not tried again like one that failed for a reason unknown."""
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan([], {})
    snapshot = take_code_snapshot(run.path, SHA)
    request = JobRequest(n_cpus=1, n_gpus=0, memory_gb=1.0, timeout_min=10)
    array = Submission("a", "a", TaskKind.EXTRACT, request, ((),), snapshot.name, "")
    manifest = write_manifest(run, array)
    with (snapshot / "toolkit" / "task.py").open("a") as file:
        file.write("# edited\n")
    command = [sys.executable, "-P", "-m", "jobs.element", str(run.path), str(manifest)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(snapshot)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert f"submitted with code {snapshot.name}" in done.stderr
    assert classify(None, None, done.stderr) is FailureClass.IMPORT_ERROR
