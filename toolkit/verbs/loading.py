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
from toolkit.models import names_of_this_process
from toolkit.plan import Plan, PlannedDataset, make_plan
from toolkit.task import Task
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
    folder.check_path()
    catalog = Catalog(folder.catalog_path)
    sweep = Sweep(config, source, folder, catalog, make_plan(config, source, catalog))
    _refuse_networks_of_this_process(sweep)
    return sweep


def _refuse_networks_of_this_process(sweep: Sweep) -> None:
    """Jobs of their own processes lack what a script has registered with timm."""
    if sweep.config.executor.kind == "inprocess":
        return
    tasks = (*sweep.plan.extract, *sweep.plan.train)
    used = [t.columns.get("model") or t.params["model"] for t in tasks if _library(t) == "timm"]
    if only_here := names_of_this_process(dict.fromkeys(used)):
        raise sweep.source.error(
            sweep.source.existing(("executor", "kind")),
            f"network {', '.join(only_here)} is registered with timm in this process only, and "
            f"executor {sweep.config.executor.kind} runs tasks in others: import the module that "
            "registers it in toolkit/models/names.py (see docs/extending.md), or write executor: "
            "{kind: inprocess}",
        )


def _library(task: Task) -> str:
    return str(task.columns.get("library") or task.params["library"])


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
                soft_wrap=True,
            )


def warn_of_idle_rules(plan_: Plan, console: Console) -> None:
    """Name the exclude rules that leave nothing out."""
    for problem in plan_.idle_rules:
        console.print(f"Warning: {problem}", style="yellow", soft_wrap=True)


def say_notes(dataset: PlannedDataset, console: Console) -> None:
    """Print what the loader of a data set took for granted."""
    for note in dataset.notes:
        console.print(f"  {note}", soft_wrap=True)


def refuse_absent_data(sweep: Sweep) -> None:
    """Only ``plan`` works without the data sets' files."""
    absent = [dataset.name for dataset in sweep.plan.datasets if not dataset.is_present]
    if absent:
        raise sweep.source.error(
            ("dataset",), f"the files of {', '.join(absent)} are not here; 'plan' works without"
        )


def solver_reasons(sweep: Sweep) -> list[str]:
    """How principal components will be computed: for each solver, its largest layer and why.

    Raises
    ------
    ConfigError
        If one needs more memory than the config asks for.
    """
    reducing = [t for t in sweep.plan.encode if t.params["readout"].get("n_components")]
    if not reducing:
        return []
    from dask.system import CPU_COUNT

    from toolkit.encoding.solver import ReductionError, fitting_threads

    n_train = {dataset.name: dataset.n_train for dataset in sweep.plan.datasets}
    wanted, resources = sweep.config.pca.solver, sweep.config.resources.encode
    reasons: dict[str, str] = {}
    for task in sorted(reducing, key=lambda task: task.columns["n_features"]):
        n, p = n_train[task.columns["dataset"]], task.columns["n_features"]
        k, solver = min(task.params["readout"]["n_components"], p), task.params["solver"]
        try:
            _, reason = fitting_threads(
                solver, n, p, k, resources.memory_gb * 1e9, n_threads=resources.cpus or CPU_COUNT
            )
        except ReductionError as error:
            raise sweep.source.error(("pca", "solver"), f"{task.label}: {error}") from error
        reasons[solver] = f"pca.solver {wanted}: {reason}"
    return list(reasons.values())
