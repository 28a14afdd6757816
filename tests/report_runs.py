"""Run folders to report on: a small sweep that really ran, and large tables that are made up."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.cluster.run_folder import RunFolder
from toolkit.results.columns import NEURON_COLUMNS, RESULT_COLUMNS, names, schema
from toolkit.task import TaskKind, TaskState

SMALL_NETWORKS = (
    "test_resnet",
    "test_vit",
    "test_efficientnet",
    "test_convnext",
    "test_convnext2",
    "test_convnext3",
    "test_nfnet",
    "test_byobnet",
    "test_mambaout",
    "test_vit2",
    "test_vit3",
)
CONFIG = f"""\
name: twelve-synthetic
dataset:
  {{kind: synthetic, n_train: 120, n_val: 40, n_neuroids: 12, image_px: 48, n_repetitions: 4}}
models:
  - {{library: pixels}}
  - {{library: timm, names: [{", ".join(SMALL_NETWORKS)}], layers: auto}}
readouts:
  - {{kind: ridge, n_components: 20}}
  - {{kind: rdm, level: object}}
executor: {{kind: inprocess}}
resources: {{extract: {{cpus: 2}}, encode: {{cpus: 2}}}}
"""
BROKEN_NETWORK = "test_mambaout"


def run_twelve_networks(folder: Path) -> Path:
    """A finished sweep of twelve small networks over synthetic neurons."""
    config = folder / "twelve.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    sweep(config, "--out", folder / "run")
    return folder / "run"


def sweep(*words: str | Path) -> None:
    command = [sys.executable, "-m", "toolkit.sweep", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode in (0, 1), done.stdout + done.stderr


def break_a_network(path: Path) -> None:
    """Make a finished run one in which an extraction failed, and collect it again."""
    run = RunFolder(path)
    children = [task for task in run.tasks() if task.columns.get("model") == BROKEN_NETWORK]
    for task in children:
        run.result_path(task.id).unlink()
    (parent,) = {task_id for task in children for task_id in task.inputs}
    run.result_path(parent).unlink()
    attempt = replace(run.start_attempt(parent), state=TaskState.FAILED)
    reason = "45 GiB asked for, </script> <b>39</b> GiB free"
    run.record(replace(attempt, error_class="cuda_out_of_memory", error_message=reason))
    sweep("collect", path)


def write_synthetic_tables(
    folder: Path, *, n_networks: int, n_layers: int, n_neurons: int, seed: int = 0
) -> Path:
    """Tables of made-up scores: pretrained and random networks, two regions, no run behind them."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows, neurons = [], []
    half = n_neurons // 2
    regions = ["V4"] * half + ["IT"] * (n_neurons - half)
    ceiling = random.uniform(0.6, 0.95, n_neurons)
    depth_of_region = {"V4": 0.4, "IT": 0.8}
    preferred = np.array([depth_of_region[region] for region in regions])
    networks = itertools.product(range(n_networks // 2), ("pretrained", "random"))
    for network, weights in networks:
        height = random.uniform(0.3, 0.7) * (1.0 if weights == "pretrained" else 0.6)
        for layer in range(n_layers):
            depth = (layer + 1) / n_layers
            tuned = height * np.exp(-((depth - preferred) ** 2) / 0.3)
            r = np.clip(tuned * ceiling + random.normal(0, 0.05, n_neurons), -1, 1)
            task_id = f"encode-synthetic-{len(rows)}"
            identity = {
                "task_id": task_id,
                "model": f"synthetic_net_{network:03d}",
                "library": "timm",
                "weights": weights,
                "seed": 0,
                "layer": f"stages.{layer}",
                "readout": "ridge",
            }
            scores = pd.DataFrame(
                {
                    **identity,
                    "neuron_id": [f"synthetic-{n}" for n in range(n_neurons)],
                    "region": regions,
                    "alpha": 10.0 ** random.integers(0, 9, n_neurons),
                    "ev": r**2 - 0.01,
                    "r": r,
                    "r2": r**2 - 0.02,
                    "mse": 1 - r**2,
                    "ceiling": ceiling,
                }
            )
            neurons.append(scores)
            rows.append(_synthetic_row(identity, layer, depth, scores))
    results = pd.DataFrame(rows, columns=list(names(RESULT_COLUMNS)))
    _write(results, RESULT_COLUMNS, folder / "results.parquet")
    all_neurons = pd.concat(neurons).reindex(columns=list(names(NEURON_COLUMNS)))
    _write(all_neurons, NEURON_COLUMNS, folder / "neurons.parquet")
    return folder


def _write(frame: pd.DataFrame, columns: tuple, path: Path) -> None:
    table = pa.Table.from_pandas(frame, schema=schema(columns), preserve_index=False)
    pq.write_table(table, path)


def _synthetic_row(identity: dict, layer: int, depth: float, scores: pd.DataFrame) -> dict:
    return {
        **identity,
        "status": "done",
        "experiment": "synthetic",
        "dataset": "synthetic",
        "region": "V4+IT",
        "layer_index": layer,
        "layer_depth": depth,
        "features": "full",
        "n_features": 1000 * (layer + 1),
        "solver": "gram",
        "alpha_median": scores["alpha"].median(),
        "alpha_at_edge": (scores["alpha"].isin([1.0, 1e8])).mean(),
        "ev_mean": scores["ev"].mean(),
        "ev_median": scores["ev"].median(),
        "r_mean": scores["r"].mean(),
        "r_median": scores["r"].median(),
        "r2_mean": scores["r2"].mean(),
        "mse_mean": scores["mse"].mean(),
        "ceiling_median": scores["ceiling"].median(),
        "n_neurons": len(scores),
        "n_neurons_scored": len(scores),
        "n_train": 2592,
        "n_test": 288,
        "n_splits": 1,
        "seconds": 1.0,
        "device": "cpu",
        "config_hash": "c0ffee" * 10,
        "git_sha": "0" * 40,
        "versions": json.dumps({"python": "3.11"}),
        "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }


def extract_ids(run: RunFolder) -> list[str]:
    return [task.id for task in run.tasks() if task.kind is TaskKind.EXTRACT]
