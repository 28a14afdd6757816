"""The tables of a run, from its folder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.results.tables import PlannedRow, collect
from toolkit.task import TaskState

if TYPE_CHECKING:
    import pandas as pd


def collect_run(run: RunFolder) -> tuple[list[TaskView], pd.DataFrame]:
    """Write the result tables from what is there by now.

    Returns
    -------
    How every task stands, and the content of ``results.parquet``: a row per planned result.
    """
    views = take_snapshot(run, run.tasks())
    rows = [
        PlannedRow(
            task_id=view.task.id,
            status=str(view.state),
            identity=view.task.columns,
            error_class=_error_class(view),
            error_message=view.reason or None,
        )
        for view in views
        if view.task.kind.gives_scores
    ]
    return views, collect(rows, run.results_folder, run.path)


def _error_class(view: TaskView) -> str | None:
    if view.state is TaskState.BLOCKED:
        return "blocked"
    return (view.attempt.error_class or None) if view.attempt else None
