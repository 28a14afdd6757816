"""Planning of job arrays: every batch once, no array above a limit, every dependency expressed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.cluster.arrays import ArrayPlan, Dependency, JobArray, plan_arrays
from toolkit.cluster.batches import Batch
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.profiles import JobRequest
from toolkit.task import TaskKind

EXTRACT, ENCODE = TaskKind.EXTRACT, TaskKind.ENCODE
SMALL = JobRequest(n_cpus=1, n_gpus=0, memory_gb=1, timeout_min=10)
LARGE = JobRequest(n_cpus=8, n_gpus=1, memory_gb=32, timeout_min=60)
NO_LIMITS = ArrayLimits(max_array_size=10**6)


def request_of(batch: Batch) -> JobRequest:
    return LARGE if batch.name.endswith("!") else SMALL


def extraction(name: str, *waits_for: str) -> Batch:
    return Batch(name, EXTRACT, (f"extract-{name}",), frozenset(waits_for))


def readout(name: str, *parents: str, n_tasks: int = 1) -> Batch:
    ids = tuple(f"encode-{name}-{i}" for i in range(n_tasks))
    return Batch(name, ENCODE, ids, frozenset(f"extract-{parent}" for parent in parents))


def networks(n: int, *, n_shards: int = 1, n_readouts: int = 1) -> list[Batch]:
    """The batches of a sweep: a network's read-outs follow its extraction."""
    batches = []
    for i in range(n):
        shards = [f"{i}.{s}" for s in range(n_shards)]
        batches += [extraction(shard) for shard in shards]
        batches += [readout(f"{i}.{r}", *shards) for r in range(n_readouts)]
    return batches


def family_of_name(batch: Batch) -> str:
    return f"{batch.kind} {batch.name[0]}"


Place = tuple[JobArray, int]


def places(plan: ArrayPlan) -> dict[str, Place]:
    """Array and index of each task."""
    return {
        task_id: (array, index)
        for array in plan.arrays
        for index, task_ids in enumerate(array.task_ids)
        for task_id in task_ids
    }


def waited_for(array: JobArray, index: int, arrays: dict[str, JobArray]) -> set[tuple[str, int]]:
    """All elements that one element waits for, as Slurm understands its array's dependencies."""
    found = set()
    for dependency in array.dependencies:
        if dependency.condition == "aftercorr":
            found.add((dependency.on, index))
        elif dependency.index is not None:
            found.add((dependency.on, dependency.index))
        else:
            found |= {(dependency.on, i) for i in range(len(arrays[dependency.on].elements))}
    return found


def check(
    plan: ArrayPlan,
    batches: Sequence[Batch],
    limits: ArrayLimits,
    in_flight: dict[str, str] | None = None,
) -> None:
    """Everything that must hold of any plan."""
    planned = [batch for array in plan.arrays for element in array.elements for batch in element]
    assert Counter(map(id, planned)) == Counter(map(id, batches))

    room = (limits.max_submit or 10**9) - limits.n_queued
    for wave in plan.waves:
        assert sum(len(array.elements) for array in wave) <= max(room, 0)
        room = limits.max_submit or 10**9
    assert all(plan.waves[1:])
    assert plan.waves[0] or not batches or limits.n_queued
    seen: list[str] = []
    for array in plan.arrays:
        assert 0 < len(array.elements) <= limits.max_array_size
        inside = {batch.kind for element in array.elements for batch in element}
        assert inside == {array.kind}
        assert {request_of(b) for element in array.elements for b in element} == {array.request}
        assert all(d.on in seen or d.on.isdigit() for d in array.dependencies)
        seen.append(array.name)

    place, arrays = places(plan), {array.name: array for array in plan.arrays}
    canaries = {family_of_name(a.elements[0][0]): a.name for a in plan.arrays if a.is_canary}
    for array in plan.arrays:
        for index, element in enumerate(array.elements):
            own = {task_id for batch in element for task_id in batch.task_ids}
            needed = {i for batch in element for i in batch.waits_for} - own
            expected = {(place[i][0].name, place[i][1]) for i in needed if i in place}
            for task_id in needed - place.keys():
                job, _, job_index = (in_flight or {}).get(task_id, "").partition("_")
                expected |= {(job, int(job_index))} if job else set()
            waited = waited_for(array, index, arrays)
            assert expected <= waited
            canary = canaries.get(family_of_name(element[0]))
            assert waited - expected <= ({(canary, 0)} if canary else set())


@st.composite
def any_batches(draw: st.DrawFn) -> list[Batch]:
    """Batches that wait for any others before them, for some in the queue, and for done ones."""
    batches: list[Batch] = []
    for i in range(draw(st.integers(0, 14))):
        earlier = [task_id for batch in batches for task_id in batch.task_ids]
        possible = [*earlier, "extract-queued-0", "extract-queued-1", "extract-done"]
        waits_for = draw(st.sets(st.sampled_from(possible), max_size=4))
        kind = draw(st.sampled_from(TaskKind))
        ids = tuple(f"{kind}-{i}-{j}" for j in range(draw(st.integers(1, 3))))
        name = f"{i}{draw(st.sampled_from(['', '!']))}"
        batches.append(Batch(name, kind, ids, frozenset(waits_for)))
    return batches


@st.composite
def regular_batches(draw: st.DrawFn) -> list[Batch]:
    """Sweeps: networks of a few shapes, perhaps joined at the end or begun by one."""
    batches: list[Batch] = []
    for group in range(draw(st.integers(1, 3))):
        shape = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(0, 3))
        for batch in networks(shape[0], n_shards=shape[1], n_readouts=shape[2]):
            ids = tuple(f"{task_id}/{group}" for task_id in batch.task_ids)
            waits_for = frozenset(f"{task_id}/{group}" for task_id in batch.waits_for)
            batches.append(Batch(f"{group}.{batch.name}", batch.kind, ids, waits_for))
    if draw(st.booleans()):
        every = frozenset(task_id for batch in batches for task_id in batch.task_ids)
        batches.append(Batch("join", ENCODE, ("encode-join",), every))
    if draw(st.booleans()):
        batches = [extraction("start")] + [
            Batch(b.name, b.kind, b.task_ids, b.waits_for or frozenset({"extract-start"}))
            for b in batches
        ]
    return batches


limits_of_any_size = st.builds(
    ArrayLimits,
    max_array_size=st.integers(1, 8),
    max_submit=st.none() | st.integers(1, 12),
    n_queued=st.integers(0, 14),
)
IN_FLIGHT = {"extract-queued-0": "4711_3", "extract-queued-1": "4712_0"}


@settings(max_examples=120, deadline=None)
@given(
    batches=any_batches() | regular_batches(),
    limits=limits_of_any_size,
    sizes=st.fixed_dictionaries({kind: st.integers(1, 6) for kind in TaskKind}),
)
def test_every_batch_once_within_limits_after_exactly_what_it_waits_for(
    batches: list[Batch], limits: ArrayLimits, sizes: dict[TaskKind, int]
) -> None:
    plan = plan_arrays(batches, limits, request_of, tasks_per_job=sizes, in_flight=IN_FLIGHT)
    check(plan, batches, limits, IN_FLIGHT)
    for array in plan.arrays:
        for element in array.elements:
            n_tasks = sum(len(batch.task_ids) for batch in element)
            assert len(element) == 1 or n_tasks <= sizes[array.kind]


@settings(max_examples=100, deadline=None)
@given(
    batches=any_batches() | regular_batches(),
    limits=limits_of_any_size,
    canary_above=st.integers(0, 8),
)
def test_a_large_family_waits_for_its_first_element(
    batches: list[Batch], limits: ArrayLimits, canary_above: int
) -> None:
    plan = plan_arrays(
        batches, limits, request_of, family_of=family_of_name, canary_above=canary_above
    )
    check(plan, batches, limits)
    for family in {family_of_name(batch) for batch in batches}:
        own = [a for a in plan.arrays if family_of_name(a.elements[0][0]) == family]
        n_tasks = sum(len(ids) for array in own for ids in array.task_ids)
        canaries = [array for array in own if array.is_canary]
        n_elements = sum(len(array.elements) for array in own)
        assert len(canaries) == (n_tasks > canary_above and n_elements > 1)
        for canary in canaries:
            assert canary is own[0]
            assert len(canary.elements) == 1
            waiting = [
                a for a in own[1:] if Dependency("afterok", canary.name, 0) in a.dependencies
            ]
            exempt = [a for a in own[1:] if a not in waiting]
            # Only what shares the canary's chain does not wait for it.
            assert all(len(array.elements) == 1 for array in exempt)


def describe(plan: ArrayPlan) -> list[tuple[str, int, set[str]]]:
    """Name, size and dependencies of each array, short."""
    return [
        (
            array.name,
            len(array.elements),
            {
                f"{d.condition}:{d.on}" + ("" if d.index is None else f"_{d.index}")
                for d in array.dependencies
            },
        )
        for array in plan.arrays
    ]


def test_a_network_is_encoded_as_soon_as_it_is_extracted() -> None:
    plan = plan_arrays(networks(1000), ArrayLimits(400), request_of)
    assert describe(plan) == [
        ("extract-0", 400, set()),
        ("encode-0", 400, {"aftercorr:extract-0"}),
        ("extract-1", 400, set()),
        ("encode-1", 400, {"aftercorr:extract-1"}),
        ("extract-2", 200, set()),
        ("encode-2", 200, {"aftercorr:extract-2"}),
    ]


def test_shards_lie_side_by_side() -> None:
    plan = plan_arrays(networks(50, n_shards=3, n_readouts=2), NO_LIMITS, request_of)
    by_index = {"aftercorr:extract-0", "aftercorr:extract-1", "aftercorr:extract-2"}
    assert describe(plan) == [
        ("extract-0", 50, set()),
        ("extract-1", 50, set()),
        ("extract-2", 50, set()),
        ("encode-0", 50, by_index),
        ("encode-1", 50, by_index),
    ]


def test_one_network_in_many_shards_is_one_array() -> None:
    plan = plan_arrays(networks(1, n_shards=30), NO_LIMITS, request_of)
    assert describe(plan) == [
        ("extract-0", 30, set()),
        ("encode-0", 1, {"afterok:extract-0"}),
    ]


def test_many_that_wait_for_the_same_are_one_array() -> None:
    batches = [extraction("all"), *(readout(str(i), "all") for i in range(20))]
    assert describe(plan_arrays(batches, NO_LIMITS, request_of)) == [
        ("extract-0", 1, set()),
        ("encode-0", 20, {"afterok:extract-0"}),
    ]


def test_one_that_waits_for_some_names_them() -> None:
    batches = [extraction(str(i)) for i in range(5)]
    batches.append(readout("two", "1", "3"))
    assert describe(plan_arrays(batches, NO_LIMITS, request_of)) == [
        ("extract-0", 5, set()),
        ("encode-0", 1, {"afterok:extract-0_1", "afterok:extract-0_3"}),
    ]


def test_the_queue_takes_whole_networks_first() -> None:
    plan = plan_arrays(networks(10), ArrayLimits(1000, max_submit=8, n_queued=2), request_of)
    assert [[len(array.elements) for array in wave] for wave in plan.waves] == [
        [3, 3],
        [4, 4],
        [3, 3],
    ]


def test_a_full_queue_takes_nothing_now() -> None:
    plan = plan_arrays(networks(2), ArrayLimits(1000, max_submit=8, n_queued=8), request_of)
    assert [len(wave) for wave in plan.waves] == [0, 2]


def test_more_shards_than_the_queue_takes_are_still_submitted() -> None:
    plan = plan_arrays(networks(1, n_shards=2, n_readouts=3), ArrayLimits(9, 2), request_of)
    assert [[len(array.elements) for array in wave] for wave in plan.waves] == [[2], [2], [1]]


def test_a_chain_longer_than_the_queue_is_submitted_in_parts() -> None:
    batches = networks(2, n_shards=2, n_readouts=1)
    plan = plan_arrays(batches, ArrayLimits(9, max_submit=2), request_of)
    assert describe(plan)[-1] == ("encode-1", 1, {"aftercorr:extract-2", "aftercorr:extract-3"})
    assert [[len(array.elements) for array in wave] for wave in plan.waves] == [[1, 1], [1]] * 2


def test_small_tasks_share_a_job_and_their_readouts_follow() -> None:
    plan = plan_arrays(networks(12), NO_LIMITS, request_of, tasks_per_job={EXTRACT: 4, ENCODE: 4})
    assert describe(plan) == [("extract-0", 3, set()), ("encode-0", 3, {"aftercorr:extract-0"})]
    assert plan.arrays[0].task_ids[1] == [f"extract-{i}.0" for i in range(4, 8)]


def test_batches_are_not_cut_to_share_a_job() -> None:
    batches = [readout(str(i), n_tasks=3) for i in range(4)]
    plan = plan_arrays(batches, NO_LIMITS, request_of, tasks_per_job={ENCODE: 7})
    assert [len(ids) for ids in plan.arrays[0].task_ids] == [6, 6]


def test_canaries_of_both_stages_are_of_the_same_network() -> None:
    plan = plan_arrays(networks(100), NO_LIMITS, request_of, canary_above=50)
    assert describe(plan) == [
        ("extract-0", 1, set()),
        ("encode-0", 1, {"aftercorr:extract-0"}),
        ("extract-1", 99, {"afterok:extract-0_0"}),
        ("encode-1", 99, {"afterok:encode-0_0", "aftercorr:extract-1"}),
    ]
    assert [array.is_canary for array in plan.arrays] == [True, True, False, False]


def test_a_small_family_has_no_canary() -> None:
    plan = plan_arrays(networks(50), NO_LIMITS, request_of, canary_above=50)
    assert len(plan.arrays) == 2


def test_a_batch_that_comes_before_its_parent_is_refused() -> None:
    with pytest.raises(ValueError, match="'r' comes before extract-x, which it waits for"):
        plan_arrays([readout("r", "x"), extraction("x")], NO_LIMITS, request_of)


def test_ten_thousand_networks_are_planned_at_once() -> None:
    plan = plan_arrays(networks(10_000), ArrayLimits(1001), request_of)
    assert len(plan.arrays) == 20
