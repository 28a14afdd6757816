"""A run as tidy tables: its results, its neurons, and where every task stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.results.damage import read_report
from toolkit.results.errors import ResultError
from toolkit.results.tables import NEURONS_FILE, RESULTS_FILE
from toolkit.task import TaskKind, TaskState

TASK_COLUMNS = {
    "task_id": "Id of the task: its kind and 12 hexadecimal digits.",
    "kind": "Kind of the task: extract, encode, train or probe.",
    "label": "What the task is about, in words.",
    "status": "State of the task: pending, running, done, failed, blocked, cancelled or unknown.",
    "error_class": "Class of the error that stopped the task, None if none did.",
    "reason": "Why the task is neither running nor done, in words; may be empty.",
    "attempt": "How many times the task was begun; missing when done or never begun.",
    "host": "Machine of the last attempt; missing when done or never begun.",
    "seconds": "Wall-clock time of a finished extraction, in seconds.",
    "device": "Device of a finished extraction, such as `cpu` or `cuda:0`.",
    "inputs": "Ids of the tasks that had to be done first, a tuple.",
}
"""Columns of :attr:`Tables.tasks` and what they hold."""


@dataclass(frozen=True)
class Tables:
    """What there is to know of a run.

    Attributes
    ----------
    results
        One row per planned read-out or training, as last collected:
        :data:`~toolkit.results.columns.RESULT_COLUMNS`.
    neurons
        One row per neuron of each that is done, :data:`~toolkit.results.columns.NEURON_COLUMNS`.
    tasks
        One row per planned task of any kind, :data:`TASK_COLUMNS`, as it stands now; without rows
        where the tables lie apart from their run folder.
    """

    results: pd.DataFrame
    neurons: pd.DataFrame
    tasks: pd.DataFrame


def load(run_folder: str | Path) -> Tables:
    """Read the tables of a run.

    Raises
    ------
    ResultError
        If a table is missing (nobody collected yet) or damaged, or the plan is of another version.
    """
    folder = Path(run_folder)
    return Tables(
        results=_read_table(folder / RESULTS_FILE),
        neurons=_read_table(folder / NEURONS_FILE),
        tasks=_read_tasks(RunFolder(folder)),
    )


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pq.read_table(path).to_pandas()
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such table; collect the run's results first") from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ResultError(
            f"{path}: not a complete Parquet file ({error}); collect the run's results again"
        ) from error


def _read_tasks(run: RunFolder) -> pd.DataFrame:
    if not run.plan_path.is_file():
        return pd.DataFrame(columns=list(TASK_COLUMNS))
    try:
        views = take_snapshot(run, run.tasks())
    except RunFolderError as error:
        raise ResultError(str(error)) from error
    return pd.DataFrame([_task_row(run, view) for view in views], columns=list(TASK_COLUMNS))


def _task_row(run: RunFolder, view: TaskView) -> dict[str, Any]:
    attempt, report, status, reason = view.attempt, {}, view.state, view.reason
    error_class = attempt.error_class if attempt else ""
    if status is TaskState.BLOCKED:
        error_class = "blocked"
    elif status is TaskState.DONE and view.task.kind is TaskKind.EXTRACT:
        try:
            report = read_report(run.result_path(view.task.id))
        except ResultError as error:
            status, error_class, reason = TaskState.FAILED, error.error_class, str(error)
    return {
        "task_id": view.task.id,
        "kind": str(view.task.kind),
        "label": view.task.label,
        "status": str(status),
        "error_class": error_class or None,
        "reason": reason,
        "attempt": attempt.number if attempt else None,
        "host": attempt.host if attempt else None,
        "seconds": report.get("seconds"),
        "device": report.get("device"),
        "inputs": view.task.inputs,
    }
