"""How far a score could be chance: over splits, over neurons, over the pairing of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.errors import MetricError
from toolkit.metrics.regression import pearson_r

Statistic = Literal["mean", "median"]

_OVER_NEURONS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "mean": np.mean,
    "median": np.median,
}

# Bytes of resampled values held at a time.
_BATCH_BYTES = 64 * 2**20


def sem(values: ArrayLike) -> float:
    """Standard error of the mean over splits, as Brain-Score computes it.

    The population standard deviation over sqrt(n_splits). Splits share training images, so their
    values are not independent, and this is below the error that new images would show.

    Parameters
    ----------
    values
        One value per split, (n_splits,).

    Returns
    -------
    0 for a single split; NaN if a value is NaN.

    Raises
    ------
    MetricError
        If there is not one axis, or no split.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise MetricError(f"values have shape {values.shape}: give one per split, (n_splits,)")
    return float(values.std() / np.sqrt(len(values)))


def bootstrap_interval(
    scores: ArrayLike,
    *,
    statistic: Statistic = "median",
    confidence: float = 0.95,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval over neurons of a population's score.

    Neurons are drawn with replacement, each with its scores in all splits; the score is the
    statistic over neurons, then the mean over splits, as in :func:`toolkit.metrics.summarise`.
    Efron & Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.

    Parameters
    ----------
    scores
        (n_splits, n_neurons), or (n_neurons,) for one split. Neurons that are NaN in any split are
        left out.
    statistic
        Over neurons.
    confidence
        Share of resamples between the two ends, above 0 and below 1.
    n_resamples
        Resamples of the neurons.
    seed
        Of the resampling.

    Returns
    -------
    low, high
        NaN where fewer than two neurons have a score.

    Raises
    ------
    MetricError
        If there are not one or two axes, no split, or an argument is out of range.
    """
    from scipy import stats

    over_neurons = _reduction(statistic)
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if scores.ndim != 2 or len(scores) == 0:
        raise MetricError(f"scores have shape {scores.shape}: give (n_splits, n_neurons)")
    if not 0 < confidence < 1:
        raise MetricError(f"confidence is {confidence}; write a share such as 0.95")
    _check_count("n_resamples", n_resamples)
    defined = scores[:, ~np.isnan(scores).any(axis=0)]
    if defined.shape[1] < 2:
        return float("nan"), float("nan")

    def population_score(*splits: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.mean([over_neurons(split, axis=axis) for split in splits], axis=0)

    interval = stats.bootstrap(
        tuple(defined),
        population_score,
        n_resamples=n_resamples,
        batch=_batch(defined.size),
        vectorized=True,
        paired=True,
        confidence_level=confidence,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def permutation_p_value(
    y: ArrayLike,
    p: ArrayLike,
    *,
    statistic: Statistic = "median",
    n_permutations: int = 1_000,
    seed: int = 0,
) -> float:
    """Probability of a population's Pearson r at least this high if images were shuffled.

    The images of y are permuted, the same for all neurons, so that correlations between neurons
    stay as they are. With b of the n permutations at or above the observed statistic the p-value is
    (1 + b) / (1 + n): Phipson & Smyth (2010), doi:10.2202/1544-6115.1585. Where images are so few
    that n reaches the number of all permutations, each is taken once and the p-value is exact.

    Parameters
    ----------
    y, p
        Measured and predicted responses of the test images of one split, (n_images, n_neurons).
    statistic
        Over neurons; those whose r is NaN are left out.
    n_permutations
        1 / (1 + n) is the smallest p-value it can show.
    seed
        Of the permutations.

    Returns
    -------
    NaN where no neuron has a score.

    Raises
    ------
    MetricError
        If the shapes differ or are not of two axes, there is no image, or an argument is out of
        range.
    """
    from scipy import stats

    over_neurons = _reduction(statistic)
    _check_count("n_permutations", n_permutations)
    y, p = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
    if y.ndim != 2:
        raise MetricError(f"responses have shape {y.shape}: give (n_images, n_neurons)")
    defined = ~np.isnan(pearson_r(y, p))
    if not defined.any():
        return float("nan")
    measured, predicted = stats.zscore(y[:, defined]), stats.zscore(p[:, defined])

    def population_r(order: NDArray[np.intp], axis: int) -> NDArray[np.float64]:
        r = np.einsum("...im,im->...m", measured[order], predicted) / len(measured)
        return over_neurons(r, axis=-1)

    return float(
        stats.permutation_test(
            (np.arange(len(measured)),),
            population_r,
            permutation_type="pairings",
            vectorized=True,
            n_resamples=n_permutations,
            batch=_batch(measured.size),
            alternative="greater",
            random_state=np.random.default_rng(seed),
        ).pvalue
    )


def _reduction(statistic: str) -> Callable[..., NDArray[np.float64]]:
    if statistic not in _OVER_NEURONS:
        raise MetricError(f"statistic is {statistic!r}; write one of {tuple(_OVER_NEURONS)}")
    return _OVER_NEURONS[statistic]


def _check_count(name: str, count: int) -> None:
    if count < 1:
        raise MetricError(f"{name} is {count}; write 1 or more")


def _batch(n_values: int) -> int:
    """Resamples of that many float64 that fit in ``_BATCH_BYTES``, at least one."""
    return max(1, _BATCH_BYTES // (8 * n_values))
