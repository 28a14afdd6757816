"""``plan``: what a run would do, take and write."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from rich.console import Console

from toolkit.cluster.commands import SlurmCommandError
from toolkit.cluster.dispatch import arrays_of_tasks
from toolkit.cluster.limits import ask_limits
from toolkit.forecast import Forecast, forecast, render
from toolkit.models import share_seen
from toolkit.plan import Plan, PlannedDataset
from toolkit.task import TaskKind
from toolkit.verbs import local, slurm
from toolkit.verbs.loading import (
    Sweep,
    load_sweep,
    say_notes,
    solver_reasons,
    warn_of_idle_rules,
    warn_of_leaks,
)

_N_NAMED = 10  # networks of one line


def plan(options: argparse.Namespace, console: Console) -> int:
    """Say what a run would do."""
    sweep = load_sweep(options)
    warn_of_leaks(sweep.plan, console)
    warn_of_idle_rules(sweep.plan, console)
    say = partial(console.print, soft_wrap=True)
    for dataset in sweep.plan.datasets:
        where = "" if dataset.is_present else "; its files are not here, sizes from the config"
        say(
            f"{dataset.name}: {dataset.n_stimuli} stimuli, {dataset.n_neuroids} neurons, "
            f"{dataset.n_train} stimuli to train on{where}"
        )
        say_notes(dataset, console)
        for line in shares_seen(sweep.plan, dataset):
            say(f"  {line}")
    for part in render(_forecast(sweep, say)):
        console.print(part, soft_wrap=isinstance(part, str))
    for line in solver_reasons(sweep):
        say(line)
    return 0


def shares_seen(plan_: Plan, dataset: PlannedDataset) -> list[str]:
    """How much of the images each network sees, a line for each share, the smallest first."""
    sizes = sorted(dataset.sizes_px) or [(1, 1)]  # a framed image is seen whole, whatever its size
    networks: dict[tuple[int, int], dict[str, None]] = {}
    for task in plan_.tasks:
        if task.kind != TaskKind.EXTRACT or task.params["stimuli"] != dataset.stimuli_digest:
            continue
        seen = [
            round(100 * share_seen(task.params["preprocessing"], size, dataset.framed))
            for size in sizes
        ]
        networks.setdefault((min(seen), max(seen)), {})[task.options["model"]] = None
    spread = ""
    if len(sizes) > 1:
        areas = sorted(sizes, key=lambda size: size[0] * size[1])
        ends = " to ".join(f"{height} × {width}" for height, width in (areas[0], areas[-1]))
        spread = f" ({ends} pixels)"
    return [
        f"{low if low == high else f'{low} to {high}'} % of each image's area{spread} is seen by "
        f"{_named(list(names))}"
        + ("" if low == 100 else "; the rest is cropped away, unless dataset.framed or frame")
        for (low, high), names in sorted(networks.items())
    ]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return ", ".join(names[:_N_NAMED]) + more


def _forecast(sweep: Sweep, say: Callable[[str], None]) -> Forecast:
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
