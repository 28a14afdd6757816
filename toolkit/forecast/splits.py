"""Job arrays against the cluster's limits, in words."""

from __future__ import annotations

from toolkit.cluster.arrays import ArrayPlan
from toolkit.cluster.limits import ArrayLimits


def describe_arrays(plan: ArrayPlan, limits: ArrayLimits) -> list[str]:
    """A line for each stage: its arrays, their sizes, and in how many waves they are submitted.

    ``extract: 3 arrays of up to 1000 jobs (MaxArraySize 1000), in 2 waves (at most 500 of your
    jobs may be queued, 20 are)``
    """
    kinds = dict.fromkeys(array.kind for array in plan.arrays)
    lines = []
    for kind in kinds:
        sizes = [len(array.elements) for array in plan.arrays if array.kind is kind]
        n_waves = sum(any(array.kind is kind for array in wave) for wave in plan.waves)
        n_canaries = sum(array.is_canary for array in plan.arrays if array.kind is kind)
        most = limits.max_array_size
        words = [
            f"{_count(len(sizes), 'array')} of up to {_count(max(sizes), 'job')} "
            f"(MaxArraySize {most if most is not None else 'not known'})"
        ]
        if n_canaries:
            words.append(f"{_count(n_canaries, 'of them a canary', 'of them canaries')}")
        if limits.max_submit is not None:
            words.append(
                f"{_count(n_waves, 'wave')} (at most {limits.max_submit} of your jobs may be "
                f"queued, {limits.n_queued} are)"
            )
        lines.append(f"{kind}: {', '.join(words)}")
    return lines


def _count(n: int, singular: str, plural: str = "") -> str:
    return f"{n} {singular if n == 1 else plural or singular + 's'}"
