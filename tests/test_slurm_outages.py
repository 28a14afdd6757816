"""Sweeps on a Slurm that preempts jobs, loses a node, or is away: nothing lost or run twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import start, sweep
from slurm_sweeps import (
    LONG,
    LightProfile,
    assert_all_done_once,
    assert_continued,
    classes,
    log_of,
    node_of,
    occupy,
    progress,
    states,
    wait_until,
    written,
)

from slurm.devcluster import DevCluster
from toolkit.cluster.queue import read_queue
from toolkit.cluster.run_folder import RunFolder

pytest_plugins = ("slurm_sweeps",)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_installed")]


def test_a_preempted_task_continues_and_costs_no_retry(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    profile = light_profile("LIGHT_HOLDS=")
    process = start(written(tmp_path, LONG), "--out", folder, "--profile", profile)
    wait_until(lambda: progress(folder, "test_vit") > 200)
    high = occupy(slurm_cluster, "high", seconds=1)
    wait_until(lambda: "SIGUSR2" in log_of(folder, "test_vit"))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert high
    assert classes(folder) == {}
    assert_all_done_once(folder)
    assert_continued(log_of(folder, "test_vit"))


def test_a_lost_node_is_left_and_the_task_done_elsewhere(
    slurm_cluster: DevCluster,
    tmp_path: Path,
    folder: Path,
    light_profile: LightProfile,
) -> None:
    profile = light_profile("LIGHT_HOLDS=")
    process = start(written(tmp_path, LONG), "--out", folder, "--profile", profile)
    wait_until(lambda: progress(folder, "test_vit") > 200)
    queue = read_queue(RunFolder(folder))
    assert queue is not None
    wait_until(lambda: node_of(folder))
    slurm_cluster.kill_node(node_of(folder))
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    assert_all_done_once(folder)
    assert_continued(log_of(folder, "test_vit"))


def test_a_controller_that_is_away_while_somebody_watches(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    profile = light_profile("LIGHT_HOLDS=")
    sweep(written(tmp_path, LONG), "--out", folder, "--profile", profile, "--detach")
    wait_until(lambda: progress(folder, "test_vit") > 0)
    process = start("status", folder, "--watch")
    slurm_cluster.stop_controller()
    seen = set()

    def note() -> bool:
        seen.update(states(folder))
        queue = read_queue(RunFolder(folder))
        failure = queue.report.failure if queue else None
        return failure is not None and failure.n_failures >= 3

    wait_until(note)
    (folder / "go").touch()
    wait_until(lambda: not progress(folder, "test_vit"))
    seen.update(states(folder))
    slurm_cluster.start_controller()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert not seen & {"failed", "blocked", "cancelled"}
    sweep("collect", folder)
    assert_all_done_once(folder)
