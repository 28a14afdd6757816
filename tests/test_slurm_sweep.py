"""Whole sweeps on a real Slurm: run, left, found again."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pandas as pd
import pytest
import yaml
from commands import start, sweep
from slurm_cluster import Rules
from slurm_sweeps import (
    CONFIG,
    DIFFERS_FROM_RUN_TO_RUN,
    LONG,
    ROOT,
    LightProfile,
    assert_all_done_once,
    occupy,
    progress,
    states,
    wait_until,
    written,
)

from slurm.devcluster import DevCluster
from toolkit.cluster.manifests import read_submissions
from toolkit.cluster.profiles import load_profile
from toolkit.cluster.run_folder import RunFolder
from toolkit.results import load
from toolkit.task import TaskKind

pytest_plugins = ("slurm_sweeps",)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_installed")]


def test_the_quickstart_gives_the_tables_of_a_local_run(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    profile = tmp_path / "site.yaml"  # small jobs share one, as they do at most sites
    own = load_profile("devcluster").model_dump(mode="json", exclude_unset=True)
    own["extract"]["tasks_per_job"], own["encode"]["tasks_per_job"] = 2, 9
    profile.write_text(yaml.safe_dump({**own, "min_query_interval_s": 0.3}), encoding="utf-8")
    changes = ["dataset.n_train=120", "dataset.n_val=40", "resources.extract.cpus=1"]
    words = [w for change in [*changes, "resources.encode.cpus=1"] for w in ("--set", change)]
    words.insert(0, str(ROOT / "configs" / "quickstart.yaml"))
    on_slurm = ("--executor", "slurm", "--profile", profile, "--out", folder)
    sweep(*words, *on_slurm)
    assert_all_done_once(folder)
    sweep(*words, "--executor", "inprocess", "--out", tmp_path / "local")
    ours, theirs = load(folder), load(tmp_path / "local")
    pd.testing.assert_frame_equal(
        ours.results.drop(columns=DIFFERS_FROM_RUN_TO_RUN),
        theirs.results.drop(columns=DIFFERS_FROM_RUN_TO_RUN),
        check_exact=True,
    )
    pd.testing.assert_frame_equal(ours.neurons, theirs.neurons, check_exact=True)
    assert "Nothing to run" in sweep(*words, *on_slurm)


def test_detached_then_collected_by_a_second_process(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    words = (written(tmp_path, CONFIG), "--out", folder, "--profile", light_profile(), "--detach")
    hold = occupy(slurm_cluster, "cpu")
    output = sweep(*words)
    assert "6 tasks submitted" in output
    again = sweep(*words)
    assert "0 tasks submitted, 6 were in the queue already" in again
    said = sweep("collect", folder, expect=1)
    assert "pending" in said
    assert len(load(folder).results) == 3
    slurm_cluster.run(["scancel", hold])
    seen = sweep("status", folder, "--watch", expect=0)
    assert "questions so far" in seen
    sweep("collect", folder)
    assert_all_done_once(folder)
    # The keeper ends by itself when nothing is left to do.
    wait_until(lambda: not slurm_cluster.run(["squeue", "--noheader"]).stdout)


def test_the_code_of_a_run_is_what_was_submitted(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("toolkit", "jobs", "slurm"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    hold = occupy(slurm_cluster, "cpu")
    words = (written(tmp_path, CONFIG), "--out", folder, "--profile", light_profile(), "--detach")
    sweep(*words, cwd=checkout)
    (checkout / "jobs" / "element.py").write_text("raise SystemExit('edited')\n")
    (checkout / "jobs" / "run.py").write_text("raise SystemExit('edited')\n")
    slurm_cluster.run(["scancel", hold])
    sweep("status", folder, "--watch")
    sweep("collect", folder)
    assert_all_done_once(folder)
    assert set(load(folder).results["git_sha"]) == {""}  # of a copy outside of a checkout


def test_arrays_larger_than_the_cluster_takes(
    slurm_rules: Rules,
    without_accounting: None,
    tmp_path: Path,
    folder: Path,
    light_profile: LightProfile,
) -> None:
    slurm_rules(MaxArraySize=2)
    sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", light_profile())
    assert_all_done_once(folder)
    assert max(len(s.elements) for s in read_submissions(RunFolder(folder))) == 2


def test_waves_beyond_the_submit_limit_are_submitted_by_the_keeper(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    profile = light_profile(max_submit=4, keeper_interval_s=1)
    output = sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", profile, "--detach")
    assert "wait for room in it" in output
    wait_until(lambda: states(folder) == {"done": 6}, timeout_s=150)
    wait_until(lambda: (folder / "results.parquet").is_file())
    assert_all_done_once(folder)


def test_an_interrupt_leaves_the_jobs_alone(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path, light_profile: LightProfile
) -> None:
    """And so does an end without warning: the next command finds everything."""
    config = written(tmp_path, LONG)
    words = (config, "--out", folder, "--profile", light_profile("LIGHT_HOLDS="))
    process = start(*words)
    wait_until(lambda: progress(folder, "test_vit") > 0)
    process.kill()
    process.communicate()
    process = start(*words)
    wait_until(lambda: "in the queue already" in process.output())
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Left; the jobs go on" in output
    assert f"status {folder}" in output
    refused = sweep(config, "--out", folder, "--executor", "local", expect=2)
    assert "are in Slurm's queue" in refused
    assert "slurm" in RunFolder(folder).read_summary()
    (folder / "go").touch()
    wait_until(lambda: states(folder) == {"done": 2}, timeout_s=200)
    sweep("collect", folder)
    assert_all_done_once(folder)
    assert {task.kind for task in RunFolder(folder).tasks()} == {TaskKind.EXTRACT, TaskKind.ENCODE}


def test_what_the_site_refuses_is_said_before_anything_is_left(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text("default: {partition: gpus}\n")
    output = sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", profile, expect=2)
    assert "invalid partition specified: gpus" in output
    assert "look at partition of the profile" in output
    refused = sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", "gpuu", expect=2)
    assert "did you mean 'gpu'" in refused
