"""What can be seen of a run, from its folder: ``status``, ``logs``, ``collect``."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live

from toolkit.cluster.display import reason_table, running_table, scheduler_line, stage_table
from toolkit.cluster.failures import says_why
from toolkit.cluster.keeper import has_keeper
from toolkit.cluster.manifests import element_log_path
from toolkit.cluster.queue import read_queue
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.task import TaskState
from toolkit.verbs import slurm

if TYPE_CHECKING:
    import pandas as pd

EXIT_DONE, EXIT_UNFINISHED = 0, 1

_WATCH_S = 2.0
_MOST_REASONS = 40


def status(options: argparse.Namespace, console: Console) -> int:
    """Say how a run stands."""
    folder = RunFolder.open(options.run)
    if not options.watch:
        views = _look(folder)
        console.print(_picture(folder, views))
        return exit_status(views)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            views = _look(folder)
            live.update(_picture(folder, views), refresh=True)
            if not _may_change(folder, views):
                return exit_status(views)
            time.sleep(_WATCH_S)


def logs(options: argparse.Namespace, console: Console) -> int:
    """Print the end of a task's log."""
    folder = RunFolder.open(options.run)
    path = _log_of(folder, options.task)
    lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    console.print(str(path), style="bold", soft_wrap=True)
    for line in lines[-options.n_lines :]:
        console.print(line, soft_wrap=True)
    return EXIT_DONE


def collect(options: argparse.Namespace, console: Console) -> int:
    """Write the result tables from what is there."""
    folder = RunFolder.open(options.run)
    slurm.settle_now(folder)
    return finish(folder, console)


def finish(folder: RunFolder, console: Console) -> int:
    """Collect, show the best layers, and say where everything is.

    Raises
    ------
    RunFolderError
        If the tables cannot be written.
    """
    from toolkit import results

    views, table, unusable = collected(folder)
    reasons = reason_table(views, _MOST_REASONS)
    if reasons is not None:
        console.print(stage_table(views))
        console.print(reasons)
    results.print_best(table, console)
    console.print(f"{folder.path / 'results.parquet'}", soft_wrap=True)
    if unusable:
        console.print(
            f"{len(unusable)} results cannot be used: {unusable[0].reason}\n"
            "They are set aside. To compute them again:\n"
            f"  python -m toolkit.sweep retry {shlex.quote(str(folder.path))}",
            style="yellow",
            soft_wrap=True,
        )
    return exit_status(views)


def collected(folder: RunFolder) -> tuple[list[TaskView], pd.DataFrame, list[TaskView]]:
    """Collect, and set results aside that cannot be used: their tasks are to be run again.

    Returns
    -------
    How every task stands, the results, and of the tasks those whose results were set aside.

    Raises
    ------
    RunFolderError
        If the tables cannot be written.
    """
    from toolkit import results

    try:
        views, table = results.collect_run(folder)
        unusable = [v for v in views if v.state is TaskState.FAILED and v.attempt is None]
        for view in unusable:
            folder.set_aside(view.task.id, results.ResultError.error_class, view.reason)
    except OSError as error:
        raise RunFolderError(f"{folder.path} cannot be written: {error.strerror}") from error
    attempts = {view.task.id: folder.attempt(view.task.id) for view in unusable}
    views = [replace(v, attempt=attempts.get(v.task.id, v.attempt)) for v in views]
    return views, table, unusable


def exit_status(views: Sequence[TaskView]) -> int:
    """0 if every task is done."""
    finished = all(view.state is TaskState.DONE for view in views)
    return EXIT_DONE if finished else EXIT_UNFINISHED


def _look(folder: RunFolder) -> list[TaskView]:
    slurm.settle_now(folder)
    return take_snapshot(folder, folder.tasks())


def _picture(folder: RunFolder, views: Sequence[TaskView]) -> Group:
    parts = (
        _who(folder),
        stage_table(views),
        running_table(views),
        reason_table(views, _MOST_REASONS),
    )
    return Group(*(part for part in parts if part is not None))


def _who(folder: RunFolder) -> str:
    owner = folder.owner()
    queue = read_queue(folder)
    if queue is not None and slurm.is_slurm_run(folder):
        return f"{folder.path}: {scheduler_line(queue, folder.done_ids())}"
    held = f"run by process {owner.pid} on {owner.host}" if owner else "not running"
    return f"{folder.path}: {held}"


def _may_change(folder: RunFolder, views: Sequence[TaskView]) -> bool:
    queue = read_queue(folder)
    waits = bool(queue and queue.waiting_elements().keys() - folder.done_ids())
    runs = any(view.state is TaskState.RUNNING for view in views)
    is_kept = has_keeper(folder) and exit_status(views) == EXIT_UNFINISHED
    return runs or waits or is_kept or folder.owner() is not None


def _log_of(folder: RunFolder, wanted: str | None) -> Path:
    logs_ = sorted((folder.path / "logs").glob("*.log"), key=lambda path: path.stat().st_mtime)
    if wanted is None:
        if not logs_:
            raise RunFolderError(f"{folder.path} has no logs yet; nothing has run")
        return logs_[-1]
    ids = [task.id for task in folder.tasks() if wanted in task.id or wanted in task.label]
    queue = read_queue(folder)
    for task_id in reversed(ids):
        attempt = folder.attempt(task_id)
        own = folder.log_path(task_id)
        place = queue.place(task_id) if queue else None
        job = element_log_path(folder, place.element) if place else None
        died = attempt is not None and attempt.state.is_terminal and not says_why(attempt)
        if job is not None and job.is_file() and (died or not own.is_file()):
            return job
        if own.is_file():
            return own
    raise RunFolderError(f"no log of a task whose id or label contains '{wanted}'")
