"""Jobs in processes of this machine: bounds, limits, threads, and jobs that die."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from toolkit.cluster.batches import Batch
from toolkit.cluster.local import JobResources, available_gpus, run_local
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import take_snapshot
from toolkit.task import Task, TaskKind, TaskState


@pytest.fixture(autouse=True)
def _jobs_can_import_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


ONE_CPU = {kind: JobResources(n_cpus=1, n_gpus=0, timeout_min=5) for kind in TaskKind}


def finish(run: RunFolder, task_id: str, **facts: object) -> None:
    path = run.result_path(task_id)
    path.with_name(f".{path.name}").write_text(json.dumps(facts))
    path.with_name(f".{path.name}").replace(path)


def note_times(path: str, task_ids: Sequence[str], n_cpus: int | None) -> None:
    """Work that leaves when it ran, with how many threads, and on which GPUs."""
    run = RunFolder(path)
    started = time.time()
    time.sleep(1.0)
    for task_id in task_ids:
        finish(
            run,
            task_id,
            started=started,
            ended=time.time(),
            n_cpus=n_cpus,
            omp=os.environ["OMP_NUM_THREADS"],
            gpus=os.environ["CUDA_VISIBLE_DEVICES"],
        )


def die(path: str, task_ids: Sequence[str], n_cpus: int | None) -> None:
    RunFolder(path).start_attempt(task_ids[0])
    os.kill(os.getpid(), signal.SIGKILL)


def hang(path: str, task_ids: Sequence[str], n_cpus: int | None) -> None:
    RunFolder(path).start_attempt(task_ids[0])
    while True:
        time.sleep(0.1)


def make_run(folder: Path, n_tasks: int) -> tuple[RunFolder, list[Batch]]:
    tasks = [Task(TaskKind.EXTRACT, {"i": i}, label=str(i)) for i in range(n_tasks)]
    run = RunFolder(folder / "run")
    run.create()
    run.write_plan(tasks, {})
    return run, [Batch(task.label, task.kind, (task.id,)) for task in tasks]


def facts(run: RunFolder) -> list[dict[str, object]]:
    return [json.loads(run.result_path(task.id).read_text()) for task in run.tasks()]


@pytest.mark.slow
def test_no_more_jobs_run_at_once_than_asked_for(tmp_path: Path) -> None:
    run, batches = make_run(tmp_path, 4)
    run_local(run, batches, partial(note_times, str(run.path)), ONE_CPU, max_parallel=2)
    spans = [(fact["started"], fact["ended"]) for fact in facts(run)]
    most = max(sum(a <= start < b for a, b in spans) for start, _ in spans)
    assert most == 2
    assert {fact["omp"] for fact in facts(run)} == {"1"}
    assert {fact["n_cpus"] for fact in facts(run)} == {1}


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0,1", ("0", "1")),
        (" 1 , 3 ", ("1", "3")),
        ("GPU-8932f937-d72c,GPU-45cccd52", ("GPU-8932f937-d72c", "GPU-45cccd52")),
        ("MIG-GPU-8932f937/1/0", ("MIG-GPU-8932f937/1/0",)),
        ("MIG-8932f937-d72c,MIG-45cccd52", ("MIG-8932f937-d72c", "MIG-45cccd52")),
        ("0,-1,1", ("0",)),
        *((none, ()) for none in ("", " ", "-1", "NoDevFiles", "none", ",0")),
    ],
)
def test_gpus_are_known_by_the_names_that_cuda_takes(
    monkeypatch: pytest.MonkeyPatch, visible: str, names: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert available_gpus() == names


def test_jobs_get_different_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-8932f937,MIG-45cccd52-1/1/0")
    run, batches = make_run(tmp_path, 2)
    one_gpu = {kind: JobResources(n_cpus=1, n_gpus=1, timeout_min=5) for kind in TaskKind}
    run_local(run, batches, partial(note_times, str(run.path)), one_gpu, max_parallel=2)
    assert sorted(str(fact["gpus"]) for fact in facts(run)) == ["0", "GPU-8932f937"]


def test_a_job_that_dies_is_recorded_with_its_log(tmp_path: Path) -> None:
    run, batches = make_run(tmp_path, 1)
    run_local(run, batches, partial(die, str(run.path)), ONE_CPU, max_parallel=1)
    attempt = run.attempt(batches[0].task_ids[0])
    assert attempt is not None
    assert (attempt.state, attempt.error_class) == (TaskState.FAILED, "killed")
    assert "_log.err" in attempt.error_message


def test_children_of_a_failed_job_are_left_out(tmp_path: Path) -> None:
    run, batches = make_run(tmp_path, 1)
    child = Task(TaskKind.ENCODE, {}, inputs=batches[0].task_ids)
    batches.append(Batch("child", child.kind, (child.id,), frozenset(batches[0].task_ids)))
    run_local(run, batches, partial(die, str(run.path)), ONE_CPU, max_parallel=1)
    assert run.attempt(child.id) is None


def test_children_in_the_job_of_a_failed_parent_are_blocked(tmp_path: Path) -> None:
    run, _ = make_run(tmp_path, 1)
    parent = run.tasks()[0]
    child = Task(TaskKind.ENCODE, {}, inputs=(parent.id,))
    run.write_plan([parent, child], {})
    together = Batch("both", parent.kind, (parent.id, child.id))
    run_local(run, [together], partial(die, str(run.path)), ONE_CPU, max_parallel=1)
    states = [view.state for view in take_snapshot(run, run.tasks())]
    assert states == [TaskState.FAILED, TaskState.BLOCKED]


@pytest.mark.slow
def test_the_time_limit_ends_a_job(tmp_path: Path) -> None:
    run, batches = make_run(tmp_path, 1)
    limit = {kind: JobResources(n_cpus=1, n_gpus=0, timeout_min=1) for kind in TaskKind}
    run_local(run, batches, partial(hang, str(run.path)), limit, max_parallel=1)
    attempt = run.attempt(batches[0].task_ids[0])
    assert attempt is not None
    assert attempt.error_class == "timeout"
    assert "1 min" in attempt.error_message


def test_jobs_end_when_the_sweep_is_killed(tmp_path: Path) -> None:
    run, batches = make_run(tmp_path, 1)
    code = (
        "import sys\nfrom functools import partial\n"
        "import test_cluster_local as t\n"
        "from toolkit.cluster.batches import Batch\n"
        "from toolkit.cluster.run_folder import RunFolder\n"
        "run = RunFolder(sys.argv[1]); task = run.tasks()[0]\n"
        "batches = [Batch('a', task.kind, (task.id,))]\n"
        "t.run_local(run, batches, partial(t.hang, sys.argv[1]), t.ONE_CPU, 1)\n"
    )
    sweep = subprocess.Popen([sys.executable, "-c", code, str(run.path)])
    deadline = time.monotonic() + 60
    while run.attempt(batches[0].task_ids[0]) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    sweep.kill()
    sweep.wait()
    attempt = run.attempt(batches[0].task_ids[0])
    assert attempt is not None
    while run.is_alive(attempt) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not run.is_alive(attempt)
