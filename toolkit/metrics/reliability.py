"""How reliable responses are: the ceiling a model's correlation is read against."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.errors import MetricError
from toolkit.metrics.regression import pearson_r_pairwise


def spearman_brown(r: ArrayLike) -> NDArray[np.float64]:
    """Reliability of the whole from the correlation of its halves, c = 2r / (1 + r).

    Spearman (1910), Brown (1910). NaN at r = −1, where the formula has its pole.
    """
    r = np.asarray(r, dtype=np.float64)
    return 2 * r / np.where(r == -1, np.nan, 1 + r)


def split_half_ceiling(
    repetitions: NDArray[np.floating], *, n_splits: int = 10, random_state: int = 1
) -> NDArray[np.float64]:
    """Split-half reliability of each neuron as Brain-Score defines its internal consistency.

    The repetitions are halved at random ``n_splits`` times (scikit-learn's ``ShuffleSplit`` with
    ``test_size=0.5``; an odd number leaves one more in the second half), averaged within each half
    over the presentations that took place, correlated across the images that both halves have, and
    corrected by :func:`spearman_brown`. Schrimpf et al. (2018), doi:10.1101/407007.

    Parameters
    ----------
    repetitions
        (n_images, n_neurons, n_repetitions); NaN where an image was not presented. A repetition
        that is NaN throughout is padding and is not halved.
    n_splits
        Number of random halvings.
    random_state
        Seed of the halvings.

    Returns
    -------
    (n_splits, n_neurons) float64; NaN where a half is constant or fewer than three images are left.
    The ceiling of a population is the median over neurons, then the mean over splits
    (:func:`toolkit.metrics.median_over_neurons`).

    Raises
    ------
    MetricError
        If there are not three axes, or fewer than two repetitions.
    """
    from sklearn.model_selection import ShuffleSplit

    if np.ndim(repetitions) != 3:
        raise MetricError(
            f"repetitions have shape {np.shape(repetitions)}: "
            "give (n_images, n_neurons, n_repetitions)"
        )
    took_place = np.flatnonzero(~np.isnan(repetitions).all(axis=(0, 1)))
    if len(took_place) < 2:
        raise MetricError(
            f"{len(took_place)} repetition(s) in an array of shape {repetitions.shape}: "
            "halves need at least two"
        )
    halvings = ShuffleSplit(n_splits, test_size=0.5, random_state=random_state).split(took_place)
    return np.stack(
        [
            spearman_brown(
                pearson_r_pairwise(
                    _mean_presented(repetitions[:, :, took_place[first]]),
                    _mean_presented(repetitions[:, :, took_place[second]]),
                )
            )
            for first, second in halvings
        ]
    )


def _mean_presented(repetitions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean over the last axis of what is not NaN; NaN where nothing is."""
    n_presented = (~np.isnan(repetitions)).sum(axis=2)
    total = np.nansum(repetitions, axis=2, dtype=np.float64)
    return total / np.where(n_presented == 0, np.nan, n_presented)
