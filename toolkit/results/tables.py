"""All results of a run in two tables: one row per planned result, one row per neuron."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.atomic import atomic_path
from toolkit.results.columns import (
    IDENTITY_COLUMNS,
    NEURON_COLUMNS,
    RESULT_COLUMNS,
    SCORE_COLUMNS,
    TRAINING_IDENTITY_COLUMNS,
    names,
    schema,
)
from toolkit.results.errors import ResultError
from toolkit.results.scores import read_score_table, summary_row
from toolkit.task import TaskState, json_digest

RESULTS_FILE = "results.parquet"
NEURONS_FILE = "neurons.parquet"

# Threads hide the latency of a network file system; on a local disk one would be as fast.
_N_READERS = 8
# Tasks held in memory at once, and the tasks of one row group of neurons.parquet.
_BATCH_TASKS = 512

_ROW_ID_DIGITS = 12
_NO_NEURONS = schema(SCORE_COLUMNS).empty_table()
_TASK_NAMES = tuple(name for name in names(NEURON_COLUMNS) if name not in names(SCORE_COLUMNS))


@dataclass(frozen=True)
class PlannedRow:
    """One planned read-out or training and where it stands.

    Parameters
    ----------
    task_id
        Id of the task; its result is ``<task_id>.parquet``.
    status
        A value of :class:`toolkit.task.TaskState`.
    identity
        A value for each of :data:`~toolkit.results.columns.IDENTITY_COLUMNS`, and for any of
        :data:`~toolkit.results.columns.TRAINING_IDENTITY_COLUMNS`.
    error_class, error_message
        What stopped the task, if something did.
    trials
        Of a search, the tasks of its trials and their numbers: a result says by which task its
        trial began, whatever number that had when it was computed.

    Raises
    ------
    ValueError
        If the status is no task state or the identity's keys are not the identity columns.
    """

    task_id: str
    status: str
    identity: dict[str, Any]
    error_class: str | None = None
    error_message: str | None = None
    trials: Mapping[str, int] = field(default_factory=dict)

    @property
    def row_id(self) -> str:
        """12 hexadecimal digits of the task and of all that identifies the row."""
        return json_digest([self.task_id, self.identity])[:_ROW_ID_DIGITS]

    def __post_init__(self) -> None:
        TaskState(self.status)
        expected, given = set(names(IDENTITY_COLUMNS)), set(self.identity)
        unknown = given - expected - set(names(TRAINING_IDENTITY_COLUMNS))
        if unknown or not expected <= given:
            raise ValueError(
                f"{self.task_id}: the identity lacks {sorted(expected - given)} and "
                f"has the unknown {sorted(unknown)}"
            )


@dataclass(frozen=True)
class _Collected:
    row: PlannedRow
    summary: dict[str, Any]
    neurons: pa.Table


def collect(rows: Sequence[PlannedRow], results_folder: Path, out: Path) -> pd.DataFrame:
    """Write ``results.parquet`` and ``neurons.parquet`` from whatever is there by now.

    Both keep the order of ``rows``. A task that is ``done`` but whose file cannot be read becomes
    ``failed`` with ``error_class`` ``bad_result``, so that one damaged file spoils one row.
    Memory holds one batch of tasks, not all neurons.

    Parameters
    ----------
    rows
        Every planned read-out and training.
    results_folder
        Folder of the tasks' result files.
    out
        Existing folder for the two tables; each is replaced atomically.

    Returns
    -------
    pandas.DataFrame
        The content of ``results.parquet``, one row per planned result.
    """
    results_schema, neurons_schema = schema(RESULT_COLUMNS), schema(NEURON_COLUMNS)
    results: list[dict[str, Any]] = []
    with (
        atomic_path(out / NEURONS_FILE) as neurons_path,
        pq.ParquetWriter(neurons_path, neurons_schema, compression="zstd") as writer,
    ):
        for batch in _read_batches(rows, results_folder):
            results += [_result_row(collected) for collected in batch]
            writer.write_table(_neuron_table(batch, neurons_schema))
    table = pa.Table.from_pylist(results, schema=results_schema)
    with atomic_path(out / RESULTS_FILE) as results_path:
        pq.write_table(table, results_path, compression="zstd")
    return table.to_pandas()


def _read_batches(rows: Sequence[PlannedRow], folder: Path) -> Iterator[list[_Collected]]:
    with ThreadPoolExecutor(_N_READERS) as readers:
        for start in range(0, len(rows), _BATCH_TASKS):
            batch = rows[start : start + _BATCH_TASKS]
            yield list(readers.map(_read, batch, [folder] * len(batch)))


def _read(row: PlannedRow, folder: Path) -> _Collected:
    if row.status != TaskState.DONE:
        return _Collected(row, {}, _NO_NEURONS)
    path = folder / f"{row.task_id}.parquet"
    try:
        neurons, summary = read_score_table(path)
        values = summary_row(summary, source=path)
        return _Collected(row, _trial(row, summary) | values, neurons)
    except ResultError as error:
        failed = replace(
            row,
            status=TaskState.FAILED.value,
            error_class=error.error_class,
            error_message=str(error),
        )
        return _Collected(failed, {}, _NO_NEURONS)


def _trial(row: PlannedRow, summary: Mapping[str, Any]) -> dict[str, int]:
    number = row.trials.get(str(summary.get("origin")))
    return {} if number is None else {"trial": number}


def _result_row(collected: _Collected) -> dict[str, Any]:
    row = collected.row
    return {
        "row_id": row.row_id,
        "task_id": row.task_id,
        "status": row.status,
        "error_class": row.error_class,
        "error_message": row.error_message,
        **row.identity,
        **collected.summary,
    }


def _neuron_table(batch: Sequence[_Collected], target: pa.Schema) -> pa.Table:
    """The neurons of a batch, each preceded by the identity of its row of results."""
    neurons = pa.concat_tables([c.neurons.replace_schema_metadata(None) for c in batch])
    tasks = pa.Table.from_pylist(
        [{"row_id": c.row.row_id, "task_id": c.row.task_id, **c.row.identity} for c in batch],
        schema=pa.schema(target.field(name) for name in _TASK_NAMES),
    )
    task_of_neuron = np.repeat(np.arange(len(batch)), [c.neurons.num_rows for c in batch])
    tasks = tasks.take(pa.array(task_of_neuron))
    columns = [(tasks if name in _TASK_NAMES else neurons).column(name) for name in target.names]
    return pa.Table.from_arrays(columns, schema=target)
