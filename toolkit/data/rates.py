"""From spikes to responses: rates in a window, and what may be done to them."""

from __future__ import annotations

import numpy as np

from toolkit.data.errors import DataError
from toolkit.data.events import Milliseconds, Window
from toolkit.data.rasters import Raster

STABILISERS = ("sqrt", "anscombe")


def response_values(
    raster: Raster,
    time_s: np.ndarray,
    window: Window,
    *,
    stabilise: str | None = None,
    zscore: bool = False,
) -> np.ndarray:
    r"""Response of each unit to each event.

    Plainly the mean rate in the window, in spikes per second. With ``stabilise`` the square root
    of the count, :math:`\sqrt{k}`, or Anscombe's :math:`2\sqrt{k + 3/8}` (Anscombe 1948,
    doi:10.1093/biomet/35.3-4.246), whose variance hardly depends on the mean for Poisson counts;
    it has no unit. A baseline is treated in the same way, after its count has been scaled to the
    length of the window, and subtracted. z-scores come last and are over all events given, so that
    each unit has mean 0 and variance 1; a unit that never varies stays at 0.

    Parameters
    ----------
    raster
        The spikes.
    time_s
        (n_events,) times that the windows are relative to, seconds.
    window
        The windows, inside the recording for every event.
    stabilise
        ``"sqrt"``, ``"anscombe"`` or None.
    zscore
        Whether to standardise each unit.

    Returns
    -------
    float64 (n_events, n_units).

    Raises
    ------
    DataError
        If ``stabilise`` is something else, or a window is not a whole number of bins.
    """
    values = _stabilised(_counts(raster, time_s, window.response_ms), stabilise)
    if window.baseline_ms is not None:
        scale = _duration_s(window.response_ms) / _duration_s(window.baseline_ms)
        baseline = _counts(raster, time_s, window.baseline_ms) * scale
        values -= _stabilised(baseline, stabilise)
    if stabilise is None:
        values /= _duration_s(window.response_ms)
    if zscore and len(values):
        deviation = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(deviation == 0, 1, deviation)
    return values


def _duration_s(window: Milliseconds) -> float:
    return (window[1] - window[0]) / 1e3


def _counts(raster: Raster, time_s: np.ndarray, window: Milliseconds) -> np.ndarray:
    n_bins = raster.bins_in(_duration_s(window))
    return raster.counts(raster.first_bins(time_s + window[0] / 1e3), n_bins).astype(np.float64)


def _stabilised(counts: np.ndarray, stabilise: str | None) -> np.ndarray:
    match stabilise:
        case None:
            return counts
        case "sqrt":
            return np.sqrt(counts)
        case "anscombe":
            return 2 * np.sqrt(counts + 3 / 8)
    raise DataError(
        f"stabilise is {stabilise!r}; write one of {', '.join(STABILISERS)}, or nothing"
    )
