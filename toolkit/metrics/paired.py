"""Two sets of scores of the same neurons: how far they differ, and how likely by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from toolkit.metrics.errors import MetricError
from toolkit.metrics.uncertainty import bootstrap_interval


@dataclass(frozen=True)
class PairedDifference:
    """How one score of each neuron differs from another.

    Attributes
    ----------
    mean
        Mean over neurons of the second score minus the first.
    low, high
        95 % percentile bootstrap interval over neurons of that mean.
    p_value
        Two-sided, of the sign-flip permutation test.
    n_neurons
        Neurons with both scores.
    """

    mean: float
    low: float
    high: float
    p_value: float
    n_neurons: int


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, n_resamples: int = 9_999, seed: int = 0
) -> PairedDifference:
    """Difference of two scores of the same neurons.

    If neither score were better, a neuron's two scores could be exchanged: the test flips the signs
    of the neurons' differences at random, and compares the size of their mean (Fisher's
    randomisation test; Good 2005, Permutation, Parametric and Bootstrap Tests of Hypotheses,
    section 3.7). The observed signs count as one flip, so no p-value is 0. Few neurons are tested
    exactly. Neurons recorded together are not independent, and both the test and the interval take
    them to be: differences between animals are not in them.

    Parameters
    ----------
    first, second
        One score per neuron, (n_neurons,), in the same order. Neurons that are NaN in either are
        left out.
    n_resamples
        Sign flips, and resamples of the interval.
    seed
        Of both.

    Returns
    -------
    With NaN for all but the count where fewer than two neurons have both scores.

    Raises
    ------
    MetricError
        If the shapes differ or are not of one axis.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise MetricError(
            f"scores have shapes {first.shape} and {second.shape}: give one score of each neuron, "
            "in the same order, (n_neurons,) both"
        )
    differences = second - first
    differences = differences[~np.isnan(differences)]
    if len(differences) < 2:
        return PairedDifference(np.nan, np.nan, np.nan, np.nan, len(differences))
    low, high = bootstrap_interval(
        differences, statistic="mean", n_resamples=n_resamples, seed=seed
    )
    test = stats.permutation_test(
        (differences,),
        _mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=1_000,
        rng=np.random.default_rng(seed),
    )
    return PairedDifference(
        float(differences.mean()), low, high, float(test.pvalue), len(differences)
    )


def _mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    return values.mean(axis=axis)
