"""Job arrays whose elements do what the names of their tasks say, and what to look at.

``pytest_plugins = ("slurm_arrays",)`` gives the fixtures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from toolkit.cluster.arrays import JobArray, plan_arrays
from toolkit.cluster.batches import Batch
from toolkit.cluster.code_snapshot import take_code_snapshot
from toolkit.cluster.failures import last_words
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.manifests import Submission, element_log_path
from toolkit.cluster.profiles import JobRequest, SiteProfile, load_profile
from toolkit.cluster.queue import Queue
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler import Scheduler, SchedulerReport
from toolkit.task import TaskKind

ROOT = Path(__file__).resolve().parents[1]
REQUEST = JobRequest(n_cpus=1, n_gpus=0, memory_gb=0.1, timeout_min=10)

# Does what the name of each of its tasks says.
ELEMENT = """
import json, os, sys, time
from pathlib import Path
run, manifest = map(Path, sys.argv[1:])
restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
for task in json.loads(manifest.read_text())["elements"][int(os.environ["SLURM_ARRAY_TASK_ID"])]:
    what = task.split("-")[1].split(".")[0]
    print("does", task, flush=True)
    if what == "fail":
        sys.exit("it fails")
    if what == "memory":
        kept = bytearray(400 << 20)
        time.sleep(60)
    if what == "wait" or (what == "once" and not restarts):
        while not (run / "go").exists():
            time.sleep(0.1)
    with (run / "results" / task).open("a") as file:
        print(restarts, os.environ["OMP_NUM_THREADS"], __file__, file=file)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "a run, with 'quotes'")
    run.create()
    return run


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "checkout" / "toolkit").mkdir(parents=True)
    (tmp_path / "checkout" / "jobs").mkdir()
    (tmp_path / "checkout" / "jobs" / "__init__.py").touch()
    (tmp_path / "checkout" / "jobs" / "element.py").write_text(ELEMENT)
    return take_code_snapshot(tmp_path, "", tmp_path / "checkout")


@pytest.fixture
def profile() -> SiteProfile:
    return load_profile("devcluster")


def tasks(*ids: str, waits_for: Sequence[str] = ()) -> list[Batch]:
    """One batch for each task."""
    kinds = [TaskKind(task_id.split("-")[0]) for task_id in ids]
    return [Batch(i, kind, (i,), frozenset(waits_for)) for i, kind in zip(ids, kinds, strict=True)]


def arrays_of(
    batches: Sequence[Batch], request: JobRequest = REQUEST, limits: ArrayLimits | None = None
) -> list[JobArray]:
    return plan_arrays(batches, limits or ArrayLimits(1000), lambda _: request).arrays


def submission_of_a_task(run: RunFolder, code: Path) -> str:
    """A program that submits ``extract-a``."""
    return f"""
import sys
from pathlib import Path
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from slurm_arrays import RunFolder, arrays_of, load_profile, tasks
from toolkit.cluster.submission import submit_arrays
arrays = arrays_of(tasks("extract-a"))
submit_arrays(RunFolder({str(run.path)!r}), arrays, load_profile("devcluster"), Path({str(code)!r}))
"""


def all_elements(submissions: Sequence[Submission]) -> list[str]:
    return [element for s in submissions for element in s.element_ids]


def elements_of_tasks(submissions: Sequence[Submission]) -> dict[str, str]:
    return Queue(submissions, SchedulerReport(), now_s=0.0).waiting_elements()


def watch(
    run: RunFolder,
    submissions: Sequence[Submission],
    until: Callable[[SchedulerReport], bool],
    timeout_s: float = 90.0,
) -> SchedulerReport:
    """Ask until the report is as wanted."""
    scheduler = Scheduler(run.path, min_interval_s=0.2)
    limit_s = time.monotonic() + timeout_s
    while True:
        report = scheduler.refresh(all_elements(submissions))
        if until(report):
            return report
        assert time.monotonic() < limit_s, report
        time.sleep(0.1)


def watch_start(run: RunFolder, submissions: Sequence[Submission]) -> str:
    """Wait until the first element does its first task; return its node."""
    element = submissions[0].element_id(0)
    watch(run, submissions, lambda _: "does" in words(run, element))
    return watch(run, submissions, is_in(element, "RUNNING")).views[element].node


def all_over(submissions: Sequence[Submission]) -> Callable[[SchedulerReport], bool]:
    def are_over(report: SchedulerReport) -> bool:
        views = [report.views.get(element) for element in all_elements(submissions)]
        return all(view is not None and view.is_over(time.time()) for view in views)

    return are_over


def is_in(element: str, state: str) -> Callable[[SchedulerReport], bool]:
    return lambda report: element in report.views and report.views[element].state == state


def results(run: RunFolder) -> set[str]:
    return {path.name for path in run.results_folder.iterdir()}


def words(run: RunFolder, element: str) -> str:
    return last_words(element_log_path(run, element))
