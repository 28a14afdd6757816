"""Job arrays on a real Slurm: watched and disturbed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from slurm_arrays import (
    all_elements,
    all_over,
    arrays_of,
    elements_of_tasks,
    is_in,
    tasks,
    watch,
    watch_start,
    words,
)
from slurm_cluster import Rules

from slurm.devcluster import DevCluster
from toolkit.cluster.failures import FailureClass, classify, peak_memory_gb
from toolkit.cluster.manifests import element_log_path
from toolkit.cluster.profiles import SiteProfile
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler import Scheduler, SchedulerReport
from toolkit.cluster.submission import SubmissionError, recover_submissions, submit_arrays

pytest_plugins = ("slurm_arrays",)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_installed")]


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


def test_a_lost_node_is_the_end_only_where_slurm_does_not_requeue(
    slurm_cluster: DevCluster, run: RunFolder, code: Path, profile: SiteProfile
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-once")), profile, code)
    (element,) = submissions[0].element_ids
    node = watch_start(run, submissions)
    others = set(slurm_cluster.shape.nodes) - {node}
    once = SiteProfile.model_validate({"default": {"requeue": False, "exclude": sorted(others)}})
    never_again = submit_arrays(run, arrays_of(tasks("extract-wait")), once, code)
    (lost,) = never_again[0].element_ids
    assert watch_start(run, never_again) == node
    slurm_cluster.kill_node(node)
    seen = set()

    def note(report: SchedulerReport) -> bool:
        view = report.views[element]
        seen.add((view.state, view.is_over(time.time())))
        return view.state == "COMPLETED"

    view = watch(run, [*submissions, *never_again], is_in(lost, "NODE_FAIL")).views[lost]
    assert (view.state, view.node) == ("NODE_FAIL", node)
    assert classify(view, None, words(run, lost)) is FailureClass.NODE_FAILURE
    report = watch(run, submissions, note)
    assert report.views[element].restarts == 1
    assert {state for state, over in seen if over} == {"COMPLETED"}


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


def test_accounting_remembers_what_the_queue_has_forgotten(
    slurm_cluster: DevCluster,
    slurm_rules: Rules,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
) -> None:
    slurm_rules(MinJobAge=2)
    batches = tasks("extract-a", "extract-fail", "extract-c")
    submissions = submit_arrays(run, arrays_of(batches), profile, code)
    while slurm_cluster.run(["squeue", "-h", "--states=all"]).stdout:
        time.sleep(0.2)
    report = watch(run, submissions, all_over(submissions))
    element = elements_of_tasks(submissions)
    assert report.views[element["extract-a"]].state == "COMPLETED"
    assert report.views[element["extract-fail"]].exit_code == "1:0"
    assert report.unknown_since_s == {}


def test_without_accounting_the_queue_alone_is_a_witness_for_a_while(
    slurm_cluster: DevCluster,
    without_accounting: None,
    slurm_rules: Rules,
    run: RunFolder,
    code: Path,
    profile: SiteProfile,
) -> None:
    submissions = submit_arrays(run, arrays_of(tasks("extract-a", "extract-fail")), profile, code)
    report = watch(run, submissions, all_over(submissions))
    assert report.accounting_failure is None
    assert report.n_queries > 0

    slurm_rules(MinJobAge=2)
    while slurm_cluster.run(["squeue", "-h", "--states=all"]).stdout:
        time.sleep(0.2)
    elements = all_elements(submissions)
    assert Scheduler(run.path, min_interval_s=0).refresh(elements).views == report.views
    (run.path / "scheduler.json").unlink()
    report = Scheduler(run.path).refresh(elements)
    assert report.failure is None
    assert set(report.unknown_since_s) == set(elements)
    assert report.accounting_failure is not None
    assert "accounting" in report.accounting_failure.reason
