"""Scores of predicted against measured responses, one per neuron."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.metrics.errors import MetricError

FEWEST_IMAGES = 3
"""Images of which a correlation says anything: of two it is 1 or -1 whatever they are."""

# A column whose range is this small against its largest value differs by rounding only.
_CONSTANT_RANGE = 8 * np.finfo(np.float64).eps


def explained_variance(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Explained variance, EV = 1 − Var(y − p) / Var(y): a constant offset costs nothing.

    Parameters
    ----------
    y, p
        Measured and predicted responses, (n_images, n_neurons).

    Returns
    -------
    (n_neurons,) float64; NaN where y has zero variance.

    Raises
    ------
    MetricError
        If the shapes differ, or there is no image.
    """
    y, p = _checked_pair(y, p)
    return 1 - _ratio_of_squares(_centred(y - p), _centred(y), undefined=is_constant(y))


def r2(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Coefficient of determination, R² = 1 − Σ(y − p)² / Σ(y − ȳ)².

    Parameters, result and errors are those of :func:`explained_variance`.
    """
    y, p = _checked_pair(y, p)
    return 1 - _ratio_of_squares(y - p, _centred(y), undefined=is_constant(y))


def mse(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Mean squared error, mean (y − p)², in squared units of the responses.

    Parameters, result and errors are those of :func:`explained_variance`; NaN where y has zero
    variance too, so that every metric is averaged over the same neurons.
    """
    y, p = _checked_pair(y, p)
    return np.where(is_constant(y), np.nan, np.square(y - p).mean(axis=0))


def pearson_r(y: ArrayLike, p: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation across images.

    Parameters and errors are those of :func:`explained_variance`.

    Returns
    -------
    (n_neurons,) float64; NaN where y or p has zero variance, or holds NaN.
    """
    y, p = _checked_pair(y, p)
    return _correlation(_centred(y), _centred(p), undefined=is_constant(y) | is_constant(p))


def pearson_r_pairwise(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Pearson correlation across the images that both arrays have, NaN marking a missing one.

    Parameters
    ----------
    a, b
        Responses, (n_images, n_neurons); which images are missing may differ by neuron.

    Returns
    -------
    (n_neurons,) float64; NaN where fewer than three images are left or one side is constant.

    Raises
    ------
    MetricError
        If the shapes differ, or there is no image.
    """
    a, b = _checked_pair(a, b)
    present = ~(np.isnan(a) | np.isnan(b))
    undefined = is_constant(a, present) | is_constant(b, present)
    undefined |= present.sum(axis=0) < FEWEST_IMAGES
    return _correlation(_centred(a, present), _centred(b, present), undefined=undefined)


METRICS = {"ev": explained_variance, "r": pearson_r, "r2": r2, "mse": mse}
"""The scores of a prediction: name in the tables → function of measured and predicted responses."""


def is_constant(
    x: NDArray[np.float64], present: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Whether each column varies by no more than rounding (or has no value at all).

    Parameters
    ----------
    x
        (n_images, n_neurons).
    present
        Which values count, of the same shape; all of them by default.

    Returns
    -------
    (n_neurons,) bool; False for a column that holds NaN among the values that count.
    """
    where = True if present is None else present
    highest = np.max(x, axis=0, where=where, initial=-np.inf)
    lowest = np.min(x, axis=0, where=where, initial=np.inf)
    with np.errstate(invalid="ignore"):
        return highest - lowest <= _CONSTANT_RANGE * np.maximum(np.abs(highest), np.abs(lowest))


def _checked_pair(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both as float64, refused unless of one shape with at least one row."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise MetricError(
            f"shapes {a.shape} and {b.shape} differ: give both arrays as (n_images, n_neurons)"
        )
    if a.ndim == 0 or len(a) == 0:
        raise MetricError(f"shape {a.shape} holds no image: at least one row is needed")
    return a, b


def _centred(
    x: NDArray[np.float64], present: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Deviations from the column means, 0 where not present."""
    with np.errstate(invalid="ignore", divide="ignore"):
        if present is None:
            return x - x.mean(axis=0)
        mean = x.sum(axis=0, where=present) / present.sum(axis=0)
        return np.where(present, x - mean, 0)


def _column_scale(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest magnitude per column, 1 where that is 0: dividing by it keeps squares in range."""
    scale = np.abs(x).max(axis=0)
    return np.where(scale == 0, 1, scale)


def _ratio_of_squares(
    numerator: NDArray[np.float64],
    denominator: NDArray[np.float64],
    *,
    undefined: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Σ numerator² / Σ denominator² per column, NaN where undefined."""
    scale = _column_scale(denominator)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        ratio = np.square(numerator / scale).sum(axis=0) / np.square(denominator / scale).sum(
            axis=0
        )
    return np.where(undefined, np.nan, ratio)


def _correlation(
    a: NDArray[np.float64], b: NDArray[np.float64], *, undefined: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Cosine between centred columns, NaN where undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = a / _column_scale(a), b / _column_scale(b)
        cosine = (a * b).sum(axis=0) / (np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0))
    return np.where(undefined, np.nan, np.clip(cosine, -1, 1))
