"""What is to be computed: a value whose id is a hash of what decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

# Part of every id: raise it when a kind's code changes what the same parameters give.
RESULT_VERSION = {"extract": 3, "encode": 2, "train": 2, "probe": 1}


class TaskKind(StrEnum):
    """The kinds of task, one per file in ``jobs/``."""

    EXTRACT = "extract"
    ENCODE = "encode"
    TRAIN = "train"
    PROBE = "probe"

    @property
    def gives_scores(self) -> bool:
        """Whether its tasks have rows in the result tables."""
        return self in (TaskKind.ENCODE, TaskKind.TRAIN)


class TaskState(StrEnum):
    """Where a task stands.

    ``DONE`` is decided by the task's published result alone; every other state is what the
    run folder's records and the scheduler last witnessed. ``UNKNOWN`` is said where the scheduler
    does not answer and the task itself gives no sign of life.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing more happens to the task unless somebody asks for it."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskState.DONE, TaskState.FAILED, TaskState.BLOCKED, TaskState.CANCELLED})


@dataclass(frozen=True)
class Task:
    """One unit of work.

    Parameters
    ----------
    kind
        Which job runs it.
    params
        JSON values that decide the result. They are part of the id.
    inputs
        Ids of the tasks that must be done first. Not part of the id: ``params`` name what is read,
        however many tasks make it.
    label
        What a person reads in tables and logs. Not part of the id.
    columns
        What identifies the task's row in the result tables: names, which are labels. Not part of
        the id.
    options
        How to run it (where the files are, batch size, device). Not part of the id.
    more_columns
        The same of its further rows: what has one content may be planned under several names, such
        as two paths of one checkpoint. Not part of the id.
    """

    kind: TaskKind
    params: dict[str, Any]
    inputs: tuple[str, ...] = ()
    label: str = ""
    columns: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    more_columns: tuple[dict[str, Any], ...] = ()

    @cached_property
    def id(self) -> str:
        """Kind and 12 hexadecimal digits: ``encode-4c54f1b0a9de``."""
        identity = {
            "version": RESULT_VERSION[self.kind],
            "params": self.params,
        }
        return f"{self.kind}-{json_digest(identity)[:12]}"

    @property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """What identifies each of its rows in the result tables."""
        return (self.columns, *self.more_columns)

    def to_dict(self) -> dict[str, Any]:
        """The task as JSON values; :meth:`from_dict` reads them back."""
        return {
            "id": self.id,
            "kind": str(self.kind),
            "label": self.label,
            "inputs": list(self.inputs),
            "params": self.params,
            "columns": self.columns,
            "options": self.options,
            "more_columns": list(self.more_columns),
        }

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Task:
        """Read a task written by :meth:`to_dict`.

        Raises
        ------
        ValueError
            If the stored id is not the id of the stored values (another version of the toolkit
            wrote it, or somebody edited the file).
        """
        task = cls(
            kind=TaskKind(raw["kind"]),
            params=raw["params"],
            inputs=tuple(raw["inputs"]),
            label=raw["label"],
            columns=raw["columns"],
            options=raw["options"],
            more_columns=tuple(raw.get("more_columns", ())),
        )
        if task.id != raw["id"]:
            raise ValueError(
                f"task file says id {raw['id']} but its content has id {task.id}: it was edited or "
                "written by another version; run the sweep again to write it anew"
            )
        return task


def each_once(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """Tasks by their ids, in order; one that comes under several names keeps the rows of all."""
    found: dict[str, Task] = {}
    for task in tasks:
        known = found.setdefault(task.id, task)
        new = tuple(row for row in task.rows if row not in known.rows)
        if known.kind.gives_scores and new:
            found[task.id] = replace(known, more_columns=known.more_columns + new)
    return tuple(found.values())


def json_digest(value: Any) -> str:
    """SHA-256 (hexadecimal) of a value's canonical JSON: sorted keys, no spaces, no NaN.

    Raises
    ------
    ValueError
        If the value holds NaN or infinity, whose JSON form is not standard.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
