"""Whole sweeps on a real Slurm: run, left, disturbed; after each, right states and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from slurm.devcluster import ClusterShape, DevCluster
from toolkit.cluster.failure_log import read_failures
from toolkit.cluster.manifests import read_submissions
from toolkit.cluster.queue import read_queue
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.results import load
from toolkit.task import TaskKind, TaskState

pytest_plugins = ("slurm_cluster",)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("slurm_installed")]

ROOT = Path(__file__).resolve().parents[1]
DIFFERS_FROM_RUN_TO_RUN = ["seconds", "peak_memory_bytes", "created", "config_hash"]
CONFIG = """\
name: tiny-synthetic
dataset: {kind: synthetic, n_train: 60, n_val: 20, n_neuroids: 4, image_px: 32}
models:
  - {library: pixels}
  - {library: timm, names: test_resnet, layers: global_pool}
  - {library: timm, names: test_vit, layers: blocks.5}
readouts: {kind: ridge, n_components: 20}
executor: {kind: slurm, profile: devcluster}
resources: {extract: {cpus: 1, memory_gb: 3}, encode: {cpus: 1, memory_gb: 3}}
"""
# One network over so many images that there is time to disturb it.
LONG = """\
name: long-synthetic
dataset: {kind: synthetic, n_train: 1200, n_val: 20, n_neuroids: 4, image_px: 32}
models: {library: timm, names: test_vit, layers: blocks.5}
readouts: {kind: ridge, n_components: 20}
executor: {kind: slurm, profile: devcluster}
extraction: {batch_size: 16}
resources: {extract: {cpus: 1, memory_gb: 3}, encode: {cpus: 1, memory_gb: 3}}
"""


def start(*words: str | Path, cwd: Path = ROOT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "toolkit.sweep", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200"},
    )


def sweep(*words: str | Path, expect: int = 0, cwd: Path = ROOT) -> str:
    process = start(*words, cwd=cwd)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == expect, output
    return output


def wait_until(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    limit_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def views(folder: Path) -> dict[str, TaskView]:
    """By label."""
    run = RunFolder.open(folder)
    return {f"{v.task.kind} {v.task.label}": v for v in take_snapshot(run, run.tasks())}


def states(folder: Path) -> Counter[str]:
    return Counter(str(view.state) for view in views(folder).values())


def extraction(folder: Path, network: str) -> TaskView:
    return next(
        v for name, v in views(folder).items() if name.startswith("extract") and network in name
    )


def progress(folder: Path, network: str) -> int:
    """Images that a running extraction has done."""
    if not (folder / "plan.json").is_file():
        return 0
    view = extraction(folder, network)
    return view.attempt.n_done if view.attempt and view.state is TaskState.RUNNING else 0


def element_of(folder: Path, network: str) -> str:
    queue = read_queue(RunFolder(folder))
    assert queue is not None
    place = queue.place(extraction(folder, network).task.id)
    assert place is not None
    return place.element


def classes(folder: Path) -> Counter[str]:
    return Counter(str(failure.failure) for failure in read_failures(RunFolder(folder)))


def log_of(folder: Path, network: str) -> str:
    return RunFolder(folder).log_path(extraction(folder, network).task.id).read_text()


def assert_all_done_once(folder: Path) -> None:
    run = RunFolder.open(folder)
    assert states(folder) == {"done": len(run.tasks())}
    assert set(load(folder).results["status"]) == {"done"}
    for task in run.tasks():
        lines = run.log_path(task.id).read_text().splitlines()
        assert sum(f" done {task.label}" in line for line in lines) == 1, task.label


# Undisturbed


def test_the_quickstart_gives_the_tables_of_a_local_run(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    changes = ["dataset.n_train=120", "dataset.n_val=40", "resources.extract.cpus=1"]
    words = [w for change in [*changes, "resources.encode.cpus=1"] for w in ("--set", change)]
    words.insert(0, str(ROOT / "configs" / "quickstart.yaml"))
    sweep(*words, "--executor", "slurm", "--profile", "devcluster", "--out", folder)
    assert_all_done_once(folder)
    nodes = {
        v.element.partition("_")[0] for v in read_queue(RunFolder(folder)).report.views.values()
    }
    assert nodes
    sweep(*words, "--executor", "inprocess", "--out", tmp_path / "local")
    ours, theirs = load(folder), load(tmp_path / "local")
    pd.testing.assert_frame_equal(
        ours.results.drop(columns=DIFFERS_FROM_RUN_TO_RUN),
        theirs.results.drop(columns=DIFFERS_FROM_RUN_TO_RUN),
        check_exact=True,
    )
    pd.testing.assert_frame_equal(ours.neurons, theirs.neurons, check_exact=True)
    assert "Nothing to run" in sweep(
        *words, "--executor", "slurm", "--profile", "devcluster", "--out", folder
    )


def test_detached_then_collected_by_a_second_process(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    config = written(tmp_path, CONFIG)
    output = sweep(config, "--out", folder, "--detach")
    assert "6 tasks submitted" in output
    again = sweep(config, "--out", folder, "--detach")
    assert "0 tasks submitted, 6 were in the queue already" in again
    said = sweep("collect", folder, expect=1)
    assert "pending" in said or "running" in said
    assert len(load(folder).results) == 3
    seen = sweep("status", folder, "--watch", expect=0)
    assert "questions so far" in seen
    sweep("collect", folder)
    assert_all_done_once(folder)
    # The keeper ends by itself when nothing is left to do.
    wait_until(lambda: not slurm_cluster.run(["squeue", "--noheader"]).stdout)


def test_the_code_of_a_run_is_what_was_submitted(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    checkout = tmp_path / "checkout"
    for name in ("toolkit", "jobs", "slurm"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    hold = occupy(slurm_cluster, "cpu")
    sweep(written(tmp_path, CONFIG), "--out", folder, "--detach", cwd=checkout)
    (checkout / "jobs" / "element.py").write_text("raise SystemExit('edited')\n")
    (checkout / "jobs" / "encode.py").write_text("raise SystemExit('edited')\n")
    slurm_cluster.run(["scancel", hold])
    sweep("status", folder, "--watch")
    sweep("collect", folder)
    assert_all_done_once(folder)
    assert set(load(folder).results["git_sha"]) == {""}  # of a copy outside of a checkout


def test_arrays_larger_than_the_cluster_takes(
    use_cluster: Callable[[ClusterShape], DevCluster], tmp_path: Path, folder: Path
) -> None:
    use_cluster(ClusterShape(has_accounting=False, max_array_size=2))
    sweep(written(tmp_path, CONFIG), "--out", folder)
    assert_all_done_once(folder)
    assert max(len(s.elements) for s in read_submissions(RunFolder(folder))) == 2


def test_waves_beyond_the_submit_limit_are_submitted_by_the_keeper(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text("max_submit: 4\nmin_query_interval_s: 1\nkeeper_interval_s: 2\n")
    output = sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", profile, "--detach")
    assert "wait for room in it" in output
    wait_until(lambda: states(folder) == {"done": 6}, timeout_s=150)
    wait_until(lambda: (folder / "results.parquet").is_file())
    assert_all_done_once(folder)


# Disturbed


def occupy(cluster: DevCluster, partition: str, seconds: int = 600) -> str:
    """Take every core of the cluster; the job's id."""
    words = ["sbatch", "--parsable", f"--partition={partition}", "--output=/dev/null"]
    nodes = [f"--nodes={cluster.shape.n_nodes}", "--exclusive", f"--wrap=sleep {seconds}"]
    return cluster.run([*words, *nodes]).stdout.strip()


def test_a_cancelled_task_stays_cancelled_until_somebody_asks(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    config = written(tmp_path, LONG)
    process = start(config, "--out", folder)
    wait_until(lambda: progress(folder, "test_vit") > 0)
    slurm_cluster.run(["scancel", element_of(folder, "test_vit")])
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert states(folder) == {"cancelled": 1, "blocked": 1}
    assert classes(folder)["cancelled"] == 1
    row = load(folder).results.iloc[0]
    assert row["status"] == "blocked"
    assert extraction(folder, "test_vit").task.id in row["error_message"]
    sweep("retry", folder, "--class", "cancelled")
    assert_all_done_once(folder)


def test_cancel_takes_a_run_out_of_the_queue(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    sweep(written(tmp_path, LONG), "--out", folder, "--detach")
    wait_until(lambda: progress(folder, "test_vit") > 0)
    assert "2 jobs taken out of the queue" in sweep("cancel", folder)
    assert not slurm_cluster.run(["squeue", "--noheader"]).stdout
    assert states(folder)["done"] == 0
    sweep("status", folder, expect=1)


def test_a_time_limit_is_continued_from_what_is_done(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    profile = tmp_path / "site.yaml"
    profile.write_text(
        "signal_delay_s: 5\nmin_query_interval_s: 1\n"
        'default: {setup: ["[ $SLURM_RESTART_COUNT ] || sleep 20"]}\n'
    )
    config = written(tmp_path, LONG.replace("n_train: 1200", "n_train: 2500"))
    limit = ("--set", "resources.extract.timeout_min=1")
    sweep(config, "--out", folder, "--profile", profile, *limit)
    assert_all_done_once(folder)
    assert classes(folder) == {}
    log = log_of(folder, "test_vit")
    assert "the scheduler sent SIGUSR2; the task will be continued" in log
    assert log.count(" start ") >= 2
    assert_continued(log)


def assert_continued(log: str) -> None:
    """The first progress after the last start is not that of an extraction from the beginning."""
    lines = [line for line in log.splitlines() if " of " in line and "," in line]
    last = log.splitlines().index(next(x for x in reversed(log.splitlines()) if " start " in x))
    after = [x for x in log.splitlines()[last:] if " of " in x]
    before = [x for x in log.splitlines()[:last] if " of " in x]
    assert lines
    assert int(after[0].split(" of ")[0].split()[-1]) > 64
    assert int(before[-1].split(" of ")[0].split()[-1]) > 0


def test_a_preempted_task_continues_and_costs_no_retry(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    process = start(written(tmp_path, LONG), "--out", folder)
    wait_until(lambda: progress(folder, "test_vit") > 200)
    high = occupy(slurm_cluster, "high", seconds=5)
    wait_until(lambda: "SIGUSR2" in log_of(folder, "test_vit"))
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert high
    assert classes(folder) == {}
    assert_all_done_once(folder)
    assert_continued(log_of(folder, "test_vit"))


def test_a_lost_node_is_left_and_the_task_done_elsewhere(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    process = start(written(tmp_path, LONG), "--out", folder)
    wait_until(lambda: progress(folder, "test_vit") > 200)
    queue = read_queue(RunFolder(folder))
    assert queue is not None
    wait_until(lambda: node_of(folder))
    slurm_cluster.kill_node(node_of(folder))
    output, _ = process.communicate(timeout=250)
    assert process.returncode == 0, output
    assert_all_done_once(folder)
    assert_continued(log_of(folder, "test_vit"))


def node_of(folder: Path) -> str:
    queue = read_queue(RunFolder(folder))
    view = queue.view(extraction(folder, "test_vit").task.id) if queue else None
    return view.node if view and view.state == "RUNNING" else ""


def test_a_job_over_its_memory_is_tried_with_more(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    little = ("--set", "resources.extract.memory_gb=0.3")
    only = LONG.replace("n_train: 1200", "n_train: 60")
    sweep(written(tmp_path, only), "--out", folder, *little)
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
    use_cluster: Callable[[ClusterShape], DevCluster], tmp_path: Path, folder: Path
) -> None:
    """On a cluster without accounting."""
    use_cluster(ClusterShape(has_accounting=False))
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    broken = (
        "  - {library: timm, names: test_vit2, layers: blocks.5, "
        f"weights: {tmp_path / 'broken.pth'}}}\n"
    )
    text = CONFIG.replace("readouts:", f"{broken}readouts:")
    output = sweep(written(tmp_path, text), "--out", folder, expect=1)
    assert states(folder) == {"done": 6, "failed": 1, "blocked": 1}
    (failed,) = [v for v in views(folder).values() if v.state is TaskState.FAILED]
    (blocked,) = [v for v in views(folder).values() if v.state is TaskState.BLOCKED]
    assert failed.task.id in blocked.reason
    assert failed.attempt is not None
    assert failed.attempt.error_class == "bad_model"
    assert classes(folder)["bad_data"] == 1
    assert "bad_model" in output
    rows = load(folder).results.set_index("status")
    assert rows.loc["blocked", "error_class"] == "blocked"
    assert "Traceback" in sweep("logs", folder, failed.task.id)


def test_an_environment_that_cannot_import_stops_its_family_at_once(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "shadow" / "timm").mkdir(parents=True)
    (tmp_path / "shadow" / "timm" / "__init__.py").write_text("import no_such_module\n")
    profile = tmp_path / "site.yaml"
    profile.write_text(
        "min_query_interval_s: 1\n"
        f'extract: {{setup: ["export PYTHONPATH={tmp_path / "shadow"}"]}}\n'
    )
    canary = ("--set", "executor.canary_above=1")
    sweep(written(tmp_path, CONFIG), "--out", folder, "--profile", profile, *canary, expect=1)
    assert states(folder) == {"done": 2, "failed": 1, "blocked": 3}
    assert classes(folder)["import_error"] == 1
    stopped = extraction(folder, "test_vit")
    assert stopped.state is TaskState.BLOCKED
    assert "extract timm is stopped" in stopped.reason


def test_a_controller_that_is_away_while_somebody_watches(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    sweep(written(tmp_path, LONG), "--out", folder, "--detach")
    wait_until(lambda: progress(folder, "test_vit") > 0)
    process = start("status", folder, "--watch")
    slurm_cluster.stop_controller()
    seen = set()

    def note() -> bool:
        seen.update(states(folder))
        queue = read_queue(RunFolder(folder))
        return queue is not None and queue.report.failure is not None

    wait_until(note)
    gone_s = time.monotonic()
    while time.monotonic() - gone_s < 30:
        seen.update(states(folder))
        time.sleep(0.5)
    slurm_cluster.start_controller()
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert not seen & {"failed", "blocked", "cancelled"}
    sweep("collect", folder)
    assert_all_done_once(folder)


def test_an_interrupt_leaves_the_jobs_alone(
    slurm_cluster: DevCluster, tmp_path: Path, folder: Path
) -> None:
    """And so does an end without warning: the next command finds everything."""
    config = written(tmp_path, LONG)
    process = start(config, "--out", folder)
    wait_until(lambda: progress(folder, "test_vit") > 0)
    process.kill()
    process.communicate()
    process = start(config, "--out", folder)
    assert process.stdout is not None
    while "in the queue already" not in (line := process.stdout.readline()):
        assert line, "it ended"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Left; the jobs go on" in output
    assert f"status {folder}" in output
    refused = sweep(config, "--out", folder, "--executor", "local", expect=2)
    assert "are in Slurm's queue" in refused
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
