"""Run folders to report on: a small sweep that really ran, and large tables that are made up."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from commands import sweep

from toolkit.cluster.run_folder import RunFolder
from toolkit.results.columns import NEURON_COLUMNS, RESULT_COLUMNS, names, schema
from toolkit.task import TaskKind, TaskState

SMALL_NETWORKS = ("test_resnet", "test_vit", "test_vit2", "test_vit3", "test_mambaout")
CONFIG = """\
name: networks-synthetic
dataset:
  {{kind: synthetic, n_train: 60, n_val: 24, n_neuroids: 24, image_px: 32, n_repetitions: 4}}
models:
  - {{library: pixels}}
  - {{library: timm, names: [{names}], layers: auto}}
readouts:
  - {{kind: ridge, n_components: 20}}
  - {{kind: rdm, level: object}}
executor: {{kind: inprocess}}
resources: {{extract: {{cpus: 2}}, encode: {{cpus: 2}}}}
"""
PROVENANCE = {
    "config_hash": "c0ffee" * 10,
    "git_sha": "0" * 40,
    "versions": json.dumps({"python": "3.11"}),
    "created": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
}
BROKEN_NETWORK = "test_mambaout"
TRAININGS = """\
name: trainings-synthetic
dataset:
  - {kind: synthetic, n_train: 60, n_val: 30, n_neuroids: 6, image_px: 32, n_categories: 3}
  - {kind: synthetic, name: synthetic-other, n_train: 40, n_val: 20, n_neuroids: 5, image_px: 16}
training:
  joint:
    network: {library: shallow, channels: [8, 16], normalised: true, input_px: 32}
    decoder: {pool_px: 2}
    objectives: {mse: 1, category: 0.3}
    seeds: [0, 1]
    recipe:
      n_epochs: 20
      batch_size: 20
      optimizer: {lr: 3e-3}
      patience: 3
      monitor: ev
      validation_share: 0.2
  halved:
    network: {library: shallow, channels: [4, 8], normalised: true, input_px: 32}
    decoder: {pool_px: 2}
    recipe: {n_epochs: 4, batch_size: 18, validation_share: 0.2}
    search:
      over: {optimizer.lr: [1e-4, 1e-2, 1e+9], optimizer.kind: [adam, sgd]}
      halving: {eta: 2}
      refit: true
models: [{library: pixels}, {weights: "trained:halved", layers: ["0", "1"]}]
readouts: [{kind: ridge, n_components: 10}]
exclude: [{dataset: synthetic-other, library: shallow}]
executor: {kind: inprocess}
resources: {extract: {cpus: 1}, encode: {cpus: 1}, train: {cpus: 1}}
"""


def run_networks(folder: Path, networks: Sequence[str]) -> Path:
    """A finished sweep of the pixels and of small networks over synthetic neurons."""
    config = folder / "networks.yaml"
    config.write_text(CONFIG.format(names=", ".join(networks)), encoding="utf-8")
    sweep(config, "--out", folder / "run")
    return folder / "run"


def run_trainings(folder: Path) -> Path:
    """Two trainings that stop early, and a search with rungs in which two trials diverge."""
    config = folder / "trainings.yaml"
    config.write_text(TRAININGS, encoding="utf-8")
    sweep(config, "--out", folder / "run")
    return folder / "run"


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
    sweep("collect", path, expect=1)


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
                "row_id": f"{len(rows):012x}",
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
                    "dataset": "synthetic",
                    "neuron_id": [f"synthetic-{n}" for n in range(n_neurons)],
                    "region": regions,
                    "alpha": 10.0 ** random.integers(0, 9, n_neurons),
                    "ev": r**2 - 0.01,
                    "r": r,
                    "r2": r**2 - 0.02,
                    "mse": 1 - r**2,
                    "n_splits_scored": 1,
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


def write_synthetic_search(folder: Path, *, n_trials: int, n_epochs: int) -> Path:
    """Tables and curves of a made-up search over two fields, without rungs."""
    random = np.random.default_rng(0)
    (folder / "curves").mkdir(parents=True)
    rows = []
    for trial in range(n_trials):
        lr, hidden = 10.0 ** random.uniform(-5, 0), int(random.choice([0, 100, 1000]))
        height = 0.4 * np.exp(-((np.log10(lr) + 3) ** 2)) + random.normal(0, 0.02)
        val_ev = height * (1 - np.exp(-np.arange(n_epochs) / 10)) + random.normal(0, 0.01, n_epochs)
        curve = pd.DataFrame(
            {
                "epoch": np.arange(n_epochs),
                "lr": lr,
                "train_mse": 1 - val_ev - 0.001 * np.arange(n_epochs),
                "train_loss": 1 - val_ev - 0.001 * np.arange(n_epochs),
                "val_mse": 1 - val_ev,
                "val_loss": 1 - val_ev,
                "val_ev": val_ev,
                "val_r": np.sqrt(np.clip(val_ev, 0, 1)),
            }
        )
        task_id = f"train-{trial:012d}"
        curve.attrs["task_id"] = task_id
        curve.to_parquet(folder / "curves" / f"{task_id}.parquet")
        recipe = {"n_epochs": n_epochs, "patience": None, "monitor": "ev", "optimizer": {"lr": lr}}
        rows.append(
            {
                **dict.fromkeys(names(RESULT_COLUMNS)),
                **PROVENANCE,
                "row_id": f"{trial:012x}",
                "task_id": task_id,
                "status": "done",
                "experiment": "synthetic",
                "dataset": "synthetic",
                "region": "",
                "model": "synthetic_net",
                "library": "shallow",
                "weights": "random",
                "seed": 0,
                "layer": "",
                "readout": "finetune",
                "training": "searched",
                "step": "trial",
                "objective": "mse:1",
                "fold": 0,
                "rung": 0,
                "slot": trial,
                "trial": trial,
                "outcome": "trained",
                "recipe": json.dumps({"recipe": recipe, "decoder": {"hidden": [hidden]}}),
                "n_epochs": n_epochs,
                "best_epoch": int(val_ev.argmax()),
                "val_score": val_ev.max(),
            }
        )
    _write(pd.DataFrame(rows), RESULT_COLUMNS, folder / "results.parquet")
    no_neurons = pd.DataFrame({name: [] for name in names(NEURON_COLUMNS)})
    _write(no_neurons, NEURON_COLUMNS, folder / "neurons.parquet")
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
        **PROVENANCE,
    }


def extract_ids(run: RunFolder) -> list[str]:
    return [task.id for task in run.tasks() if task.kind is TaskKind.EXTRACT]
