"""Which job arrays a run becomes: their elements, their sizes, and what each waits for.

Chains of one shape (:mod:`toolkit.cluster.chains`) become arrays side by side: element 17 of every
array is of chain 17, so one ``aftercorr`` chains them element by element. A dependency that would
need more submissions that way, such as that of one element on all others, is an ``afterok`` that
names what it waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from toolkit.cluster.batches import Batch
from toolkit.cluster.chains import Chain, Job, chain_jobs, group_by_shape, pack_jobs
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.limits import ArrayLimits
from toolkit.task import TaskKind

_ANY = 2**63  # where there is no limit


@dataclass(frozen=True)
class Dependency:
    """What an array waits for.

    Parameters
    ----------
    condition
        ``aftercorr``: each element for the one of the same index; ``afterok``: all elements.
    on
        Name of a planned array, or id of one in the queue.
    index
        The one element that is waited for; None for all.
    """

    condition: Literal["aftercorr", "afterok"]
    on: str
    index: int | None = None


@dataclass(frozen=True)
class JobArray:
    """One submission.

    Parameters
    ----------
    name
        Unique in its plan.
    kind, request
        The stage, and what each job asks for.
    elements
        The batches of each job; the position is the index in the array.
    dependencies
        All of them must be fulfilled.
    is_canary
        Whether others wait for it only to see that their like works at all.
    """

    name: str
    kind: TaskKind
    request: JobRequest
    elements: tuple[tuple[Batch, ...], ...]
    dependencies: tuple[Dependency, ...] = ()
    is_canary: bool = False

    @property
    def task_ids(self) -> list[list[str]]:
        """The tasks of each element, in order."""
        return [[i for batch in element for i in batch.task_ids] for element in self.elements]


@dataclass(frozen=True)
class ArrayPlan:
    """Arrays in an order in which they can be submitted.

    Parameters
    ----------
    waves
        What fits in the queue together: the first now (perhaps nothing), the others once there is
        room. A plan made then starts with what is left.
    """

    waves: tuple[tuple[JobArray, ...], ...]

    @property
    def arrays(self) -> list[JobArray]:
        """Of all waves."""
        return [array for wave in self.waves for array in wave]


def plan_arrays(
    batches: Sequence[Batch],
    limits: ArrayLimits,
    request_of: Callable[[Batch], JobRequest],
    *,
    tasks_per_job: Mapping[TaskKind, int] | None = None,
    family_of: Callable[[Batch], str] = lambda batch: batch.kind,
    canary_above: int | None = None,
    in_flight: Mapping[str, str] | None = None,
) -> ArrayPlan:
    """Put every batch into one element of one array.

    Parameters
    ----------
    batches
        Parents before children. A parent that is neither among them nor in flight counts as done.
    limits
        Of the cluster.
    request_of
        What a batch's job asks for; batches that differ in it do not share an array.
    tasks_per_job
        For each stage, up to how many tasks batches share an element; 1 if left out.
    family_of
        What fails together, such as all extractions with one library.
    canary_above
        The elements of a family of more tasks than this wait for its first one; None: none does.
    in_flight
        For tasks that are in the queue already, the element (``4711_3``) that will do them.

    Raises
    ------
    ValueError
        If a batch comes before one that it waits for.
    """
    family = family_of if canary_above is not None else lambda _: ""
    jobs = pack_jobs(batches, request_of, tasks_per_job or {}, family, in_flight or {})
    writer = _Writer(limits, _large_families(jobs, canary_above))
    for group in group_by_shape(chain_jobs(jobs)):
        writer.write(group)
    return ArrayPlan(tuple(map(tuple, writer.waves)))


def _large_families(jobs: Sequence[Job], canary_above: int | None) -> set[str]:
    if canary_above is None:
        return set()
    n_tasks, n_jobs = Counter[str](), Counter(job.key.family for job in jobs)
    for job in jobs:
        n_tasks[job.key.family] += job.n_tasks
    return {name for name, n in n_tasks.items() if n > canary_above and n_jobs[name] > 1}


class _Writer:
    """Writes groups of chains as arrays, within the limits."""

    def __init__(self, limits: ArrayLimits, large_families: set[str]) -> None:
        self.waves: list[list[JobArray]] = [[]]
        self._limits = limits
        self._room = self._whole_room = limits.max_submit or _ANY
        self._room -= limits.n_queued
        self._large = large_families
        self._canaries: dict[str, Dependency] = {}
        self._places: dict[Job, tuple[JobArray, int]] = {}
        self._n_arrays: Counter[TaskKind] = Counter()

    def write(self, group: Sequence[Chain]) -> None:
        rest = list(group)
        slots = [job.key.family for job in group[0].jobs]
        while rest:
            is_canary = not self._large.intersection(slots) <= self._canaries.keys()
            if self._room < min(len(slots), self._whole_room):
                self._open_wave()
            fitting = max(1, min(self._limits.max_array_size or _ANY, self._room // len(slots)))
            side_by_side = rest[: 1 if is_canary else fitting]
            self._write_side_by_side(side_by_side)
            del rest[: len(side_by_side)]

    def _open_wave(self) -> None:
        self.waves.append([])
        self._room = self._whole_room

    def _write_side_by_side(self, chains: Sequence[Chain]) -> None:
        proven = dict(self._canaries)
        for column in zip(*(chain.jobs for chain in chains), strict=True):
            first = column[0]
            canary = [proven[first.key.family]] if first.key.family in proven else []
            inside = [self._array(p).name for p in first.parents if p in chains[0].jobs]
            others = [Dependency("aftercorr", name) for name in inside] or self._named(first)
            self._add(column, (*canary, *others))

    def _array(self, job: Job) -> JobArray:
        return self._places[job][0]

    def _named(self, job: Job) -> list[Dependency]:
        """Dependencies on elements of whatever index."""
        indices: dict[str, list[int]] = {}
        sizes: dict[str, int] = {}
        for parent in job.parents:
            array, index = self._places[parent]
            indices.setdefault(array.name, []).append(index)
            sizes[array.name] = len(array.elements)
        for element in sorted(job.in_flight):
            array_id, _, index_text = element.partition("_")
            indices.setdefault(array_id, []).append(int(index_text))
        return [
            Dependency("afterok", name, index)
            for name, own in indices.items()
            for index in ([None] if len(own) == sizes.get(name) else sorted(own))
        ]

    def _add(self, column: Sequence[Job], dependencies: tuple[Dependency, ...]) -> None:
        key = column[0].key
        name = f"{key.kind}-{self._n_arrays[key.kind]}"
        self._n_arrays[key.kind] += 1
        is_canary = key.family in self._large and key.family not in self._canaries
        elements = tuple(tuple(job.batches) for job in column)
        array = JobArray(name, key.kind, key.request, elements, dependencies, is_canary)
        if len(column) > self._room:
            self._open_wave()
        self.waves[-1].append(array)
        self._room -= len(column)
        self._places |= {job: (array, i) for i, job in enumerate(column)}
        if is_canary:
            self._canaries[key.family] = Dependency("afterok", name, 0)
