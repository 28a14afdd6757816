"""Job arrays on a real Slurm: submitted, found again, watched, disturbed."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.devcluster import ClusterShape, DevCluster
from toolkit.cluster.arrays import JobArray, plan_arrays
from toolkit.cluster.batches import Batch
from toolkit.cluster.code_snapshot import take_code_snapshot
from toolkit.cluster.failures import FailureClass, classify, last_words, peak_memory_gb
from toolkit.cluster.limits import ArrayLimits, ask_limits
from toolkit.cluster.manifests import (
    Submission,
    element_log_path,
    manifest_path,
    read_submissions,
)
from toolkit.cluster.profiles import JobRequest, SiteProfile, load_profile
from toolkit.cluster.queue import Queue
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler import Scheduler, SchedulerReport
from toolkit.cluster.submission import SubmissionError, recover_submissions, submit_arrays
from toolkit.task import TaskKind

pytest_plugins = ("slurm_cluster",)
pytestmark = pytest.mark.usefixtures("slurm_installed")

ROOT = Path(__file__).resolve().parents[1]
EXTRACT, ENCODE = TaskKind.EXTRACT, TaskKind.ENCODE
REQUEST = JobRequest(n_cpus=1, n_gpus=0, memory_gb=0.1, timeout_min=10)
SHORT_MEMORY = ClusterShape(n_nodes=1, min_job_age_s=5)

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
    scheduler = Scheduler(run.path, min_interval_s=0.3)
    limit_s = time.monotonic() + timeout_s
    while True:
        report = scheduler.refresh(all_elements(submissions))
        if until(report):
            return report
        assert time.monotonic() < limit_s, report
        time.sleep(0.2)


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


# Submitted


def test_a_failed_parent_blocks_its_own_child_only(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    batches = tasks("extract-a", "extract-fail", "extract-c")
    for name in ("a", "fail", "c"):
        batches += tasks(f"encode-{name}.1", waits_for=[f"extract-{name}"])
    submissions = submit_arrays(run, arrays_of(batches), profile, code)
    report = watch(run, submissions, all_over(submissions))

    assert results(run) == {"extract-a", "extract-c", "encode-a.1", "encode-c.1"}
    element = elements_of_tasks(submissions)
    assert report.views[element["extract-fail"]].state == "FAILED"
    assert report.views[element["encode-fail.1"]].is_blocked
    assert report.views[element["encode-c.1"]].state == "COMPLETED"
    assert "it fails" in words(run, element["extract-fail"])
    assert report.failure is None
    assert not list(run.path.rglob("*.pkl"))
    assert read_submissions(run) == submissions


def test_canaries_and_named_elements_hold_others_back(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    batches = tasks("extract-fail", "extract-b", "extract-c", "extract-d")
    plan = plan_arrays(batches, ArrayLimits(1000), lambda _: REQUEST, canary_above=1)
    submissions = submit_arrays(run, plan.arrays, profile, code)
    report = watch(run, submissions, all_over(submissions))
    assert [submission.is_canary for submission in submissions] == [True, False]
    assert all(report.views[element].is_blocked for element in submissions[1].element_ids)

    batches = tasks("extract-x", "extract-y", "extract-z")
    batches += tasks("encode-xz", waits_for=["extract-x", "extract-z"])
    submissions = submit_arrays(run, arrays_of(batches), profile, code)
    watch(run, submissions, all_over(submissions))
    assert results(run) == {"extract-x", "extract-y", "extract-z", "encode-xz"}


def test_small_tasks_share_an_element_and_its_resources(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    batches = tasks(*(f"extract-{i}" for i in range(5)))
    request = replace(REQUEST, n_cpus=2, n_gpus=1)
    plan = plan_arrays(batches, ArrayLimits(1000), lambda _: request, tasks_per_job={EXTRACT: 2})
    submissions = submit_arrays(run, plan.arrays, profile, code)
    watch(run, submissions, all_over(submissions))
    assert [len(element) for element in submissions[0].elements] == [2, 2, 1]
    assert (run.results_folder / "extract-4").read_text().split()[1] == "2"
    asked = ["sacct", "-nP", f"--jobs={submissions[0].array_id}", "--format=JobID,AllocTRES"]
    steps: list[str] = []
    while len(steps) < 3:  # accounting comes later
        time.sleep(0.5)
        lines = slurm_cluster.run(asked).stdout.splitlines()
        steps = [line for line in lines if line.partition("|")[0].endswith(".0") and "cpu" in line]
    assert all("cpu=2" in step and "gres/gpu=1" in step for step in steps)


def test_jobs_run_the_code_that_was_submitted(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-wait")), profile, code)
    (code.parents[1] / "checkout" / "jobs" / "element.py").write_text("raise SystemExit(1)")
    (run.path / "jobs").mkdir()
    (run.path / "jobs" / "element.py").write_text("raise SystemExit(1)")
    (run.path / "jobs" / "__init__.py").touch()
    (run.path / "go").touch()
    watch(run, submissions, all_over(submissions))
    where = (run.results_folder / "extract-wait").read_text().split(maxsplit=2)[2]
    assert where.strip() == str(code / "jobs" / "element.py")
    assert submissions[0].code == code.name


def test_an_array_larger_than_the_cluster_takes_is_split(
    use_cluster: Callable[[ClusterShape], DevCluster],
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
) -> None:
    use_cluster(ClusterShape(n_nodes=1, has_accounting=False, max_array_size=5))
    batches = tasks(*(f"extract-{i}" for i in range(6)))
    with pytest.raises(SubmissionError, match=r"array of 6: .*; look at max_array_size"):
        submit_arrays(run, arrays_of(batches), profile, code)

    limits = ask_limits(profile)
    assert limits == ArrayLimits(5)
    submissions = submit_arrays(run, arrays_of(batches, limits=limits), profile, code)
    assert [len(submission.elements) for submission in submissions] == [5, 1]
    watch(run, submissions, all_over(submissions))
    assert len(results(run)) == 6


def test_what_slurm_refuses_is_explained(
    slurm_cluster: DevCluster, run: RunFolder, code: Path
) -> None:
    profile = SiteProfile.model_validate({"encode": {"partition": "gpus"}})
    with pytest.raises(SubmissionError) as caught:
        submit_arrays(run, arrays_of(tasks("encode-a")), profile, code)
    assert "invalid partition specified: gpus" in str(caught.value)
    assert "look at partition of the profile, for stage encode" in str(caught.value)
    assert recover_submissions(run) == []
    assert read_submissions(run) == []


@pytest.mark.slow
def test_the_limit_of_the_user_is_asked_for_and_kept(
    run: RunFolder, code: Path, profile: SiteProfile, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DevCluster.start(ClusterShape(n_nodes=1)) as cluster:
        monkeypatch.setenv("SLURM_CONF", str(cluster.conf_path))
        with cluster.conf_path.open("a") as conf:
            conf.write("AccountingStorageEnforce=limits\n")
        cluster.stop_controller()
        cluster.start_controller()
        user = ["user", getpass.getuser()]
        cluster.run(["sacctmgr", "-i", "modify", *user, "set", "MaxSubmitJobs=4"])

        batches = tasks(*(f"extract-wait.{i}" for i in range(3)))
        for i in range(3):
            batches += tasks(f"encode-wait.{i}", waits_for=[f"extract-wait.{i}"])
        with pytest.raises(SubmissionError, match="look at max_submit"):
            submit_arrays(run, arrays_of(batches), profile, code)
        cluster.run(["scancel", "--me"])
        while ask_limits(profile).n_queued:
            time.sleep(0.2)

        plan = plan_arrays(batches, ask_limits(profile), lambda _: REQUEST)
        assert [len(wave) for wave in plan.waves] == [2, 2]
        submissions = submit_arrays(run, plan.waves[0], profile, code)
        assert ask_limits(profile) == ArrayLimits(20001, 4, n_queued=4)
        (run.path / "go").touch()
        watch(run, submissions, all_over(submissions))
        rest = [batch for batch in batches if not results(run).issuperset(batch.task_ids)]
        plan = plan_arrays(rest, ask_limits(profile), lambda _: REQUEST)
        submissions = submit_arrays(run, plan.waves[0], profile, code)
        watch(run, submissions, all_over(submissions))
        assert len(results(run)) == 6


def test_a_job_can_submit_jobs(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, tmp_path: Path
) -> None:
    script = tmp_path / "submit.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "import test_slurm_submission as t\n"
        f"run, code = t.RunFolder({str(run.path)!r}), Path({str(code)!r})\n"
        "arrays, profile = t.arrays_of(t.tasks('extract-a')), t.load_profile('devcluster')\n"
        "t.submit_arrays(run, arrays, profile, code)\n"
    )
    outer = ["sbatch", "--parsable", "--gres=gpu:1", "--mem=1000", f"--output={tmp_path}/outer.out"]
    slurm_cluster.run([*outer, f"--wrap=srun {sys.executable} {script}"])
    limit_s = time.monotonic() + 60
    while not (run.results_folder / "extract-a").exists():
        assert time.monotonic() < limit_s, (tmp_path / "outer.out").read_text()
        time.sleep(0.2)


# Found again


def sbatch_that(folder: Path, then: str) -> None:
    """An ``sbatch`` that submits, and then something happens to it."""
    folder.mkdir()
    path = folder / "sbatch"
    path.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" >&2\n{then}\n')
    path.chmod(0o755)


def test_a_submission_without_an_answer_is_found_by_its_name(
    slurm_cluster: DevCluster,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sbatch_that(
        tmp_path / "bin",
        'echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1',
    )
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with pytest.raises(SubmissionError, match="Socket timed out"):
            submit_arrays(run, arrays_of(tasks("extract-a", "extract-b")), profile, code)
    (lost,) = read_submissions(run)
    assert lost.array_id == ""
    assert lost.element_ids == []
    assert elements_of_tasks([lost]) == {}

    (found,) = recover_submissions(run)
    assert read_submissions(run) == [found]
    watch(run, [found], all_over([found]))
    assert results(run) == {"extract-a", "extract-b"}
    assert recover_submissions(run) == []


@pytest.mark.slow
def test_a_submission_whose_process_was_killed_is_found(
    use_cluster: Callable[[ClusterShape], DevCluster],
    run: RunFolder,
    code: Path,
    tmp_path: Path,
) -> None:
    """Also when the queue has forgotten it: accounting has not."""
    cluster = use_cluster(SHORT_MEMORY)
    sbatch_that(tmp_path / "bin", "kill -KILL $PPID")
    program = (
        "import test_slurm_submission as t\nfrom pathlib import Path\n"
        f"run, code = t.RunFolder({str(run.path)!r}), Path({str(code)!r})\n"
        "arrays, profile = t.arrays_of(t.tasks('extract-a')), t.load_profile('devcluster')\n"
        "t.submit_arrays(run, arrays, profile, code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            **os.environ,
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        },
        capture_output=True,
    )
    assert done.returncode == -9, done.stderr
    manifest = manifest_path(run, read_submissions(run)[0].name)
    (found,) = recover_submissions(run)
    watch(run, [found], all_over([found]))

    manifest.with_suffix(".id").unlink()
    while cluster.run(["squeue", "-h", "--states=all"]).stdout:
        time.sleep(0.2)
    assert recover_submissions(run) == [found]


def test_a_submission_that_never_happened_is_forgotten(
    slurm_cluster: DevCluster,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        with pytest.raises(SubmissionError):
            submit_arrays(run, arrays_of(tasks("extract-a")), profile, code)
    assert len(read_submissions(run)) == 1
    assert recover_submissions(run) == []
    assert read_submissions(run) == []


# Watched and disturbed


def test_a_requeued_element_starts_again_under_its_id(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-once", "extract-b")), profile, code)
    element = submissions[0].element_id(0)
    watch_start(run, submissions)
    slurm_cluster.run(["scontrol", "requeue", element])
    report = watch(run, submissions, all_over(submissions))
    assert report.views[element].state == "COMPLETED"
    assert report.views[element].restarts == 1
    assert (run.results_folder / "extract-once").read_text().startswith("1 ")
    assert element_log_path(run, element).read_text().count("=== start") == 2
    assert "REQUEUE" not in words(run, element)


def test_an_element_over_its_memory(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-memory")), profile, code)
    (element,) = submissions[0].element_ids
    report = watch(run, submissions, all_over(submissions))
    assert report.views[element].state == "FAILED"
    said = words(run, element)
    assert classify(report.views[element], None, said) is FailureClass.OUT_OF_MEMORY
    peak_gb = peak_memory_gb(said)
    assert peak_gb is not None
    assert 0.1 < peak_gb < 2


def test_a_cancelled_element(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-wait.1")), profile, code)
    (element,) = submissions[0].element_ids
    watch_start(run, submissions)
    slurm_cluster.run(["scancel", element])
    report = watch(run, submissions, all_over(submissions))
    view = report.views[element]
    assert classify(view, None, words(run, element)) is FailureClass.CANCELLED


@pytest.mark.slow
def test_a_lost_node_is_no_end_where_slurm_requeues(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-once")), profile, code)
    (element,) = submissions[0].element_ids
    node = watch_start(run, submissions)
    slurm_cluster.kill_node(node)
    seen = set()

    def note(report: SchedulerReport) -> bool:
        view = report.views[element]
        seen.add((view.state, view.is_over(time.time())))
        return view.state == "COMPLETED"

    report = watch(run, submissions, note)
    assert report.views[element].restarts == 1
    assert {state for state, over in seen if over} == {"COMPLETED"}


@pytest.mark.slow
def test_a_lost_node_is_the_end_where_slurm_does_not_requeue(
    slurm_cluster: DevCluster, run: RunFolder, code: Path
) -> None:
    profile = SiteProfile.model_validate({"default": {"requeue": False}})
    submissions = submit_arrays(run, arrays_of(tasks("extract-wait")), profile, code)
    (element,) = submissions[0].element_ids
    node = watch_start(run, submissions)
    slurm_cluster.kill_node(node)
    view = watch(run, submissions, all_over(submissions)).views[element]
    assert (view.state, view.node) == ("NODE_FAIL", node)
    assert classify(view, None, words(run, element)) is FailureClass.NODE_FAILURE


@pytest.mark.slow
def test_a_controller_that_is_away_changes_nothing(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-wait")), profile, code)
    (element,) = submissions[0].element_ids
    watch_start(run, submissions)
    slurm_cluster.stop_controller()
    report = watch(run, submissions, lambda report: report.failure is not None)
    assert report.failure is not None
    assert "Unable to contact slurm controller" in report.failure.reason
    assert report.views[element].state == "RUNNING"
    with pytest.raises(SubmissionError, match="Unable to contact slurm controller"):
        submit_arrays(run, arrays_of(tasks("extract-b")), profile, code)
    slurm_cluster.start_controller()
    (run.path / "go").touch()
    report = watch(run, submissions, all_over(submissions))
    assert report.failure is None
    assert report.views[element].state == "COMPLETED"
    assert recover_submissions(run) == []


@pytest.mark.slow
def test_accounting_remembers_what_the_queue_has_forgotten(
    use_cluster: Callable[[ClusterShape], DevCluster],
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
) -> None:
    cluster = use_cluster(SHORT_MEMORY)
    batches = tasks("extract-a", "extract-fail", "extract-c")
    submissions = submit_arrays(run, arrays_of(batches), profile, code)
    while cluster.run(["squeue", "-h", "--states=all"]).stdout:
        time.sleep(0.2)
    report = watch(run, submissions, all_over(submissions))
    element = elements_of_tasks(submissions)
    assert report.views[element["extract-a"]].state == "COMPLETED"
    assert report.views[element["extract-fail"]].exit_code == "1:0"
    assert report.unknown_since_s == {}


@pytest.mark.slow
def test_without_accounting_the_queue_alone_is_a_witness_for_a_while(
    use_cluster: Callable[[ClusterShape], DevCluster],
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
) -> None:
    cluster = use_cluster(ClusterShape(n_nodes=1, has_accounting=False, min_job_age_s=5))
    submissions = submit_arrays(run, arrays_of(tasks("extract-a", "extract-fail")), profile, code)
    report = watch(run, submissions, all_over(submissions))
    assert report.accounting_failure is None
    assert report.n_queries > 0

    while cluster.run(["squeue", "-h", "--states=all"]).stdout:
        time.sleep(0.2)
    elements = all_elements(submissions)
    assert Scheduler(run.path, min_interval_s=0).refresh(elements).views == report.views
    (run.path / "scheduler.json").unlink()
    report = Scheduler(run.path).refresh(elements)
    assert report.failure is None
    assert set(report.unknown_since_s) == set(elements)
    assert report.accounting_failure is not None
    assert "accounting" in report.accounting_failure.reason
