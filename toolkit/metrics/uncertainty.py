"""How far a score could be chance: over neurons, over the pairing of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.aggregate import mean_over_neurons, mean_over_splits
from toolkit.metrics.errors import MetricError
from toolkit.metrics.regression import pearson_r_pairwise

Statistic = Literal["mean", "median"]

_OVER_NEURONS: dict[str, Callable[..., NDArray[np.float64]]] = {
    "mean": np.mean,
    "median": np.median,
}

# An r that a shuffle leaves as it is may differ by this much.
_ROUNDING = 1e-12

# Bytes of resampled values held at a time.
_BATCH_BYTES = 64 * 2**20


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

    Of one split: its test images are shuffled, and what was fitted to the others stays as it is.
    The images of y are permuted, the same for all neurons, so that correlations between neurons
    stay as they are. With b of the n permutations at or above the observed statistic the p-value is
    (1 + b) / (1 + n): Phipson & Smyth (2010), doi:10.2202/1544-6115.1585. Where images are so few
    that n reaches the number of all permutations, each is taken once and the p-value is exact.

    Parameters
    ----------
    y
        Measured responses to the test images, (n_images, n_neurons); NaN where a neuron was not
        recorded: its r is over the images that it has.
    p
        Predicted responses to all of them, of the same shape.
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
    defined = ~np.isnan(pearson_r_pairwise(y, p))
    if not defined.any():
        return float("nan")
    y, p = y[:, defined], p[:, defined]
    present = (~np.isnan(y)).astype(np.float64)
    n_present = present.sum(axis=0)
    measured = np.nan_to_num(y - np.nanmean(y, axis=0))
    measured /= np.linalg.norm(measured, axis=0)
    predicted = p - p.mean(axis=0)
    predicted /= np.linalg.norm(predicted, axis=0)

    def population_r(order: NDArray[np.intp], axis: int) -> NDArray[np.float64]:
        product = np.einsum("...im,im->...m", measured[order], predicted)
        if (n_present == len(y)).all():
            return over_neurons(product, axis=-1)
        total, square = (
            np.einsum("...im,im->...m", present[order], values)
            for values in (predicted, np.square(predicted))
        )
        return over_neurons(product / np.sqrt(square - total**2 / n_present), axis=-1)

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


def refitted_p_value(
    responses: NDArray[np.float64],
    r_of_splits: Sequence[Callable[[NDArray[np.float64]], NDArray[np.float64]]],
    *,
    n_permutations: int,
    n_at_once: int = 1,
    seed: int = 0,
) -> float:
    """Probability of a mean r at least this high if images were shuffled before they were fitted.

    For scores over several splits. What one split tests, another is fitted to, so under the null
    hypothesis the r of splits are correlated, and shuffling test images alone would call chance
    significant too often: of five folds the variance of the mean is twice of what it seems then. So
    all images are permuted, the same for all neurons and splits, and every split is fitted anew.
    The statistic is the mean over neurons of their mean r over the splits that they have; the
    p-value is (1 + b) / (1 + n), as in :func:`permutation_p_value`.

    Parameters
    ----------
    responses
        To all images, (n_stimuli, n_neurons).
    r_of_splits
        For each split, what fits and tests responses (n_stimuli, n_columns), rows in any order:
        the r of each column, (n_columns,), NaN where there is none.
    n_permutations
        n.
    n_at_once
        Permutations whose neurons are given side by side, as columns that do not know of each
        other; 1 where neurons are fitted together.
    seed
        Of the permutations.

    Returns
    -------
    NaN where no neuron has a score. A permutation under which none has one counts as one of b.
    """
    _check_count("n_permutations", n_permutations)
    n_stimuli, n_neurons = responses.shape
    random = np.random.default_rng(seed)
    orders = [np.arange(n_stimuli)] + [random.permutation(n_stimuli) for _ in range(n_permutations)]
    batches = [orders[i : i + n_at_once] for i in range(0, len(orders), n_at_once)]
    r = [
        np.concatenate(
            [
                r_of(np.concatenate([responses[order] for order in batch], axis=1))
                for batch in batches
            ]
        ).reshape(len(orders), n_neurons)
        for r_of in r_of_splits
    ]
    observed, *shuffled = mean_over_neurons(mean_over_splits(r))
    if np.isnan(observed):
        return float("nan")
    n_below = np.count_nonzero(np.array(shuffled) < observed - _ROUNDING)
    return (1 + n_permutations - n_below) / (1 + n_permutations)


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
