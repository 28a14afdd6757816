"""Sweeps on a development cluster, and what to look at.

``pytest_plugins = ("slurm_sweeps",)`` gives the fixtures.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from slurm.devcluster import DevCluster
from toolkit.cluster.failure_log import read_failures
from toolkit.cluster.profiles import load_profile
from toolkit.cluster.queue import read_queue
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.results import load
from toolkit.task import TaskState

LightProfile = Callable[..., Path]

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
# One network over so many images that its progress is seen more than once.
LONG = """\
name: long-synthetic
dataset: {kind: synthetic, n_train: 1200, n_val: 20, n_neuroids: 4, image_px: 32}
models: {library: timm, names: test_vit, layers: blocks.5}
readouts: {kind: ridge, n_components: 20}
executor: {kind: slurm, profile: devcluster}
resources: {extract: {cpus: 1, memory_gb: 3}, encode: {cpus: 1, memory_gb: 3}}
"""


# Its jobs count in place of what their tasks are: see there.
LIGHT = f"export PYTHONPATH={ROOT / 'tests' / 'light'}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the run."""
    return tmp_path / "run"


@pytest.fixture
def light_profile(tmp_path: Path) -> LightProfile:
    """A function that writes a profile like the cluster's own whose jobs do light work.

    Its words are what the jobs' environment says of that work; its named values are the profile's.
    """

    def write(*variables: str, **settings: object) -> Path:
        profile = load_profile("devcluster").model_dump(mode="json", exclude_unset=True)
        profile["default"]["setup"] = [LIGHT, *(f"export {variable}" for variable in variables)]
        path = tmp_path / "light.yaml"
        path.write_text(
            yaml.safe_dump({**profile, "min_query_interval_s": 0.3, **settings}), encoding="utf-8"
        )
        return path

    return write


def wait_until(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    limit_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit_s
        time.sleep(0.1)


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


def occupy(cluster: DevCluster, partition: str, seconds: int = 600) -> str:
    """Take every core of the cluster; the job's id."""
    words = ["sbatch", "--parsable", f"--partition={partition}", "--output=/dev/null"]
    nodes = [f"--nodes={cluster.shape.n_nodes}", "--exclusive", f"--wrap=sleep {seconds}"]
    return cluster.run([*words, *nodes]).stdout.strip()


def assert_continued(log: str) -> None:
    """The last start went on where the one before was: its first progress is beyond that."""
    lines = log.splitlines()
    last = max(i for i, line in enumerate(lines) if " start " in line)
    before, after = (
        [int(line.split(" of ")[0].split()[-1]) for line in part if " of " in line]
        for part in (lines[:last], lines[last:])
    )
    assert after[0] > before[-1] > 0


def node_of(folder: Path) -> str:
    queue = read_queue(RunFolder(folder))
    view = queue.view(extraction(folder, "test_vit").task.id) if queue else None
    return view.node if view and view.state == "RUNNING" else ""
