"""A search on a real Slurm, one of its trials preempted; and the arrays that searches become."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from training_sweeps import collected, plan_of, start, sweep

from slurm.devcluster import DevCluster
from toolkit.cluster.arrays import plan_arrays
from toolkit.cluster.batches import make_batches
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.profiles import JobRequest
from toolkit.cluster.run_folder import RunFolder
from toolkit.results import load

CONFIG = """\
name: tiny
dataset: {kind: synthetic, n_train: 240, n_val: 30, n_neuroids: 6, image_px: 32, n_categories: 3}
training:
  grid:
    network: {library: shallow, channels: [16, 32], normalised: true, input_px: 32}
    decoder: {pool_px: 2}
    recipe: {n_epochs: 18, batch_size: 4, validation_share: 0.2, monitor: ev}
    search:
      over: {optimizer.lr: [1e-2, 1e-3, 1e-4]}
      halving: {eta: 2, first_epochs: 9}
      refit: true
executor: {kind: slurm}
resources: {train: {cpus: 1, memory_gb: 3}}
"""


# One trial at a time, so that the one that gives way is the only one that is disturbed.
PROFILE = """\
signal_delay_s: 20
min_query_interval_s: 0.3
train: {max_running: 1, tasks_per_job: 2}
"""


def wait_until(condition: Callable[[], object], timeout_s: float = 180.0) -> None:
    limit_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.05)


def occupy(cluster: DevCluster, seconds: int) -> None:
    """Take every core by a job that others have to give way to."""
    words = ["sbatch", "--partition=high", "--output=/dev/null", "--exclusive"]
    cluster.run([*words, f"--nodes={cluster.shape.n_nodes}", f"--wrap=sleep {seconds}"])


def test_a_search_becomes_an_array_per_rung(tmp_path: Path) -> None:
    tasks = plan_of(tmp_path, CONFIG).tasks
    request = JobRequest(n_cpus=1, n_gpus=0, memory_gb=3, timeout_min=10)
    plan = plan_arrays(make_batches(tasks), ArrayLimits(1000, 1000), lambda _: request)
    sizes = [len(array.elements) for array in plan.arrays]
    assert sizes == [3, 2, 1]
    slots, winner = plan.arrays[1:]
    for array, before in ((slots, plan.arrays[0]), (winner, slots)):
        assert [(d.condition, d.on, d.index) for d in array.dependencies] == [
            ("afterok", before.name, None)
        ]


@pytest.mark.slow
def test_a_preempted_trial_goes_on_and_the_search_ends_as_ever(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    profile = tmp_path / "site.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    run = RunFolder(tmp_path / "run")
    process = start(config, run.path, "--profile", str(profile))

    seen: set[str] = set()

    def warned() -> list[str]:
        """Trials told to give way; each that makes its first steps is, until one was in time."""
        attempts = run.attempts().values() if run.plan_path.is_file() else ()
        begun = {a.task_id for a in attempts if a.state == "running" and a.n_done} - seen
        if begun:
            seen.update(begun)
            occupy(slurm_cluster, seconds=1)
        logs = run.path.glob("logs/train-*.log")
        return [path.stem for path in logs if "SIGUSR2" in path.read_text()]

    wait_until(warned)
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0, output
    log = run.log_path(warned()[0]).read_text()
    assert "asked to stop after step" in log and "going on at epoch" in log
    assert (collected(run.path)["status"] == "done").all()

    sweep(config, tmp_path / "here", "--executor", "inprocess")
    columns = ["task_id", "trial", "val_score", "best_epoch", "ev_mean"]
    disturbed, here = (
        collected(path).set_index("task_id")[columns[1:]] for path in (run.path, tmp_path / "here")
    )
    assert disturbed.equals(here)
    assert len(load(run.path).tasks) == 6
