"""Sessions with the units and events that are wanted of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data.dataset import Timeline, check_unique
from toolkit.data.errors import DataError
from toolkit.data.events import Events, Window, fixation_starts, image_onsets
from toolkit.data.labels import LabelTable
from toolkit.data.nwb import Session, find_sessions, read_session
from toolkit.data.rates import response_values
from toolkit.data.session_table import Banks, areas_of_units, read_session_table

ALIGNMENTS = ("image", "fixation")


@dataclass(frozen=True, eq=False)
class Recording:
    """What is wanted of a session.

    Parameters
    ----------
    session
        The session.
    units
        (m,) indices of the units.
    areas
        Area of each of them.
    events
        What their responses are aligned to.
    window
        The windows around an event.
    """

    session: Session
    units: np.ndarray
    areas: tuple[str, ...]
    events: Events
    window: Window

    @property
    def neuroid_ids(self) -> tuple[str, ...]:
        """Session and name of each unit."""
        names = self.session.raster.unit_names
        return tuple(f"{self.session.name}/{names[unit]}" for unit in self.units)

    @property
    def files(self) -> list[str]:
        """File name of the image of each event."""
        return [self.session.image_names[image] for image in self.events.image]

    def responses(self, *, stabilise: str | None, zscore: bool) -> np.ndarray:
        """float64 (n_events, m), see :func:`toolkit.data.rates.response_values`."""
        values = response_values(
            self.session.raster,
            self.events.time_s,
            self.window,
            stabilise=stabilise,
            zscore=zscore,
        )
        return values[:, self.units]


def select_recordings(
    sessions: str | Path | Sequence[str | Path],
    *,
    session_table: str | Path | None,
    region: str,
    regions: Sequence[str] | None,
    labels: LabelTable | None,
    align: str,
    window: Window,
    gaze_latency_ms: float,
) -> list[Recording]:
    """Recordings with at least one wanted unit and one event, in the order of session names.

    Parameters are those of :func:`toolkit.data.xiao2024.load`.

    Raises
    ------
    DataError
        If files are missing or do not fit together, or nothing is left.
    """
    if align not in ALIGNMENTS:
        raise DataError(f"align is {align!r}; write one of {', '.join(ALIGNMENTS)}")
    if session_table is not None and region:
        raise DataError(f"region is {region!r}, but {session_table} says it; leave one out")
    paths = [sessions] if isinstance(sessions, str | Path) else sessions
    found = [path for given in paths for path in find_sessions(Path(given))]
    check_unique([path.stem for path in found], "session", "sessions")
    table = None if session_table is None else Path(session_table)
    banks = None if table is None else read_session_table(table)
    recordings = []
    dropped = Counter[str]()
    for path in sorted(found, key=lambda path: path.stem):
        session = read_session(path)
        areas = _areas(session, banks, table, region)
        units = np.array([i for i, area in enumerate(areas) if not regions or area in regions], int)
        if not len(units):
            continue
        events = _events(session, labels, align, window, gaze_latency_ms)
        dropped += Counter(events.dropped)
        if len(events.image):
            chosen = tuple(areas[unit] for unit in units)
            recordings.append(Recording(session, units, chosen, events, window))
    if not recordings:
        reasons = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
        raise DataError(
            f"{', '.join(map(str, paths))}: nothing left of {len(found)} sessions"
            + (f": {reasons}" if reasons else f": no unit in {', '.join(regions or ())}")
        )
    return recordings


def timelines(
    recordings: Sequence[Recording], values: Sequence[np.ndarray]
) -> tuple[Timeline, ...]:
    """Each recording's responses in the order of time; neuroids are numbered through."""
    first = 0
    found = []
    for recording, responses in zip(recordings, values, strict=True):
        neuroids = np.arange(first, first + len(recording.units))
        first += len(neuroids)
        found.append(
            Timeline(
                recording.session.name,
                recording.events.time_s,
                neuroids,
                responses.astype(np.float32),
            )
        )
    return tuple(found)


def _areas(
    session: Session, banks: Banks | None, table: Path | None, region: str
) -> tuple[str, ...]:
    unit_names = session.raster.unit_names
    if banks is None or table is None:
        return (region,) * len(unit_names)
    return areas_of_units(session.name, unit_names, banks, table)


def _events(
    session: Session,
    labels: LabelTable | None,
    align: str,
    window: Window,
    gaze_latency_ms: float,
) -> Events:
    n_images = len(session.image_names)
    wanted = np.ones(n_images, bool) if labels is None else labels.names(session.image_names)
    if align == "image":
        return image_onsets(session, window, wanted)
    return fixation_starts(session, window, wanted, gaze_latency_ms)
