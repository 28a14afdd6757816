"""Which presentations or fixations of a session count, and why the others do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from toolkit.data.errors import DataError
from toolkit.data.nwb import Session

Milliseconds = tuple[float, float]


@dataclass(frozen=True)
class Window:
    """What of the time around an event is taken; milliseconds after it, negative before.

    Parameters
    ----------
    response_ms
        Start and end of the window in which spikes are counted.
    baseline_ms
        The same for what is subtracted; None for nothing.

    Raises
    ------
    DataError
        If a window ends before it starts.
    """

    response_ms: Milliseconds
    baseline_ms: Milliseconds | None = None

    def __post_init__(self) -> None:
        for name, window in (("window_ms", self.response_ms), ("baseline_ms", self.baseline_ms)):
            if window is not None and not window[0] < window[1]:
                raise DataError(f"{name} is {list(window)}; write start and end, the start first")

    @property
    def start_s(self) -> float:
        """Earliest time needed, seconds after the event."""
        return min(w[0] for w in (self.response_ms, self.baseline_ms) if w) / 1e3

    @property
    def stop_s(self) -> float:
        """Latest time needed, seconds after the event."""
        return max(w[1] for w in (self.response_ms, self.baseline_ms) if w) / 1e3


@dataclass(frozen=True, eq=False)
class Events:
    """What responses are aligned to, in the order of time; all arrays are (n,).

    Parameters
    ----------
    time_s
        When, seconds.
    image
        Which image was shown, an index into the session's images.
    row
        Row of the presentation or fixation in the file.
    x_deg, y_deg
        Gaze from the centre of the image, degrees right and up; NaN for presentations.
    dropped
        Why others were left out → how many.
    """

    time_s: np.ndarray
    image: np.ndarray
    row: np.ndarray
    x_deg: np.ndarray
    y_deg: np.ndarray
    dropped: Mapping[str, int]


def image_onsets(session: Session, window: Window, wanted: np.ndarray) -> Events:
    """Presentations whose response counts.

    Left out, and counted under the first reason that holds: presentations of images that are not
    wanted; of trials with an error code; aborted ones, whose image went before the window for
    spikes ended; and those that last, or whose windows reach, beyond the recording.

    Parameters
    ----------
    session
        The session.
    window
        What is needed around each onset.
    wanted
        (n_images,) bool.
    """
    shown = session.presentations
    kept, dropped = _sort_out(
        len(shown.image),
        {
            **_not_usable(session, wanted),
            f"aborted (shown for less than {window.response_ms[1]:g} ms)": _goes_too_early(
                shown.onset_s, shown.offset_s, window
            ),
            **_outside(session, shown.onset_s, shown.offset_s, window),
        },
    )
    none = np.full(len(kept), np.nan)
    return Events(shown.onset_s[kept], shown.image[kept], kept, none, none, dropped)


def fixation_starts(
    session: Session, window: Window, wanted: np.ndarray, gaze_latency_ms: float
) -> Events:
    """Fixations on an image whose response counts.

    Left out, besides those during presentations that :func:`image_onsets` leaves out: fixations
    that began while no image was shown (so also those under way when it appeared), whose gaze was
    not on the image, or whose image went before the window for spikes ended.

    Parameters
    ----------
    session, window, wanted
        As for :func:`image_onsets`.
    gaze_latency_ms
        By how much the eye tracker was late; subtracted from the times of the fixations.

    Raises
    ------
    DataError
        If the session has no fixations, or does not say how large images were shown.
    """
    if not len(session.fixations.start_s):
        raise DataError(f"{session.path}: no fixations, so responses cannot be aligned to them")
    if session.display is None:
        raise DataError(f"{session.path}: does not say how large images were shown")
    shown, fixations = session.presentations, session.fixations
    start_s = fixations.start_s - gaze_latency_ms / 1e3
    presentation = np.searchsorted(shown.onset_s, start_s, side="right") - 1
    during = (presentation >= 0) & (start_s < shown.offset_s[presentation])
    x_deg, y_deg = np.stack([fixations.x_deg, fixations.y_deg]) - shown.position_deg[presentation].T
    half_width, half_height = np.array(session.display.size_px) / session.display.px_per_deg / 2
    on_image = (np.abs(x_deg) <= half_width) & (np.abs(y_deg) <= half_height)
    usable = _not_usable(session, wanted)
    kept, dropped = _sort_out(
        len(start_s),
        {
            "no image when it began": ~during,
            **{reason: where[presentation] for reason, where in usable.items()},
            "gaze not on the image": ~on_image,
            f"image gone within {window.response_ms[1]:g} ms": _goes_too_early(
                start_s, shown.offset_s[presentation], window
            ),
            **_outside(session, start_s, shown.offset_s[presentation], window),
        },
    )
    return Events(
        start_s[kept], shown.image[presentation[kept]], kept, x_deg[kept], y_deg[kept], dropped
    )


def _not_usable(session: Session, wanted: np.ndarray) -> dict[str, np.ndarray]:
    shown = session.presentations
    return {
        "image without a label": ~wanted[shown.image],
        "error code": shown.error_code != 0,  # also NaN: a trial that is not in the file
    }


def _goes_too_early(time_s: np.ndarray, offset_s: np.ndarray, window: Window) -> np.ndarray:
    return ~(offset_s - time_s >= window.response_ms[1] / 1e3)  # also NaN


def _outside(
    session: Session, time_s: np.ndarray, offset_s: np.ndarray, window: Window
) -> dict[str, np.ndarray]:
    raster = session.raster
    # Windows are moved to the nearest bin, by up to half a bin.
    margin_s = raster.bin_s / 2
    end_s = np.fmax(time_s + window.stop_s, offset_s)
    return {
        "before the recording began": time_s + window.start_s < raster.start_s - margin_s,
        "over the recording's end": ~(end_s < raster.stop_s + margin_s),
    }


def _sort_out(n: int, reasons: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, int]]:
    """Rows for which no reason holds, and how many fell to each reason that came first."""
    kept = np.ones(n, dtype=bool)
    dropped = Counter[str]()
    for reason, holds in reasons.items():
        dropped[reason] = int(np.sum(kept & holds))
        kept &= ~holds
    return np.flatnonzero(kept), {reason: count for reason, count in dropped.items() if count}
