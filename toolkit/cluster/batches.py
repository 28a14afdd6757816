"""Which tasks share a job, and which jobs wait for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.task import Task, TaskKind


@dataclass(frozen=True)
class Batch:
    """Tasks that run one after the other in one job.

    Parameters
    ----------
    name
        What a person reads.
    kind
        The stage, which decides the resources.
    task_ids
        The tasks, in order.
    waits_for
        Ids of tasks whose results these read.
    """

    name: str
    kind: TaskKind
    task_ids: tuple[str, ...]
    waits_for: frozenset[str] = frozenset()


def make_batches(tasks: Sequence[Task], *, one_job_per_network: bool = False) -> list[Batch]:
    """One job per training or extraction, and one for everything read from the same extraction.

    The read-outs of a layer share its Gram matrix and its eigenvectors, so they belong in one
    process. Jobs are ordered so that a network's read-outs follow its extraction.

    Parameters
    ----------
    tasks
        Parents before children.
    one_job_per_network
        Whether an extraction and its read-outs share a job too: it saves starting a process, where
        both need the same resources.
    """
    groups: dict[tuple[TaskKind, frozenset[str]], list[Task]] = {}
    for task in tasks:
        is_read_out = task.kind is TaskKind.ENCODE
        network = frozenset(task.inputs) if is_read_out else frozenset({task.id})
        kind = TaskKind.EXTRACT if one_job_per_network and is_read_out else task.kind
        groups.setdefault((kind, network), []).append(task)
    position = {task.id: i for i, task in enumerate(tasks)}
    batches = [
        Batch(
            name=f"{kind} {members[0].label}" if len(members) == 1 else _group_name(kind, members),
            kind=kind,
            task_ids=tuple(task.id for task in members),
            waits_for=frozenset(members[0].inputs),
        )
        for (kind, _), members in groups.items()
    ]
    return sorted(batches, key=lambda batch: _order(batch, position))


def _group_name(kind: TaskKind, members: Sequence[Task]) -> str:
    return f"{kind} {len(members)} tasks of {members[-1].columns['model']}"


def _order(batch: Batch, position: dict[str, int]) -> tuple[int, int]:
    """After the last of those that it waits for, and before whatever comes after that."""
    last = max((position.get(task_id, 0) for task_id in batch.waits_for), default=None)
    if last is None:
        return position[batch.task_ids[0]], 0
    return last, 1
