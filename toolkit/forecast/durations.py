"""How long tasks will take, as a range, from what tasks like them took."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from toolkit.forecast.measurements import Likeness, Measured, likeness_of, size_of
from toolkit.task import Task, TaskKind

# Fewer values say little about their quartiles.
_LEAST_FOR_QUARTILES = 8

# For each number of parts of a likeness that agree, how people call it.
_ALIKE = {
    TaskKind.EXTRACT: {
        3: "same network and form",
        2: "same network, other forms",
        1: "other networks: a wide range",
    },
    TaskKind.TRAIN: {
        3: "same network, trained alike",
        2: "same network, trained otherwise",
        1: "other networks: a wide range",
    },
    TaskKind.ENCODE: {
        3: "same read-out and data set",
        2: "same read-out, other data sets",
        1: "other read-outs: a wide range",
    },
}
NOTHING_LIKE_IT = "nothing like it has run yet here"


@dataclass(frozen=True)
class Span:
    """A range of seconds or hours."""

    low: float
    high: float

    def __mul__(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor)

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)


@dataclass(frozen=True)
class Prediction:
    """What tasks take together.

    Parameters
    ----------
    seconds
        One after the other; None if for one of them nothing like it was measured.
    basis
        What it rests on, in words; empty if there are no tasks.
    """

    seconds: Span | None
    basis: str


class Measurements:
    """What was measured in the run folder at hand, and if that is not enough, beside it.

    Parameters
    ----------
    here
        Of this run.
    beside
        Gives those of others; called once, when they are needed.
    """

    def __init__(self, here: Iterable[Measured], beside: Callable[[], Iterable[Measured]]) -> None:
        self._here = _Index(here)
        self._read_beside = beside

    @cached_property
    def _beside(self) -> _Index:
        return _Index(self._read_beside())

    def like(self, kind: TaskKind, likeness: Likeness) -> tuple[int, str, _Group] | None:
        """The most alike there are: how many parts of the likeness agree, where, and what."""
        for n_parts in (3, 2, 1):
            if group := self._here.group(kind, likeness[:n_parts]):
                return n_parts, "here", group
            if group := self._beside.group(kind, likeness[:n_parts]):
                return n_parts, "in runs beside", group
        return None


def predict(tasks: Sequence[Task], device: str, measurements: Measurements) -> Prediction:
    """What tasks of one stage take.

    An extraction is predicted from seconds per image. They range from the least to the greatest
    that was measured or, for the same network and form measured at least eight times, between
    their quartiles. A read-out is predicted from those of the next smaller and the next larger
    number of features: from the least to the greatest seconds of both, or likewise their quartiles.
    Beyond the sizes measured, one end of the range stays and the other grows or shrinks in
    proportion to the features, because some of the work does (the Gram matrix) and some does not.

    The ranges of single tasks are added end to end, so the sum is wider than chance would make it.
    How many cores the measured jobs had is not taken into account, nor are the start of jobs and
    their time in the queue.

    Parameters
    ----------
    tasks
        Of one stage.
    device
        Kind of device that they will run on: "cpu" or "cuda".
    measurements
        What there is to predict from.
    """
    total = Span(0.0, 0.0)
    n_tasks: Counter[tuple[int, str]] = Counter()
    groups: dict[tuple[int, str], set[_Group]] = defaultdict(set)
    alike = Counter((task.kind, likeness_of(task, device), size_of(task)) for task in tasks)
    for (kind, likeness, size), n in alike.items():
        found = measurements.like(kind, likeness)
        if found is None:
            return Prediction(None, NOTHING_LIKE_IT)
        n_parts, where, group = found
        total += group.seconds(size) * n
        n_tasks[n_parts, where] += n
        groups[n_parts, where].add(group)
    lines = [
        f"{n} of them from {sum(map(len, groups[key]))} measured {key[1]} "
        f"({_ALIKE[tasks[0].kind][key[0]]})"
        for key, n in sorted(n_tasks.items(), key=lambda item: (-item[0][0], item[0][1]))
    ]
    return Prediction(total, "; ".join(lines))


class _Index:
    """Measured tasks by stage and by the first parts of their likeness."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        members: dict[tuple[TaskKind, tuple[str, ...]], list[Measured]] = defaultdict(list)
        for each in measured:
            for n_parts in (1, 2, 3):
                members[each.kind, each.likeness[:n_parts]].append(each)
        self._groups = {
            key: (_PerFeatures if key[0] is TaskKind.ENCODE else _PerImage)(
                some, are_alike=len(key[1]) == 3
            )
            for key, some in members.items()
        }

    def group(self, kind: TaskKind, likeness: tuple[str, ...]) -> _Group | None:
        return self._groups.get((kind, likeness))


class _PerImage:
    """Tasks whose seconds are in proportion to the images."""

    def __init__(self, measured: Sequence[Measured], *, are_alike: bool) -> None:
        self._n = len(measured)
        self._per_image = _spread([m.seconds / m.size for m in measured], are_alike)

    def __len__(self) -> int:
        return self._n

    def seconds(self, n_images: float) -> Span:
        return self._per_image * n_images


class _PerFeatures:
    """Tasks whose seconds grow with the features, at most in proportion to them."""

    def __init__(self, measured: Sequence[Measured], *, are_alike: bool) -> None:
        self._n = len(measured)
        by_size: dict[float, list[float]] = defaultdict(list)
        for each in measured:
            by_size[each.size].append(each.seconds)
        self._sizes = sorted(by_size)
        self._spans = [_spread(by_size[size], are_alike) for size in self._sizes]

    def __len__(self) -> int:
        return self._n

    def seconds(self, n_features: float) -> Span:
        at = bisect_left(self._sizes, n_features)
        if at == len(self._sizes):
            nearest = self._spans[-1]
            return Span(nearest.low, nearest.high * n_features / self._sizes[-1])
        above = self._spans[at]
        if self._sizes[at] == n_features:
            return above
        if at == 0:
            return Span(above.low * n_features / self._sizes[0], above.high)
        below = self._spans[at - 1]
        return Span(min(below.low, above.low), max(below.high, above.high))


_Group = _PerImage | _PerFeatures


def _spread(values: Sequence[float], are_alike: bool) -> Span:
    enough = are_alike and len(values) >= _LEAST_FOR_QUARTILES
    low, high = np.quantile(values, (0.25, 0.75) if enough else (0.0, 1.0))
    return Span(float(low), float(high))
