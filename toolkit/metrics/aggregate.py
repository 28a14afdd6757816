"""From one score per split and neuron to the numbers that are reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.errors import MetricError


@dataclass(frozen=True)
class Summary:
    """Aggregates of one score; scores that are NaN are left out, and their neurons counted.

    Attributes
    ----------
    mean
        Mean over neurons, then over splits (what course reports give).
    median
        Median over neurons, then mean over splits (what Brain-Score gives).
    median_sem
        Standard error of that mean over splits, as :func:`sem`.
    n_neurons
        Neurons in all.
    n_undefined
        Neurons with no score in at least one split.
    """

    mean: float
    median: float
    median_sem: float
    n_neurons: int
    n_undefined: int


def summarise(scores: ArrayLike) -> Summary:
    """Aggregate scores over neurons and splits.

    Parameters
    ----------
    scores
        (n_splits, n_neurons).

    Raises
    ------
    MetricError
        If there are not two axes or no split.
    """
    scores = _checked_scores(scores)
    medians = _over_neurons(np.median, scores)
    return Summary(
        mean=float(mean_over_splits(_over_neurons(np.mean, scores))),
        median=float(mean_over_splits(medians)),
        median_sem=sem(medians),
        n_neurons=scores.shape[1],
        n_undefined=int(np.isnan(scores).any(axis=0).sum()),
    )


def median_over_neurons(scores: ArrayLike) -> float:
    """Median over the neurons that have a score, then mean over splits.

    Parameters
    ----------
    scores
        (n_splits, n_neurons). A split that scores no neuron is left out; NaN if all are.
    """
    return float(mean_over_splits(_over_neurons(np.median, _checked_scores(scores))))


def mean_over_neurons(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean of each split over the neurons that have a score in it, (n_splits,), or NaN.

    Parameters
    ----------
    scores
        (n_splits, n_neurons).
    """
    return _over_neurons(np.mean, _checked_scores(scores))


def mean_over_splits(scores: ArrayLike) -> NDArray[np.float64]:
    """Mean over the splits in which a score exists, NaN where there is none.

    Parameters
    ----------
    scores
        (n_splits, …): a neuron that is silent in one of ten test sets keeps its score in nine.
    """
    scores = np.asarray(scores, dtype=np.float64)
    defined = ~np.isnan(scores)
    n_defined = defined.sum(axis=0)
    return scores.sum(axis=0, where=defined) / np.where(n_defined == 0, np.nan, n_defined)


def sem(values: ArrayLike) -> float:
    """Standard error of the mean over splits, as Brain-Score computes it.

    The population standard deviation over sqrt(n_splits). Splits share training images, so their
    values are not independent, and this is below the error that new images would show.

    Parameters
    ----------
    values
        One value per split, (n_splits,); NaN where a split has none: it is left out.

    Returns
    -------
    NaN where fewer than two splits have a value: a single one says nothing of its error.

    Raises
    ------
    MetricError
        If there is not one axis, or no split.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise MetricError(f"values have shape {values.shape}: give one per split, (n_splits,)")
    defined = values[~np.isnan(values)]
    return float(defined.std() / np.sqrt(len(defined))) if len(defined) > 1 else float("nan")


def ceiled_2026(r: ArrayLike, ceiling: ArrayLike) -> float:
    """Brain-Score's ceiled score since January 2026, median(r)² / c.

    Parameters
    ----------
    r
        Pearson r of the predictions, (n_splits, n_neurons).
    ceiling
        Split-half ceilings, (n_ceiling_splits, n_neurons), from
        :func:`toolkit.metrics.split_half_ceiling`.

    Returns
    -------
    NaN where the ceiling is not positive. Both are aggregated by :func:`median_over_neurons`; the
    square drops the sign, so read a small value beside the median r itself.
    """
    return median_over_neurons(r) ** 2 / _positive(median_over_neurons(ceiling))


def ceiled_2018(r: ArrayLike, ceiling: ArrayLike) -> float:
    """Brain-Score's ceiled score from 2018 until January 2026, (median(r) / c)².

    Parameters and result are those of :func:`ceiled_2026`.
    """
    return (median_over_neurons(r) / _positive(median_over_neurons(ceiling))) ** 2


def _positive(value: float) -> float:
    return value if value > 0 else float("nan")


def _checked_scores(scores: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 2 or len(scores) == 0:
        raise MetricError(
            f"scores have shape {scores.shape}: give (n_splits, n_neurons); "
            "for a single split write scores[None]"
        )
    return scores


def _over_neurons(
    reduce: Callable[[NDArray[np.float64]], np.floating], scores: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Reduce each split's scores, NaN left out; NaN for a split without any."""
    defined = [split[~np.isnan(split)] for split in scores]
    return np.array([reduce(split) if split.size else np.nan for split in defined])
