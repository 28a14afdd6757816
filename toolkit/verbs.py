"""What each verb of the command does: read a config or a run folder, act, say what happened."""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from toolkit.catalog import Catalog
from toolkit.cluster.batches import make_batches
from toolkit.cluster.display import following, reason_table, running_table, stage_table
from toolkit.cluster.inprocess import run_inprocess
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.config import ExecutorConfig, StageResources, SweepConfig, load_config
from toolkit.plan import Plan, features_id, kept_size, make_plan
from toolkit.task import Task, TaskKind, TaskState
from toolkit.yaml_source import ConfigError, Source

EXIT_DONE, EXIT_UNFINISHED = 0, 1

_ROUNDS = 2  # the second rebuilds features that the first found damaged
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ORPHANS_S = 10.0  # jobs of a killed sweep end by themselves within a second or two


@dataclass(frozen=True)
class _Sweep:
    """A config with its plan, and where it runs."""

    config: SweepConfig
    source: Source
    folder: RunFolder
    catalog: Catalog
    plan: Plan


def run(options: argparse.Namespace, console: Console) -> int:
    """Plan, dispatch, watch, collect."""
    sweep = _load(options)
    _refuse_absent_data(sweep)
    _refuse_impossible_resources(sweep)
    _warn_of_leaks(sweep.plan, console)
    if sweep.config.pca.solver != "auto":
        _solver_reasons(sweep)
    folder, tasks = sweep.folder, sweep.plan.tasks
    folder.create()
    sweep.catalog.save(folder.catalog_path)
    folder.write_plan(tasks, _settings(sweep))
    n_done = len(folder.done_ids() & {task.id for task in tasks})
    if n_done == len(tasks):
        console.print(f"Nothing to run: all {n_done} tasks are done.")
        return _finish(folder, console)
    console.print(f"{len(tasks)} tasks, {n_done} of them done.")
    if options.detach:
        return _detach(folder, options, console)
    return _dispatch(folder, tasks, console)


def plan(options: argparse.Namespace, console: Console) -> int:
    """Say what a run would do."""
    sweep = _load(options)
    _warn_of_leaks(sweep.plan, console)
    for dataset in sweep.plan.datasets:
        where = "" if dataset.is_present else "; its files are not here, sizes from the config"
        console.print(
            f"{dataset.name}: {dataset.n_stimuli} stimuli, {dataset.n_neuroids} neurons, "
            f"{dataset.n_train} stimuli to train on{where}"
        )
    done = sweep.folder.done_ids() if sweep.folder.results_folder.is_dir() else set()
    console.print(_plan_table(sweep.plan, done))
    for line in _solver_reasons(sweep):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    return EXIT_DONE


def status(options: argparse.Namespace, console: Console) -> int:
    """Say how a run stands."""
    folder = RunFolder.open(options.run)
    views = take_snapshot(folder, folder.tasks())
    owner = folder.owner()
    who = f"run by process {owner['pid']} on {owner['host']}" if owner else "not running"
    console.print(f"{folder.path}: {who}")
    for part in (stage_table(views), running_table(views), reason_table(views)):
        if part is not None:
            console.print(part)
    return _exit_status(views)


def logs(options: argparse.Namespace, console: Console) -> int:
    """Print the end of a task's log."""
    folder = RunFolder.open(options.run)
    path = _log_of(folder, options.task)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    console.print(str(path), style="bold", highlight=False)
    for line in lines[-options.n_lines :]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return EXIT_DONE


def retry(options: argparse.Namespace, console: Console) -> int:
    """Run failed tasks again, and what waited for them."""
    folder = RunFolder.open(options.run)
    views = take_snapshot(folder, folder.tasks())
    chosen = [view for view in views if _is_chosen(view, options)]
    if not chosen:
        console.print("No failed task matches; nothing to retry.")
        return _exit_status(views)
    ids = {view.task.id for view in chosen}
    blocked = [v for v in views if v.state is TaskState.BLOCKED and ids & set(v.task.inputs)]
    tasks = [view.task for view in views if view.task.id in ids | {b.task.id for b in blocked}]
    console.print(f"{len(chosen)} failed tasks again, {len(blocked)} that waited for them.")
    if options.executor:
        settings = folder.read_summary()
        settings["executor"]["kind"] = options.executor
        folder.write_plan(folder.tasks(), settings)
    return _dispatch(folder, tasks, console)


def cancel(options: argparse.Namespace, console: Console) -> int:
    """Stop the process that runs a run, and its jobs."""
    folder = RunFolder.open(options.run)
    owner = folder.owner()
    if owner is None:
        console.print("Nothing is running.")
        return EXIT_DONE
    if owner["host"] != os.uname().nodename:
        raise RunFolderError(f"the run is held on {owner['host']}; cancel it there")
    os.kill(owner["pid"], signal.SIGTERM)
    deadline = time.monotonic() + _ORPHANS_S
    while folder.owner() and time.monotonic() < deadline:
        time.sleep(0.1)
    if folder.owner():
        raise RunFolderError(f"process {owner['pid']} has not stopped yet; see 'status'")
    console.print("Stopped. What is done stays done; run the config again to continue.")
    return EXIT_DONE


def collect(options: argparse.Namespace, console: Console) -> int:
    """Write the result tables from what is there."""
    return _finish(RunFolder.open(options.run), console)


# Before anything runs


def _load(options: argparse.Namespace) -> _Sweep:
    overrides = list(options.overrides)
    if getattr(options, "executor", None):
        overrides.append(f"executor.kind={options.executor}")
    config, source = load_config(options.config, overrides)
    folder = RunFolder(options.out or Path("runs") / config.name)
    catalog = Catalog(folder.catalog_path)
    return _Sweep(config, source, folder, catalog, make_plan(config, source, catalog))


def _warn_of_leaks(plan_: Plan, console: Console) -> None:
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


def _refuse_absent_data(sweep: _Sweep) -> None:
    absent = [dataset.name for dataset in sweep.plan.datasets if not dataset.is_present]
    if absent:
        raise sweep.source.error(
            ("dataset",), f"the files of {', '.join(absent)} are not here; 'plan' works without"
        )


def _refuse_impossible_resources(sweep: _Sweep) -> None:
    from toolkit.cluster.local import available_gpus

    n_gpus = len(available_gpus())
    for stage in TaskKind:
        wanted = getattr(sweep.config.resources, stage).gpus
        if wanted is not None and wanted > n_gpus:
            raise sweep.source.error(
                ("resources", stage, "gpus"), f"{wanted} GPUs wanted, this machine has {n_gpus}"
            )


def _settings(sweep: _Sweep) -> dict[str, Any]:
    """What a verb that knows only the run folder needs of the config."""
    return {
        "name": sweep.config.name,
        "config_hash": sweep.plan.config_hash,
        "executor": sweep.config.executor.model_dump(mode="json"),
        "resources": sweep.config.resources.model_dump(mode="json"),
    }


def _plan_table(plan_: Plan, done: set[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    for heading in ("tasks", "done", "to run", "feature bytes", "files"):
        table.add_column(heading, justify="right")
    sizes_kept = [kept_size(task) for task in {features_id(t): t for t in plan_.extract}.values()]
    n_bytes = sum(size_bytes for size_bytes, _ in sizes_kept)
    n_files = sum(files for _, files in sizes_kept)
    for kind, tasks, sizes in (
        (TaskKind.EXTRACT, plan_.extract, (decimal(n_bytes), str(n_files))),
        (TaskKind.ENCODE, plan_.encode, ("", str(len(plan_.encode)))),
    ):
        n_done = sum(task.id in done for task in tasks)
        counts = (len(tasks), n_done, len(tasks) - n_done)
        table.add_row(str(kind), *map(str, counts), *sizes)
    return table


def _solver_reasons(sweep: _Sweep) -> list[str]:
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


def _detach(folder: RunFolder, options: argparse.Namespace, console: Console) -> int:
    command = [sys.executable, "-m", "toolkit.sweep", "run", str(options.config)]
    command += ["--out", str(folder.path)]
    command += [word for override in options.overrides for word in ("--set", override)]
    command += ["--executor", options.executor] if options.executor else []
    with (folder.path / "logs" / "sweep.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    console.print(f"Runs on as process {process.pid}. To see how it stands:")
    console.print(f"  python -m toolkit.sweep status {folder.path}", soft_wrap=True)
    return EXIT_DONE


# While it runs


def _dispatch(folder: RunFolder, tasks: Sequence[Task], console: Console) -> int:
    with folder.owned(), _stopped_by_signals():
        _wait_for_orphans(folder)
        try:
            for _ in range(_ROUNDS):
                _run_round(folder, tasks, console)
                if not _found_damage(folder, tasks):
                    break
        except KeyboardInterrupt:
            console.print("Stopped; run the same command again to continue.")
        return _finish(folder, console)


def _run_round(folder: RunFolder, tasks: Sequence[Task], console: Console) -> None:
    from jobs.run import run_tasks

    todo = [task for task in tasks if not folder.is_done(task.id)]
    for task in todo:
        folder.reopen(task.id)
    settings = folder.read_summary()
    executor = ExecutorConfig.model_validate(settings["executor"])
    resources = StageResources.model_validate(settings["resources"])
    work = partial(run_tasks, str(folder.path))
    with following(folder, todo, console):
        if executor.kind == "inprocess":
            cpus = {kind: getattr(resources, kind).cpus for kind in TaskKind}
            run_inprocess(make_batches(todo), work, cpus)
        else:
            from toolkit.cluster.local import run_local

            jobs = _job_resources(resources, executor.max_parallel)
            batches = make_batches(todo, one_job_per_network=not jobs[TaskKind.EXTRACT].n_gpus)
            run_local(folder, batches, work, jobs, executor.max_parallel)


def _job_resources(resources: StageResources, max_parallel: int) -> dict[TaskKind, Any]:
    from toolkit.cluster.local import JobResources, available_gpus

    n_cores = len(os.sched_getaffinity(0))
    found = {}
    for kind in TaskKind:
        stage = getattr(resources, kind)
        one_if_any = min(1, len(available_gpus())) if kind is TaskKind.EXTRACT else 0
        found[kind] = JobResources(
            n_cpus=stage.cpus or max(1, n_cores // max_parallel),
            n_gpus=one_if_any if stage.gpus is None else stage.gpus,
            timeout_min=stage.timeout_min,
        )
    return found


def _wait_for_orphans(folder: RunFolder) -> None:
    """Let the jobs of a killed sweep notice that it is gone and end."""
    deadline = time.monotonic() + _ORPHANS_S
    while time.monotonic() < deadline:
        running = [a for a in folder.attempts().values() if a.state is TaskState.RUNNING]
        if not any(folder.is_alive(attempt) for attempt in running):
            return
        time.sleep(0.2)


def _found_damage(folder: RunFolder, tasks: Sequence[Task]) -> bool:
    attempts = (folder.attempt(task.id) for task in tasks)
    return any(a is not None and a.error_class == "damaged_features" for a in attempts)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise KeyboardInterrupt, so that jobs are stopped in order.

    A shell starts background processes with SIGINT ignored; `cancel` sends SIGTERM.
    """

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# Afterwards


def _finish(folder: RunFolder, console: Console) -> int:
    """Collect, show the best layers, and say where everything is."""
    from toolkit import results

    views = take_snapshot(folder, folder.tasks())
    rows = [
        results.PlannedRow(
            task_id=view.task.id,
            status=str(view.state),
            identity=view.task.columns,
            error_class=_error_class(view),
            error_message=view.reason or None,
        )
        for view in views
        if view.task.kind is TaskKind.ENCODE
    ]
    table = results.collect(rows, folder.results_folder, folder.path)
    reasons = reason_table(views)
    if reasons is not None:
        console.print(stage_table(views))
        console.print(reasons)
    results.print_best(table, console)
    console.print(f"{folder.path / 'results.parquet'}", soft_wrap=True, highlight=False)
    return _exit_status(views)


def _error_class(view: TaskView) -> str | None:
    if view.state is TaskState.BLOCKED:
        return "blocked"
    return (view.attempt.error_class or None) if view.attempt else None


def _exit_status(views: Sequence[TaskView]) -> int:
    finished = all(view.state is TaskState.DONE for view in views)
    return EXIT_DONE if finished else EXIT_UNFINISHED


def _is_chosen(view: TaskView, options: argparse.Namespace) -> bool:
    if view.state not in (TaskState.FAILED, TaskState.CANCELLED) or view.attempt is None:
        return False
    if options.error_class and view.attempt.error_class != options.error_class:
        return False
    try:
        return not options.error or bool(re.search(options.error, view.attempt.error_message))
    except re.error as error:
        raise ConfigError(
            [f"--error {options.error}: not a regular expression: {error}"]
        ) from error


def _log_of(folder: RunFolder, wanted: str | None) -> Path:
    logs_ = sorted((folder.path / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    if not logs_:
        raise RunFolderError(f"{folder.path} has no logs yet; nothing has run")
    if wanted is None:
        return logs_[-1]
    ids = [task.id for task in folder.tasks() if wanted in task.id or wanted in task.label]
    matching = [path for path in logs_ if path.stem in ids]
    if not matching:
        raise RunFolderError(f"no log of a task whose id or label contains '{wanted}'")
    return matching[-1]
