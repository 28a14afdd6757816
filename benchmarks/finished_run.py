"""A finished run of many read-outs on Slurm, whose results are synthetic and not computed."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from toolkit import results
from toolkit.catalog import Catalog
from toolkit.cluster.dispatch import SlurmSettings, arrays_of_tasks
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.manifests import Submission, record_array_id, write_manifest
from toolkit.cluster.profiles import load_profile
from toolkit.cluster.run_folder import RunFolder, write_text
from toolkit.cluster.scheduler import SchedulerReport
from toolkit.cluster.scheduler_output import SchedulerView
from toolkit.config import load_config
from toolkit.plan import make_plan
from toolkit.results.columns import SUMMARY_COLUMNS, names
from toolkit.results.scores import TASK_KEY
from toolkit.task import Task, TaskKind

N_NEURONS = 168
_N_LAYERS, _N_READOUTS = 5, 20
_N_DIFFERENT = 32  # results; the others are copies of these
_CONFIG = """\
name: finished-synthetic
dataset:
  kind: synthetic
  n_train: 250
  n_val: 50
  n_neuroids: {n_neurons}
  image_px: 32
models:
  - library: torchvision
    names: resnet18
    layers: [maxpool, layer1, layer2, layer3, layer4]
    seeds: {seeds}
readouts:
  - {{kind: ridge, n_components: [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]}}
  - {{kind: pls, n_components: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}
executor: {{kind: slurm, profile: devcluster}}
"""


def write_config(path: Path, n_tasks: int) -> None:
    """A config of at least so many tasks: networks with random weights, differing in the seed."""
    n_networks = -(-n_tasks // (_N_LAYERS * _N_READOUTS + 1))
    config = _CONFIG.format(n_neurons=N_NEURONS, seeds=list(range(n_networks)))
    path.write_text(config, encoding="utf-8")


def write_finished_run(config_path: Path, folder: Path) -> int:
    """Make the run folder that the config's run leaves when all is done, features aside.

    Returns
    -------
    int
        Number of its tasks.
    """
    config, source = load_config(config_path, [])
    run = RunFolder(folder)
    catalog = Catalog(run.catalog_path)
    plan = make_plan(config, source, catalog)
    run.create()
    catalog.save(run.catalog_path)
    settings = SlurmSettings(
        profile=load_profile("devcluster"),
        requests=dict.fromkeys(TaskKind, JobRequest(1, 0, 8.0, 240)),
        canary_above=config.executor.canary_above,
        git_sha="",
    )
    summary = {
        "name": config.name,
        "config_hash": plan.config_hash,
        "executor": config.executor.model_dump(mode="json"),
        "resources": config.resources.model_dump(mode="json"),
        "slurm": settings.to_dict(),
    }
    run.write_plan(plan.tasks, summary)
    _write_submissions(run, plan.tasks, settings)
    _write_results(run, plan.tasks, plan.config_hash)
    return len(plan.tasks)


def _write_submissions(run: RunFolder, tasks: tuple[Task, ...], settings: SlurmSettings) -> None:
    """Job arrays that the scheduler has said are over."""
    views = {}
    for i, array in enumerate(arrays_of_tasks(tasks, ArrayLimits(1000), settings).arrays):
        submission = Submission(
            name=array.name,
            job_name=f"finished.{array.name}",
            kind=array.kind,
            request=array.request,
            elements=tuple(map(tuple, array.task_ids)),
            code="0" * 16,
            written=datetime.now(UTC).isoformat(),
            array_id=str(i + 1),
        )
        record_array_id(write_manifest(run, submission), submission.array_id)
        for element in submission.element_ids:
            views[element] = SchedulerView(element, "COMPLETED", node="n1", since_s=time.time())
    report = SchedulerReport(views=views, answered_s=time.time(), n_queries=20)
    said = TypeAdapter(SchedulerReport).dump_json(report).decode()
    write_text(run.path / "scheduler.json", said)


def _write_results(run: RunFolder, tasks: tuple[Task, ...], config_hash: str) -> None:
    encode = [task for task in tasks if task.kind is TaskKind.ENCODE]
    templates: list[pa.Table] = []
    for i, task in enumerate(encode):
        path = run.result_path(task.id)
        if i < _N_DIFFERENT:
            neurons = _synthetic_neurons(i)
            results.write_scores(path, neurons, _summary(neurons, config_hash))
            templates.append(pq.read_table(path))
        else:
            template = templates[i % _N_DIFFERENT]
            metadata = {**template.schema.metadata, TASK_KEY: task.id.encode()}
            pq.write_table(template.replace_schema_metadata(metadata), path, compression="zstd")
    for task in tasks:
        if task.kind is TaskKind.EXTRACT:
            report = {"task_id": task.id, "label": task.label, "seconds": 1.0, "device": "cpu"}
            write_text(run.result_path(task.id), json.dumps(report))


def _synthetic_neurons(seed: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "neuron_id": [f"synthetic-{i}" for i in range(N_NEURONS)],
            "region": "IT",
            "alpha": 10.0 ** random.integers(-3, 4, N_NEURONS),
            "alpha_at_edge": 0.0,
            "n_splits_scored": 1,
            **{name: random.random(N_NEURONS) for name in ("ev", "r", "r2", "mse", "ceiling")},
        }
    )


def _summary(neurons: pd.DataFrame, config_hash: str) -> dict[str, Any]:
    return {
        **dict.fromkeys(names(SUMMARY_COLUMNS)),
        **results.summarise(neurons),
        "n_train": 250,
        "n_test": 50,
        "n_splits": 1,
        "seconds": 1.0,
        "peak_memory_bytes": 10**9,
        "device": "cpu",
        "config_hash": config_hash,
        "git_sha": "",
        "versions": results.versions(),
        "created": datetime.now(UTC),
    }
