"""Jobs, and chains of jobs that wait for each other.

A chain is, in the main, what belongs to one network: its extraction, in however many shards, and
its read-outs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from toolkit.cluster.batches import Batch
from toolkit.cluster.job_request import JobRequest
from toolkit.task import TaskKind


class JobKey(NamedTuple):
    """What jobs must have in common to be elements of one array.

    ``depth`` is the number of jobs that run one after the other before it.
    """

    depth: int
    kind: TaskKind
    request: JobRequest
    family: str


@dataclass(eq=False)
class Job:
    """Batches that run one after the other.

    Parameters
    ----------
    key
        What decides which array it can be in.
    position
        Of its first batch.
    batches
        In order.
    parents, in_flight
        The planned jobs, and the elements in the queue, that it waits for.
    """

    key: JobKey
    position: int
    batches: list[Batch] = field(default_factory=list)
    parents: list[Job] = field(default_factory=list)
    in_flight: frozenset[str] = frozenset()

    @property
    def order(self) -> tuple[int, int]:
        """Parents first."""
        return self.key.depth, self.position

    @property
    def n_tasks(self) -> int:
        """Of all its batches."""
        return sum(len(batch.task_ids) for batch in self.batches)


@dataclass(eq=False)
class Chain:
    """Jobs that wait for each other by index, parents first.

    It has one root that may wait for jobs of other chains, or several that wait for none.
    """

    jobs: list[Job]

    @property
    def waits_for_others(self) -> bool:
        """Whether its root waits for jobs of other chains, or in the queue."""
        return bool(self.jobs[0].parents or self.jobs[0].in_flight)

    def shape(self) -> tuple[object, ...]:
        """Equal for chains that may lie side by side."""
        slots = {job: slot for slot, job in enumerate(self.jobs)}
        inside = tuple(
            (job.key, tuple(slots[p] for p in job.parents if p in slots)) for job in self.jobs
        )
        root = self.jobs[0]
        return inside, frozenset(root.parents), root.in_flight


class _Edge(NamedTuple):
    """A dependency's like: from what to what, of how many parents, to how many children."""

    parent: JobKey
    child: JobKey
    n_parents: int
    n_children: int


def pack_jobs(
    batches: Sequence[Batch],
    request_of: Callable[[Batch], JobRequest],
    tasks_per_job: Mapping[TaskKind, int],
    family_of: Callable[[Batch], str],
    in_flight: Mapping[str, str],
) -> list[Job]:
    """Jobs by depth; batches that share one have the same depth, so that none waits for another.

    Parameters
    ----------
    batches, request_of, tasks_per_job, family_of, in_flight
        As in :func:`toolkit.cluster.arrays.plan_arrays`.

    Raises
    ------
    ValueError
        If a batch comes before one that it waits for.
    """
    planned = {task_id for batch in batches for task_id in batch.task_ids}
    owner: dict[str, Job] = {}
    open_jobs: dict[JobKey, Job] = {}
    jobs: list[Job] = []
    for position, batch in enumerate(batches):
        outside = batch.waits_for.difference(batch.task_ids)
        if late := sorted(i for i in outside if i in planned and i not in owner):
            raise ValueError(f"batch '{batch.name}' comes before {late[0]}, which it waits for")
        parents = {owner[i] for i in outside if i in owner}
        depth = 1 + max((parent.key.depth for parent in parents), default=-1)
        key = JobKey(depth, batch.kind, request_of(batch), family_of(batch))
        job = open_jobs.get(key)
        if job is None or job.n_tasks + len(batch.task_ids) > tasks_per_job.get(batch.kind, 1):
            job = open_jobs[key] = Job(key, position)
            jobs.append(job)
        job.batches.append(batch)
        job.parents = sorted(parents.union(job.parents), key=lambda parent: parent.order)
        job.in_flight |= {in_flight[i] for i in outside - planned if i in in_flight}
        owner |= dict.fromkeys(batch.task_ids, job)
    return sorted(jobs, key=lambda job: job.order)


def chain_jobs(jobs: Sequence[Job]) -> list[Chain]:
    """Chains that cover the jobs.

    Parameters
    ----------
    jobs
        By depth.

    Notes
    -----
    A root that waits for others makes its whole chain wait. Where chains with such roots were
    joined, two chains could each hold what the other waits for; so they are not.
    """
    by_index = _waiting_by_index(jobs)
    chain_of: dict[Job, Chain] = {}
    for job in jobs:
        chains = list(dict.fromkeys(chain_of[parent] for parent in job.parents))
        joinable = len(chains) == 1 or not any(chain.waits_for_others for chain in chains)
        if not chains or job.in_flight or job not in by_index or not joinable:
            chain_of[job] = Chain([job])
            continue
        first, *others = chains
        for other in others:
            first.jobs += other.jobs
        first.jobs.append(job)
        chain_of |= dict.fromkeys(first.jobs, first) if others else {job: first}
    found = list(dict.fromkeys(chain_of.values()))
    for chain in found:
        chain.jobs.sort(key=lambda job: job.order)
    return found


def _waiting_by_index(jobs: Sequence[Job]) -> set[Job]:
    """Jobs whose dependencies take no more submissions by index than by name.

    Side by side, each of a job's parents (or of a parent's children) is an array of its own. By
    name, jobs that wait for different ones are.
    """
    n_children = Counter((parent, job.key) for job in jobs for parent in job.parents)
    edges: dict[Job, set[_Edge]] = {}
    parents, children = defaultdict[_Edge, set[Job]](set), defaultdict[_Edge, set[Job]](set)
    for job in jobs:
        n_parents = Counter(parent.key for parent in job.parents)
        for parent in job.parents:
            fan = n_parents[parent.key], n_children[parent, job.key]
            edge = _Edge(parent.key, job.key, *fan)
            edges.setdefault(job, set()).add(edge)
            parents[edge].add(parent)
            children[edge].add(job)
    fitting = {
        edge
        for edge in parents
        if edge.n_parents <= len(children[edge]) and edge.n_children <= len(parents[edge])
    }
    return {job for job, own in edges.items() if own <= fitting}


def group_by_shape(chains: Sequence[Chain]) -> list[list[Chain]]:
    """Chains of equal shape together; a group comes after those that it waits for."""
    groups: dict[tuple[object, ...], list[Chain]] = {}
    for chain in sorted(chains, key=lambda chain: chain.jobs[0].order):
        groups.setdefault(chain.shape(), []).append(chain)
    return list(groups.values())
