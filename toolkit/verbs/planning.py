"""What a config means: its plan, what is refused before anything runs, and ``plan``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from toolkit.catalog import Catalog
from toolkit.cluster.commands import SlurmCommandError
from toolkit.cluster.dispatch import arrays_of_tasks
from toolkit.cluster.limits import ask_limits
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import SweepConfig, load_config
from toolkit.forecast import Forecast, forecast, render
from toolkit.plan import Plan, make_plan
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
        overrides += [f"executor.{key}={wanted}"] if wanted else []
    config, source = load_config(options.config, overrides)
    folder = RunFolder(options.out or Path("runs") / config.name)
    catalog = Catalog(folder.catalog_path)
    return Sweep(config, source, folder, catalog, make_plan(config, source, catalog))


def plan(options: argparse.Namespace, console: Console) -> int:
    """Say what a run would do."""
    sweep = load_sweep(options)
    warn_of_leaks(sweep.plan, console)
    say = partial(console.print, soft_wrap=True, markup=False, highlight=False)
    for dataset in sweep.plan.datasets:
        where = "" if dataset.is_present else "; its files are not here, sizes from the config"
        say(
            f"{dataset.name}: {dataset.n_stimuli} stimuli, {dataset.n_neuroids} neurons, "
            f"{dataset.n_train} stimuli to train on{where}"
        )
    for part in render(_forecast(sweep, say)):
        console.print(part, soft_wrap=isinstance(part, str))
    for line in solver_reasons(sweep):
        say(line)
    return 0


def _forecast(sweep: Sweep, say: Callable[[str], None]) -> Forecast:
    from toolkit.verbs import local, slurm

    tasks, folder = sweep.plan.tasks, sweep.folder
    if sweep.config.executor.kind != "slurm":
        executor, resources = sweep.config.executor, sweep.config.resources
        return forecast(folder, tasks, local.job_resources(resources, executor.max_parallel))
    settings = slurm.settings_of(sweep)
    done = folder.done_ids() if folder.results_folder.is_dir() else set()
    try:
        limits = ask_limits(settings.profile)
    except SlurmCommandError as error:
        say(f"The cluster's limits are not known, so neither are the job arrays: {error}")
        return forecast(folder, tasks, settings.requests)
    arrays = arrays_of_tasks([task for task in tasks if task.id not in done], limits, settings)
    return forecast(folder, tasks, settings.requests, arrays=arrays, limits=limits)


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
