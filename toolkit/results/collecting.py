"""The tables of a run, from its folder alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import TaskView, take_snapshot
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
    How every task stands, and the content of ``results.parquet``: a row per planned result.
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
    return views, collect(rows, run.results_folder, run.path)


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
