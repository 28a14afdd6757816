"""Sweeps on a real Slurm whose tasks fail, are stopped, or need more: nothing lost or run twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import start, sweep
from slurm_sweeps import (
    CONFIG,
    LONG,
    LightProfile,
    assert_all_done_once,
    assert_continued,
    classes,
    element_of,
    extraction,
    log_of,
    progress,
    states,
    views,
    wait_until,
    written,
)

from slurm.devcluster import DevCluster
from toolkit.cluster.failure_log import read_failures
from toolkit.cluster.run_folder import RunFolder
from toolkit.results import load
from toolkit.task import TaskState

pytest_plugins = ("slurm_sweeps",)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_installed")]


def test_a_cancelled_task_stays_cancelled_until_somebody_asks(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    profile = light_profile("LIGHT_HOLDS=")
    process = start(written(tmp_path, LONG), "--out", folder, "--profile", profile)
    wait_until(lambda: progress(folder, "test_vit") > 0)
    slurm_cluster.run(["scancel", element_of(folder, "test_vit")])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert states(folder) == {"cancelled": 1, "blocked": 1}
    assert classes(folder)["cancelled"] == 1
    row = load(folder).results.iloc[0]
    assert row["status"] == "blocked"
    assert extraction(folder, "test_vit").task.id in row["error_message"]
    (folder / "go").touch()
    sweep("retry", folder, "--class", "cancelled")
    assert_all_done_once(folder)


def test_cancel_takes_a_run_out_of_the_queue(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    profile = light_profile("LIGHT_HOLDS=")
    sweep(written(tmp_path, LONG), "--out", folder, "--profile", profile, "--detach")
    wait_until(lambda: progress(folder, "test_vit") > 0)
    assert "2 jobs taken out of the queue" in sweep("cancel", folder)
    wait_until(lambda: not slurm_cluster.run(["squeue", "--noheader"]).stdout)
    assert states(folder)["done"] == 0
    sweep("status", folder, expect=1)


def test_a_time_limit_is_continued_from_what_is_done(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    # Slurm looks at time limits every half minute, and warns before the next time.
    profile = light_profile("LIGHT_HOLDS=", signal_delay_s=25)
    limit = ("--set", "resources.extract.timeout_min=1")
    sweep(written(tmp_path, LONG), "--out", folder, "--profile", profile, *limit)
    assert_all_done_once(folder)
    assert classes(folder) == {}
    log = log_of(folder, "test_vit")
    assert "the scheduler sent SIGUSR2; the task will be continued" in log
    assert log.count(" start ") >= 2
    assert_continued(log)


def test_a_job_over_its_memory_is_tried_with_more(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    little = ("--set", "resources.extract.memory_gb=0.3")
    profile = light_profile("LIGHT_MEMORY_MB=400")
    sweep(written(tmp_path, LONG), "--out", folder, "--profile", profile, *little)
    assert_all_done_once(folder)
    failures = read_failures(RunFolder(folder))
    over = [failure for failure in failures if str(failure.failure) == "out_of_memory"]
    asked = [failure.memory_gb for failure in over]
    assert asked == sorted(set(asked))
    assert asked[0] == 0.3
    assert over[0].peak_memory_gb is not None
    assert over[0].peak_memory_gb > 0.3
    assert classes(folder).keys() <= {"out_of_memory", "blocked"}


def test_a_parent_that_fails_blocks_its_children_only(
    slurm_cluster: DevCluster,
    without_accounting: None,
    tmp_path: Path,
    folder: Path,
    light_profile: LightProfile,
) -> None:
    """On a cluster without accounting."""
    bad = "  - {library: timm, names: test_vit2, layers: blocks.5}\n"
    config = written(tmp_path, CONFIG.replace("readouts:", f"{bad}readouts:"))
    profile = light_profile("LIGHT_FAILS=test_vit2")
    output = sweep(config, "--out", folder, "--profile", profile, expect=1)
    assert states(folder) == {"done": 6, "failed": 1, "blocked": 1}
    (failed,) = [v for v in views(folder).values() if v.state is TaskState.FAILED]
    (blocked,) = [v for v in views(folder).values() if v.state is TaskState.BLOCKED]
    assert failed.task.id in blocked.reason
    assert failed.attempt is not None
    assert failed.attempt.error_class == "bad_features"
    assert classes(folder)["bad_data"] == 1
    assert "bad_features" in output
    rows = load(folder).results.set_index("status")
    assert rows.loc["blocked", "error_class"] == "blocked"
    assert "gave NaN or infinity" in sweep("logs", folder, failed.task.id)
    assert "Traceback" in RunFolder(folder).log_path(failed.task.id).read_text(encoding="utf-8")


def test_an_environment_that_cannot_import_stops_its_family_at_once(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    (tmp_path / "shadow" / "timm").mkdir(parents=True)
    (tmp_path / "shadow" / "timm" / "__init__.py").write_text("import no_such_module\n")
    profile = light_profile(f"PYTHONPATH=$PYTHONPATH:{tmp_path / 'shadow'}", "LIGHT_IMPORTS=timm")
    canary = ("--set", "executor.canary_above=1")
    sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", profile, *canary, expect=1)
    assert states(folder) == {"done": 2, "failed": 1, "blocked": 3}
    assert classes(folder)["import_error"] == 1
    stopped = extraction(folder, "test_vit")
    assert stopped.state is TaskState.BLOCKED
    assert "extract timm is stopped" in stopped.reason
