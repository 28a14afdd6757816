"""How good a data set is: ceilings, silent units, drift, duplicated images, leaking splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.data.dataset import NeuralDataset, Timeline
from toolkit.data.errors import MissingDataError
from toolkit.data.stimuli import Stimuli

N_SHUFFLES = 10


@dataclass(frozen=True, eq=False)
class Quality:
    """What :func:`assess` found.

    Parameters
    ----------
    dataset
        The data set.
    n_presentations
        (n_stimuli,) presentations of each stimulus, in the session that showed it most; 1 where
        the source holds averages only.
    ceilings
        (n_neuroids,) split-half reliability, mean over the halvings; NaN where there is none.
    chance
        (N_SHUFFLES, n_neuroids) what it is when the presentations of a neuroid are dealt out to the
        stimuli at random, one halving for each shuffle.
    before_onset
        (n_neuroids,) what it is in a window of the same length that ends when the stimulus appears;
        None if the source does not tell.
    is_silent, is_constant
        (n_neuroids,) bool: no response at all; the same response, not 0, to every stimulus.
    drift
        (n_neuroids,) mean response in the second half of the session minus that in the first, in
        standard deviations of single presentations; NaN if it cannot be known.
    drift_over
        What the halves are halves of: ``"time"``, ``"repetitions"``, or empty if unknown.
    duplicates
        Ids of stimuli with identical pixels, a tuple per set, however their files are stored; None
        if there are no images here.
    leaks
        Ids of stimuli that are shown, as identical copies, in different splits.
    """

    dataset: NeuralDataset
    n_presentations: np.ndarray
    ceilings: np.ndarray
    chance: np.ndarray
    before_onset: np.ndarray | None
    is_silent: np.ndarray
    is_constant: np.ndarray
    drift: np.ndarray
    drift_over: str
    duplicates: tuple[tuple[str, ...], ...] | None
    leaks: tuple[str, ...]

    @property
    def areas(self) -> dict[str, np.ndarray]:
        """Area → indices of its neuroids, in the order in which they first come."""
        regions = np.array(self.dataset.regions, dtype=object)
        return {area: np.flatnonzero(regions == area) for area in dict.fromkeys(regions)}

    @property
    def is_above_chance(self) -> np.ndarray:
        """(n_neuroids,) bool: a ceiling above that of every shuffle."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.ceilings > np.nan_to_num(self.chance, nan=-np.inf).max(axis=0))

    @property
    def classes(self) -> dict[str, dict[str, int]]:
        """Kind of label → label → number of stimuli, most frequent first."""
        labels = {"category": self.dataset.category_names, "object": self.dataset.object_names}
        return {kind: dict(Counter(names).most_common()) for kind, names in labels.items() if names}


def assess(dataset: NeuralDataset, before_onset: NeuralDataset | None = None) -> Quality:
    """Compute everything a data-quality report says; decodes every image once.

    Parameters
    ----------
    dataset
        Any data set.
    before_onset
        The same neuroids' responses in a window before the stimuli, if the source has them.

    Raises
    ------
    DataError
        If an image cannot be read.
    """
    responses = dataset.responses
    present = ~np.isnan(responses)
    highest = np.max(responses, axis=0, where=present, initial=-np.inf)
    lowest = np.min(responses, axis=0, where=present, initial=np.inf)
    is_silent = (highest == 0) & (lowest == 0)
    drift, drift_over = _drift(dataset)
    copies = _duplicates(dataset.stimuli)
    return Quality(
        dataset=dataset,
        n_presentations=_n_presentations(dataset),
        ceilings=_ceilings(dataset.repetitions, n_neuroids=responses.shape[1]),
        chance=_chance(dataset),
        before_onset=None
        if before_onset is None
        else _ceilings(before_onset.repetitions, n_neuroids=responses.shape[1]),
        is_silent=is_silent,
        is_constant=(highest == lowest) & ~is_silent,
        drift=drift,
        drift_over=drift_over,
        duplicates=None if copies is None else tuple(_ids(dataset, same) for same in copies),
        leaks=_leaks(dataset, copies or ()),
    )


def median_known(values: np.ndarray) -> float:
    """Median of what is finite; NaN if nothing is."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _n_presentations(dataset: NeuralDataset) -> np.ndarray:
    if dataset.repetitions is None:
        return np.ones(len(dataset.stimuli), dtype=np.int64)
    return np.array([np.max(np.sum(~np.isnan(r), axis=1)) for r in dataset.repetitions])


def _ceilings(
    repetitions: np.ndarray | None, *, n_neuroids: int, n_splits: int = 10, random_state: int = 1
) -> np.ndarray:
    from toolkit.metrics import MetricError, split_half_ceiling

    unknown = np.full(n_neuroids, np.nan)
    if repetitions is None:
        return unknown
    try:
        halvings = split_half_ceiling(repetitions, n_splits=n_splits, random_state=random_state)
    except MetricError:  # a single repetition has no halves
        return unknown
    n_known = np.sum(~np.isnan(halvings), axis=0)
    return np.nansum(halvings, axis=0) / np.where(n_known == 0, np.nan, n_known)


def _chance(dataset: NeuralDataset) -> np.ndarray:
    n_neuroids = len(dataset.neuroid_ids)
    if dataset.repetitions is None:
        return np.full((N_SHUFFLES, n_neuroids), np.nan)
    rng = np.random.default_rng(0)
    return np.stack(
        [
            _ceilings(
                _shuffled(dataset.repetitions, rng),
                n_neuroids=n_neuroids,
                n_splits=1,
                random_state=number,
            )
            for number in range(N_SHUFFLES)
        ]
    )


def _shuffled(repetitions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each neuroid's presentations in random order over the places where there was one."""
    shuffled = repetitions.copy()
    for neuroid in range(shuffled.shape[1]):
        values = shuffled[:, neuroid]
        is_presented = ~np.isnan(values)
        values[is_presented] = rng.permutation(values[is_presented])
    return shuffled


def _drift(dataset: NeuralDataset) -> tuple[np.ndarray, str]:
    drift = np.full(len(dataset.neuroid_ids), np.nan)
    if dataset.timelines:
        for timeline in dataset.timelines:
            drift[timeline.neuroids] = _drift_over_time(timeline)
        return drift, "time"
    if dataset.repetitions is None or dataset.repetitions.shape[2] < 2:
        return drift, ""
    for neuroid in range(len(drift)):
        drift[neuroid] = _drift_over_repetitions(dataset.repetitions[:, neuroid])
    return drift, "repetitions"


def _drift_over_time(timeline: Timeline) -> np.ndarray:
    half_s = (timeline.time_s[0] + timeline.time_s[-1]) / 2
    is_late = timeline.time_s > half_s
    if is_late.all() or not is_late.any():
        return np.full(len(timeline.neuroids), np.nan)
    responses = timeline.responses.astype(np.float64)
    difference = responses[is_late].mean(axis=0) - responses[~is_late].mean(axis=0)
    return _standardised(difference, responses.std(axis=0))


def _drift_over_repetitions(values: np.ndarray) -> float:
    """Of one neuroid, (n_stimuli, n_repetitions), each stimulus compared with itself only."""
    values = values.astype(np.float64)
    n_presented = np.sum(~np.isnan(values), axis=1, keepdims=True)
    residual = values - np.nansum(values, axis=1, keepdims=True) / np.where(
        n_presented == 0, np.nan, n_presented
    )
    half = values.shape[1] // 2
    early, late = residual[:, :half], residual[:, half:]
    if np.isnan(early).all() or np.isnan(late).all():
        return float("nan")
    spread = values[~np.isnan(values)].std()
    return float(_standardised(np.nanmean(late) - np.nanmean(early), spread))


def _standardised(difference: np.ndarray | float, deviation: np.ndarray | float) -> np.ndarray:
    return np.asarray(difference / np.where(deviation == 0, np.nan, deviation))


def _duplicates(stimuli: Stimuli) -> list[tuple[int, ...]] | None:
    same: dict[bytes, list[int]] = {}
    try:
        for index in range(len(stimuli)):
            pixels = np.ascontiguousarray(stimuli[index])
            sha = hashlib.sha256(f"{pixels.dtype.str}{pixels.shape}".encode())
            sha.update(pixels.data)
            same.setdefault(sha.digest(), []).append(index)
    except MissingDataError:
        return None
    return [tuple(indices) for indices in same.values() if len(indices) > 1]


def _leaks(dataset: NeuralDataset, copies: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    split_of = {i: name for name, index in dataset.splits.items() for i in index.tolist()}
    leaking = [same for same in copies if len({split_of[i] for i in same if i in split_of}) > 1]
    return tuple(id_ for same in leaking for id_ in _ids(dataset, same))


def _ids(dataset: NeuralDataset, indices: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(dataset.stimuli.ids[i] for i in indices)
