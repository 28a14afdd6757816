"""``NeuralDataset``: the one shape in which every source hands over images and responses."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from toolkit.data.errors import DataError
from toolkit.data.stimuli import Stimuli

SPLIT_NAMES = ("train", "val", "test")
_N_NAMED = 5  # offenders listed in a message before "…"


@dataclass(frozen=True)
class DatasetSize:
    """How large a data set is, as far as file headers tell."""

    n_stimuli: int
    n_neuroids: int
    split_sizes: dict[str, int]


@dataclass(frozen=True, eq=False)
class Timeline:
    """The responses of one recording session in the order of time.

    Parameters
    ----------
    session
        Name of the session.
    time_s
        (n_presentations,) increasing, seconds since the recording began.
    neuroids
        (m,) indices of the neuroids recorded in it.
    responses
        float32 (n_presentations, m).
    """

    session: str
    time_s: np.ndarray
    neuroids: np.ndarray
    responses: np.ndarray


@dataclass(frozen=True, eq=False)
class NeuralDataset:
    """Images and what neurons did when they were shown. Checked on construction.

    Parameters
    ----------
    name
        What tables and figures call it.
    stimuli
        The images.
    responses
        float64 (n_stimuli, n_neuroids), averaged over repetitions; finite, or NaN where a neuron
        was not recorded if ``masks_missing``.
    repetitions
        float32 or float64 (n_stimuli, n_neuroids, n_repetitions), NaN = not presented; None when
        the source holds averages only.
    neuroid_ids
        One unique id per neuron or site; see :func:`positional_ids` where the source names none.
    regions
        One brain area per neuroid.
    object_names, category_names
        One label per stimulus, or None.
    splits
        ``"train"``, ``"val"``, ``"test"`` → sorted stimulus indices without overlap; empty when
        the source declares none.
    explainable_variance
        (n_neuroids,), known for synthetic data only: the share of the averaged responses'
        variance that the stimulus decides.
    oracle_features
        (n_stimuli, d), synthetic data only: what the neurons are linear in.
    masks_missing
        Whether NaN responses are accepted as missing.
    visual_degrees
        Width of an image when the animal saw it, degrees of visual angle, where that is known.
    metadata
        What else is known of the stimuli: column name → (n_stimuli,) values.
    timelines
        The recording sessions, where the source tells when each presentation was.
    dropped
        Why presentations were left out → how many.
    source
        The file that messages about the responses name; the data set's name if empty.
    notes
        What the loader took for granted and a person should look at, a line each: which file goes
        with which row, which columns are neurons.

    Raises
    ------
    DataError
        If lengths disagree, ids repeat, a response is NaN or infinite, or a split is unknown,
        empty or overlaps another.
    """

    name: str
    stimuli: Stimuli
    responses: np.ndarray
    repetitions: np.ndarray | None
    neuroid_ids: tuple[str, ...]
    regions: tuple[str, ...]
    object_names: tuple[str, ...] | None
    category_names: tuple[str, ...] | None
    splits: dict[str, np.ndarray]
    explainable_variance: np.ndarray | None = None
    oracle_features: np.ndarray | None = None
    masks_missing: bool = False
    visual_degrees: float | None = None
    metadata: Mapping[str, np.ndarray] = field(default_factory=dict)
    timelines: tuple[Timeline, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        source = self.source or f"data set {self.name!r}"
        self._check_shapes(source)
        check_unique(self.stimuli.ids, "stimulus id", source)
        check_unique(self.neuroid_ids, "neuroid id", source)
        self._check_finite(source)
        _check_splits(self.splits, self.stimuli.ids, source)

    def responses_digest(self) -> str:
        """SHA-256 (hexadecimal) over all that a score depends on, except the images.

        Covers responses, repetitions, neuroid ids, regions, labels and splits; not the name, nor
        what only describes the data. Equal values give equal digests, whatever their types.
        """
        header = {
            "neuroid_ids": self.neuroid_ids,
            "regions": self.regions,
            "object_names": self.object_names,
            "category_names": self.category_names,
            "splits": {name: index.tolist() for name, index in sorted(self.splits.items())},
        }
        sha = hashlib.sha256(json.dumps(header).encode())
        for array in (self.responses, self.repetitions):
            if array is None:
                sha.update(b"none")
                continue
            sha.update(f"{array.shape}".encode())
            for row in array:
                sha.update(_canonical(row).data)
        return sha.hexdigest()

    def _check_shapes(self, source: str) -> None:
        n_stimuli, n_neuroids = len(self.stimuli), len(self.neuroid_ids)
        if n_stimuli == 0 or n_neuroids == 0:
            raise DataError(f"{source}: {n_stimuli} stimuli and {n_neuroids} neuroids; need both")
        if self.responses.dtype != np.float64:
            raise DataError(f"{source}: responses are {self.responses.dtype}, expected float64")
        axes = {"stimuli": n_stimuli, "neuroids": n_neuroids}
        metadata = self.metadata.items()
        for what, shape in (
            ("responses", self.responses.shape),
            ("repetitions", None if self.repetitions is None else self.repetitions.shape[:2]),
        ):
            if shape is not None and shape != (n_stimuli, n_neuroids):
                raise DataError(f"{source}: {what} have shape {shape}, but there are {axes}")
        for what, values, expected in (
            ("regions", self.regions, n_neuroids),
            ("object names", self.object_names, n_stimuli),
            ("category names", self.category_names, n_stimuli),
            ("explainable variances", self.explainable_variance, n_neuroids),
            ("rows of oracle features", self.oracle_features, n_stimuli),
            *((f"values of {column!r}", values, n_stimuli) for column, values in metadata),
        ):
            if values is not None and len(values) != expected:
                raise DataError(f"{source}: {len(values)} {what}, but there are {axes}")

    def _check_finite(self, source: str) -> None:
        accepted = np.isnan(self.responses) if self.masks_missing else False
        bad = np.argwhere(~np.isfinite(self.responses) & ~np.asarray(accepted))
        if bad.size:
            pairs = [
                f"neuron {self.neuroid_ids[neuroid]!r} to stimulus {self.stimuli.ids[stimulus]!r}"
                for stimulus, neuroid in bad[: _N_NAMED + 1]
            ]
            raise DataError(
                f"{source}: {len(bad)} of {self.responses.size} responses are NaN or infinite: "
                f"{shortened(pairs)}; each neuron needs at least one finite response to each "
                "image: remove those neurons or images, or write missing_responses: mask"
            )


def positional_ids(names: Iterable[str], responses: np.ndarray) -> tuple[str, ...]:
    """Ids of neuroids that are known by their position only: ``neuroid-000@5e1c0a92``.

    What follows the @ is of the responses' content, so that a neuron is never taken for the one at
    the same position of other data.

    Parameters
    ----------
    names
        What the positions are called.
    responses
        float64 (n_stimuli, n_neuroids).
    """
    sha = hashlib.sha256(f"{responses.shape}".encode())
    for row in responses:
        sha.update(_canonical(row).data)
    return tuple(f"{name}@{sha.hexdigest()[:8]}" for name in names)


def _canonical(values: np.ndarray) -> np.ndarray:
    """The same bytes for equal values, whatever the type and layout they are kept in."""
    return np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8", order="C")


def shortened(items: Sequence[object]) -> str:
    """The first few items as text, with an ellipsis if there are more."""
    return ", ".join(map(str, items[:_N_NAMED])) + (", …" if len(items) > _N_NAMED else "")


def check_unique(values: Sequence[str], what: str, source: object) -> None:
    """Raise :class:`DataError` naming the values that occur more than once."""
    repeated = [repr(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise DataError(f"{source}: {what} used more than once: {shortened(repeated)}")


def _check_splits(splits: dict[str, np.ndarray], ids: tuple[str, ...], source: str) -> None:
    for name, index in splits.items():
        if name not in SPLIT_NAMES:
            raise DataError(f"{source}: unknown split {name!r}; use one of {SPLIT_NAMES}")
        if len(index) == 0:
            raise DataError(f"{source}: split {name!r} has no stimuli")
        if index.min() < 0 or index.max() >= len(ids) or np.any(np.diff(index) <= 0):
            raise DataError(
                f"{source}: split {name!r} must hold increasing indices below {len(ids)}"
            )
    for one, other in combinations(splits, 2):
        common = np.intersect1d(splits[one], splits[other])
        if common.size:
            named = shortened([repr(ids[i]) for i in common])
            raise DataError(f"{source}: splits {one!r} and {other!r} overlap in stimuli {named}")
