"""The tables of a run, from its folder alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.results.damage import damaged_results
from toolkit.results.tables import PlannedRow, collect
from toolkit.task import TaskState

if TYPE_CHECKING:
    import pandas as pd

_Search = tuple[tuple[str, Any], ...]
_WITHIN_A_SEARCH = ("step", "rung", "slot", "trial")


def collect_run(run: RunFolder) -> tuple[list[TaskView], pd.DataFrame]:
    """Write the result tables from what is there by now.

    Returns
    -------
    How every task stands, and the content of ``results.parquet``: a row per planned result. Tasks
    whose results cannot be used are failed, without an attempt.
    """
    views = take_snapshot(run, run.tasks())
    trials = _trials_of_searches(views)
    rows = [
        PlannedRow(
            task_id=view.task.id,
            status=str(view.state),
            identity=identity,
            error_class=_error_class(view),
            error_message=view.reason or None,
            trials=trials.get(_search(identity), {}),
        )
        for view in views
        if view.task.kind.gives_scores
        for identity in view.task.rows
    ]
    table = collect(rows, run.results_folder, run.path)
    faults = _faults(run, views, table)
    return [_as_failed(view, faults.get(view.task.id)) for view in views], table


def _faults(run: RunFolder, views: Sequence[TaskView], table: pd.DataFrame) -> dict[str, str]:
    """Of the tasks that are done, what is wrong with their results."""
    done = {view.task.id: view.task for view in views if view.state is TaskState.DONE}
    reports = (run.result_path(i) for i, task in done.items() if not task.kind.gives_scores)
    found = {path.stem: str(error) for path, error in damaged_results(reports).items()}
    failed = table[table["task_id"].isin(done.keys()) & (table["status"] == TaskState.FAILED)]
    return found | dict(zip(failed["task_id"], failed["error_message"], strict=True))


def _as_failed(view: TaskView, fault: str | None) -> TaskView:
    if fault is None:
        return view
    return replace(view, state=TaskState.FAILED, reason=fault)


def _trials_of_searches(views: Sequence[TaskView]) -> dict[_Search, dict[str, int]]:
    """For each search its trials' tasks and their numbers."""
    found: dict[_Search, dict[str, int]] = defaultdict(dict)
    for view in views:
        for identity in view.task.rows:
            if "trial" in identity:
                found[_search(identity)][view.task.id] = identity["trial"]
    return found


def _search(identity: Mapping[str, Any]) -> _Search:
    """What all rows of one search share."""
    return tuple((key, value) for key, value in identity.items() if key not in _WITHIN_A_SEARCH)


def _error_class(view: TaskView) -> str | None:
    if view.state is TaskState.BLOCKED:
        return "blocked"
    return (view.attempt.error_class or None) if view.attempt else None
