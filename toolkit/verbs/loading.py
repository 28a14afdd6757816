"""What a config means: its plan, and what is refused before anything runs."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import SweepConfig, load_config
from toolkit.plan import Plan, PlannedDataset, make_plan
from toolkit.yaml_source import Source


@dataclass(frozen=True)
class Sweep:
    """A config with its plan, and where it runs."""

    config: SweepConfig
    source: Source
    folder: RunFolder
    catalog: Catalog
    plan: Plan

    def settings(self) -> dict[str, Any]:
        """What a verb that knows only the run folder needs of the config."""
        return {
            "name": self.config.name,
            "config_hash": self.plan.config_hash,
            "executor": self.config.executor.model_dump(mode="json"),
            "resources": self.config.resources.model_dump(mode="json"),
        }


def load_sweep(options: argparse.Namespace) -> Sweep:
    """Read and plan the config that a command names."""
    overrides = list(options.overrides)
    for key, wanted in (("kind", options.executor), ("profile", options.profile)):
        quoted = json.dumps(wanted, ensure_ascii=False)
        overrides += [f"executor.{key}={quoted}"] if wanted else []
    config, source = load_config(options.config, overrides)
    folder = RunFolder(options.out or Path("runs") / config.name)
    catalog = Catalog(folder.catalog_path)
    return Sweep(config, source, folder, catalog, make_plan(config, source, catalog))


def warn_of_leaks(plan_: Plan, console: Console) -> None:
    """Name the images that are in training and test alike."""
    for dataset in plan_.datasets:
        ids = dataset.leaking_ids
        if ids:
            more = f" and {len(ids) - 10} more" if len(ids) > 10 else ""
            console.print(
                f"Warning: {dataset.name} shows identical images in training and test, which makes "
                f"scores too high: {', '.join(ids[:10])}{more}",
                style="yellow",
                markup=False,
                soft_wrap=True,
            )


def say_notes(dataset: PlannedDataset, console: Console) -> None:
    """Print what the loader of a data set took for granted."""
    for note in dataset.notes:
        console.print(f"  {note}", markup=False, highlight=False, soft_wrap=True)


def refuse_absent_data(sweep: Sweep) -> None:
    """Only ``plan`` works without the data sets' files."""
    absent = [dataset.name for dataset in sweep.plan.datasets if not dataset.is_present]
    if absent:
        raise sweep.source.error(
            ("dataset",), f"the files of {', '.join(absent)} are not here; 'plan' works without"
        )


def solver_reasons(sweep: Sweep) -> list[str]:
    """How principal components will be computed: for each solver, its largest layer and why."""
    from toolkit.encoding.solver import ReductionError, choose_solver

    n_train = {dataset.name: dataset.n_train for dataset in sweep.plan.datasets}
    memory_bytes = sweep.config.resources.encode.memory_gb * 1e9
    reasons: dict[str, str] = {}
    reducing = [t for t in sweep.plan.encode if t.params["readout"].get("n_components")]
    for task in sorted(reducing, key=lambda task: task.columns["n_features"]):
        n, p = n_train[task.columns["dataset"]], task.columns["n_features"]
        k = min(task.params["readout"]["n_components"], p)
        try:
            wanted = task.params.get("solver", "auto")
            solver, reason = choose_solver(n, p, k, memory_bytes, wanted)
        except ReductionError as error:
            raise sweep.source.error(("pca", "solver"), f"{task.label}: {error}") from error
        reasons[solver] = f"pca.solver {wanted}: {reason}"
    return list(reasons.values())
