"""Tiny synthetic sweeps, planned and run in this process, for the tests of forecasts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.run import run_tasks
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.plan import make_plan
from toolkit.task import Task, TaskKind

CONFIG = """\
name: tiny-synthetic
dataset: {kind: synthetic, n_train: 40, n_val: 20, n_neuroids: 5, image_px: 32}
models:
  - {library: timm, names: [test_resnet], layers: [layer1, layer3]}
readouts:
  - {kind: ridge, n_components: 10}
  - {kind: linear, n_components: 10}
"""


@dataclass(frozen=True)
class Job:
    """What a job of either stage asks for."""

    n_cpus: int = 2
    n_gpus: int = 0


JOBS = dict.fromkeys(TaskKind, Job())


def planned(folder: Path, *overrides: str) -> list[Task]:
    """The tasks of the tiny config; nothing is written into a run folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
    config, source = load_config(folder / "sweep.yaml", overrides)
    return list(make_plan(config, source, Catalog(folder / "catalog.json")).tasks)


def recorded(folder: Path, tasks: Sequence[Task]) -> RunFolder:
    """A run folder with these tasks and no results."""
    run = RunFolder(folder)
    run.create()
    run.write_plan(tasks, {})
    return run


def finished(folder: Path, tasks: Sequence[Task]) -> RunFolder:
    """A run folder in which these tasks are done."""
    run = recorded(folder, tasks)
    run_tasks(str(run.path), [task.id for task in tasks], 1)
    assert {task.id for task in tasks} <= run.done_ids()
    return run


def of_kind(tasks: Collection[Task], kind: TaskKind) -> list[Task]:
    """Those of one stage."""
    return [task for task in tasks if task.kind is kind]
