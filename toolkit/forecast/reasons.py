"""Why each task would run: it is new, a parameter changed, or its result is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from toolkit.cluster.run_folder import RunFolder
from toolkit.task import Task, TaskKind, TaskState

# Of former tasks that are alike, so many are compared with a new one.
_MOST_COMPARED = 20
_MOST_SHOWN = 24  # characters of a value
_ABSENT = object()
_DIGEST = re.compile(r"(?:\w+[-:])?[0-9a-f]{12,}")

_Changes = dict[str, tuple[Any, Any]]

_OTHER_VERSION = "the version of the code's results changed"


def former_tasks(run: RunFolder) -> dict[str, Task]:
    """The tasks that an earlier run recorded, by the ids that they had then; maybe none.

    A version of the toolkit that gives the same parameters other results gives them other ids.
    """
    try:
        plan = json.loads(run.plan_path.read_text(encoding="utf-8"))
        return {raw["id"]: _task(raw) for raw in plan["tasks"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _task(raw: Mapping[str, Any]) -> Task:
    """As ``Task.from_dict`` does, without computing the id anew, which may be another by now."""
    return Task(
        kind=TaskKind(raw["kind"]),
        params=raw["params"],
        inputs=tuple(raw["inputs"]),
        label=raw["label"],
        columns=raw["columns"],
        options=raw["options"],
    )


def last_outcomes(run: RunFolder) -> dict[str, str]:
    """For tasks that were tried and have no result, what became of the last attempt."""
    if not run.results_folder.is_dir():
        return {}
    done = run.done_ids()
    logged = {path.stem for path in (run.path / "logs").glob("*.log")}
    outcomes = dict.fromkeys(logged - done, "it was removed")
    for task_id, attempt in run.attempts().items():
        if task_id in done:
            continue
        if attempt.state is TaskState.RUNNING:
            outcomes[task_id] = "running" if run.is_alive(attempt) else "interrupted"
        elif attempt.error_class:
            outcomes[task_id] = f"{attempt.state}: {attempt.error_class}"
        elif attempt.state is TaskState.PENDING:
            outcomes[task_id] = "tried before"
        else:
            outcomes[task_id] = str(attempt.state)
    return outcomes


def why_to_run(
    tasks: Mapping[str, Task],
    before: Mapping[str, Task],
    done_ids: Collection[str],
    outcomes: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """For each task that is not done, why it would run.

    Parameters
    ----------
    tasks
        The planned tasks by id.
    before
        Those of the run folder's last plan, see :func:`former_tasks`.
    done_ids
        Tasks whose results are there.
    outcomes
        Of attempts without a result, see :func:`last_outcomes`.

    Returns
    -------
    dict
        By task id: ``"result missing: ..."`` for a task that was planned before; for another that
        resembles one which is no longer planned, what differs between them, ``"parameter
        readout.n_folds changed (5 → 10)"``, or that the code's results have another version;
        else ``"new"``.
    """
    outcomes = outcomes or {}
    former = _Former(before, tasks)
    reasons = {}
    for task_id, task in tasks.items():
        if task_id in done_ids:
            continue
        if task_id in before:
            reasons[task_id] = f"result missing: {outcomes.get(task_id, 'not run yet')}"
        else:
            reasons[task_id] = former.what_changed(task)
    return reasons


class _Former:
    """Tasks of a former plan that the present one does not hold, found by what they are about."""

    def __init__(self, before: Mapping[str, Task], tasks: Mapping[str, Task]) -> None:
        self._before = before
        self._tasks = tasks
        self._alike: dict[tuple[Any, ...], list[Task]] = {}
        labels = {(task.kind, task.label) for task in tasks.values()}
        for task_id in sorted(before.keys() - tasks.keys()):
            label, about = _identities(before[task_id])
            for key in (label,) if label in labels else (label, about):
                self._alike.setdefault(key, []).append(before[task_id])

    def what_changed(self, task: Task) -> str:
        for key in _identities(task):
            if key in self._alike:
                candidates = self._alike[key][:_MOST_COMPARED]
                return _describe(min((self._changes(old, task) for old in candidates), key=len))
        return "new"

    def _changes(self, old: Task, new: Task) -> _Changes:
        """Changed parameters; instead of the id of features those that decide them."""
        changes = dict(_changes(old.params, new.params))
        if "features" in changes:
            was = next((self._before[i] for i in old.inputs if i in self._before), None)
            now = next((self._tasks[i] for i in new.inputs if i in self._tasks), None)
            if was and now:
                del changes["features"]
                theirs = dict(_changes(was.params, now.params, "features."))
                theirs.pop("features.part", None)
                changes = theirs | changes
        return changes


def _identities(task: Task) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Two keys that like tasks share: the whole label, and what no change of a value can change."""
    columns, params = task.columns, task.params
    dataset = columns.get("dataset") or task.options.get("dataset", {}).get("name")
    library = columns.get("library") or params.get("library")
    model = columns.get("model") or task.options.get("model")
    readout = params.get("readout", {}).get("kind")
    about = (task.kind, dataset, library, model, params.get("layer"), readout)
    return (task.kind, task.label), about


def _changes(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted names with both values."""
    for name in dict.fromkeys((*old, *new)):
        before, after = old.get(name, _ABSENT), new.get(name, _ABSENT)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(before, after, f"{prefix}{name}.")
        elif before is not after and before != after:
            yield prefix + name, (before, after)


def _describe(changes: _Changes) -> str:
    if not changes:
        return _OTHER_VERSION
    name, (old, new) = next(iter(changes.items()))
    if isinstance(old, list) and isinstance(new, list):
        how = _list_change(old, new)
    else:
        how = f"{_short(old)} → {_short(new)}"
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return f"parameter {name} changed ({how}){more}"


def _list_change(old: list[Any], new: list[Any]) -> str:
    added = [f"+{_short(value)}" for value in new if value not in old]
    removed = [f"-{_short(value)}" for value in old if value not in new]
    changed = added + removed
    if len(changed) > 3:
        return f"+{len(added)} -{len(removed)} values"
    return ", ".join(changed) or "another order"


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value)
    most = 15 if _DIGEST.fullmatch(text) else _MOST_SHOWN
    return text if len(text) <= most else f"{text[: most - 1]}…"
