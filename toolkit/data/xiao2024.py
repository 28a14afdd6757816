"""Xiao et al. 2024 (DANDI 000628): free viewing of natural images, six areas of macaque cortex."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from toolkit.data.dataset import DatasetSize, NeuralDataset, check_unique, shortened
from toolkit.data.errors import DataError
from toolkit.data.events import Window
from toolkit.data.framing import MID_GREY, framed_as
from toolkit.data.images import (
    AbsentImages,
    ImageFiles,
    default_id,
    require_readable,
    source_at,
)
from toolkit.data.labels import LabelTable
from toolkit.data.naming import matched, unmatched
from toolkit.data.nwb import Display
from toolkit.data.patches import FixatedPatches, Gaze
from toolkit.data.recordings import Recording, select_recordings, timelines
from toolkit.data.responses import mean_over_repetitions
from toolkit.data.stimuli import Stimuli


def load(
    *,
    sessions: str | Path | Sequence[str | Path],
    images: str | Path | None = None,
    session_table: str | Path | None = None,
    region: str = "",
    regions: Sequence[str] | None = None,
    label_table: str | Path | None = None,
    align: str = "image",
    window_ms: tuple[float, float] = (70, 170),
    baseline_ms: tuple[float, float] | None = None,
    stabilise: str | None = None,
    zscore: bool = False,
    gaze_latency_ms: float = 0,
    patch_deg: float = 4,
    frame: Mapping[str, Any] | None = None,
    name: str = "xiao2024",
) -> NeuralDataset:
    """Load sessions as responses to images, or to the patches that the animal fixated.

    Aligned to images, a stimulus is an image, in the order of file names, and its presentations
    are the repetitions. Aligned to fixations, a stimulus is one fixation, so there are none;
    ``object_names`` then says which image it fell on, so that protocols by object never train on
    the image they test. Images that a session did not show are NaN for its units.

    Parameters
    ----------
    sessions
        One file of a session's two, a folder of sessions, or several of these.
    images
        Folder (searched at any depth) or ``.zip`` with the images, found by file name. None loads
        the responses without.
    session_table
        Which bank of a session is in which area, see
        :func:`toolkit.data.session_table.read_session_table`.
    region
        Area of all units, without a session table.
    regions
        Areas to take; all if None.
    label_table
        ``.csv`` or ``.parquet`` with ``filename`` and ``label`` (face, non-face, anything), perhaps
        ``object_name`` and ``split``. Images that it does not name are left out.
    align
        ``"image"``: to the onset of images; ``"fixation"``: to the start of fixations on them.
    window_ms
        Start and end of the window whose spikes count, milliseconds after that.
    baseline_ms
        Window whose rate is subtracted; None for nothing.
    stabilise, zscore
        What is done to the rates, see :func:`toolkit.data.rates.response_values`.
    gaze_latency_ms
        How late the eye tracker was (the authors measured 5 to 46 ms, depending on the rig).
    patch_deg
        Side of the patch around the gaze, degrees of visual angle.
    frame
        Makes images square; the parameters of :class:`toolkit.data.framing.SquareFrame`.
    name
        What tables call the data set.

    Raises
    ------
    DataError
        If files are missing or do not fit together, or nothing is left to load.
    """
    labels = None if label_table is None else LabelTable(Path(label_table))
    if frame is not None and align == "fixation":
        raise DataError("frame is given, but patches around the gaze are square already")
    recordings = select_recordings(
        sessions,
        session_table=session_table,
        region=region,
        regions=regions,
        labels=labels,
        align=align,
        window=_window(window_ms, baseline_ms),
        gaze_latency_ms=gaze_latency_ms,
    )
    values = [r.responses(stabilise=stabilise, zscore=zscore) for r in recordings]
    files = _files(recordings)
    whole = _images(images, files)
    if align == "image":
        stimuli = framed_as(whole, frame)
        repetitions = _repetitions(recordings, values, files)
        responses = mean_over_repetitions(repetitions)
        file_of, objects = files, labels.objects(files) if labels else None
        metadata = {}
    else:
        stimuli = _patches(recordings, whole, files, patch_deg)
        repetitions, responses = None, _block_diagonal(values)
        file_of = [file for r in recordings for file in r.files]
        objects = tuple(map(default_id, file_of))
        metadata = {"x_deg": _joined(recordings, "x_deg"), "y_deg": _joined(recordings, "y_deg")}
    return NeuralDataset(
        name=name,
        stimuli=stimuli,
        responses=responses,
        repetitions=repetitions,
        neuroid_ids=tuple(i for r in recordings for i in r.neuroid_ids),
        regions=tuple(area for r in recordings for area in r.areas),
        object_names=objects,
        category_names=labels.categories(file_of) if labels else None,
        splits=labels.splits(file_of) if labels else {},
        masks_missing=bool(np.isnan(responses).any()),
        visual_degrees=_common_width_deg(recordings) if align == "image" else patch_deg,
        metadata={"file": np.array(file_of, dtype=object), **metadata},
        timelines=timelines(recordings, values),
        dropped=dict(sum((Counter(r.events.dropped) for r in recordings), Counter())),
        source=shortened([r.session.path for r in recordings]),
        notes=() if images is None else ("presentations are joined to the images by file name",),
    )


def size_of(**params: Any) -> DatasetSize:
    """Size of what :func:`load` would give for the same parameters, without reading rasters."""
    bound = inspect.signature(load).bind(**params)
    bound.apply_defaults()
    given = bound.arguments
    labels = None if given["label_table"] is None else LabelTable(Path(given["label_table"]))
    recordings = select_recordings(
        **{key: given[key] for key in ("sessions", "session_table", "region", "regions", "align")},
        labels=labels,
        window=_window(given["window_ms"], given["baseline_ms"]),
        gaze_latency_ms=given["gaze_latency_ms"],
    )
    files = _files(recordings)
    if given["align"] == "fixation":
        files = [file for r in recordings for file in r.files]
    return DatasetSize(
        n_stimuli=len(files),
        n_neuroids=sum(len(r.units) for r in recordings),
        split_sizes={k: len(v) for k, v in labels.splits(files).items()} if labels else {},
    )


def _window(window_ms: tuple[float, float], baseline_ms: tuple[float, float] | None) -> Window:
    baseline = None if baseline_ms is None else (baseline_ms[0], baseline_ms[1])
    return Window((window_ms[0], window_ms[1]), baseline)


def _files(recordings: Sequence[Recording]) -> list[str]:
    """File names of the images that some response is to, sorted by code point."""
    return sorted({file for r in recordings for file in r.files})


def _images(images: str | Path | None, files: list[str]) -> Stimuli:
    ids = tuple(map(default_id, files))
    check_unique(ids, "file name (without suffix)", "sessions")
    if images is None:
        return AbsentImages(ids)
    source = source_at(Path(images))
    known = source.names()
    check_unique([PurePosixPath(name).name for name in known], "file name", images)
    place_of = {PurePosixPath(name).name: name for name in known}
    found = matched(files, place_of, str(images))
    missing = [file for file, name in zip(files, found, strict=True) if name is None]
    if missing:
        raise DataError(
            f"{images}: lacks {len(missing)} of {len(files)} images shown: "
            f"{unmatched(missing, place_of)}; add them, or give a label_table without them"
        )
    names = tuple(place_of[name] for name in found if name is not None)
    check_unique(names, "image", "sessions")
    require_readable(source, names)
    return ImageFiles(source, names, ids, framed=False)


def _repetitions(
    recordings: Sequence[Recording], values: Sequence[np.ndarray], files: list[str]
) -> np.ndarray:
    """float32 (n_files, n_neuroids, n_repetitions), in the order of time; NaN = not presented."""
    row_of = {file: row for row, file in enumerate(files)}
    rows = [np.array([row_of[file] for file in r.files]) for r in recordings]
    numbers = [_occurrence(each) for each in rows]
    n_repetitions = max(int(each.max()) for each in numbers) + 1
    n_neuroids = sum(len(r.units) for r in recordings)
    repetitions = np.full((len(files), n_neuroids, n_repetitions), np.nan, dtype=np.float32)
    first = 0
    for row, number, responses in zip(rows, numbers, values, strict=True):
        repetitions[row, first : first + responses.shape[1], number] = responses
        first += responses.shape[1]
    return repetitions


def _occurrence(rows: np.ndarray) -> np.ndarray:
    """How often each value has come before: [5, 7, 5, 5] gives [0, 0, 1, 2]."""
    seen = Counter[int]()
    numbers = np.empty(len(rows), dtype=np.int64)
    for i, row in enumerate(rows.tolist()):
        numbers[i] = seen[row]
        seen[row] += 1
    return numbers


def _patches(
    recordings: Sequence[Recording], whole: Stimuli, files: list[str], patch_deg: float
) -> FixatedPatches:
    row_of = {file: row for row, file in enumerate(files)}
    displays: list[Display] = []
    for recording in recordings:
        assert recording.session.display is not None  # fixations without one were refused
        displays.append(recording.session.display)
    return FixatedPatches(
        whole,
        tuple(f"{r.session.name}/fixation-{row:06d}" for r in recordings for row in r.events.row),
        Gaze(
            image=np.array([row_of[file] for r in recordings for file in r.files]),
            x_deg=_joined(recordings, "x_deg"),
            y_deg=_joined(recordings, "y_deg"),
            session=np.repeat(np.arange(len(recordings)), [len(r.files) for r in recordings]),
        ),
        tuple(displays),
        patch_deg,
        MID_GREY,
    )


def _joined(recordings: Sequence[Recording], column: str) -> np.ndarray:
    return np.concatenate([getattr(r.events, column) for r in recordings])


def _block_diagonal(values: Sequence[np.ndarray]) -> np.ndarray:
    """Responses of each session to its own fixations, NaN to those of others."""
    filled = np.full(np.sum([v.shape for v in values], axis=0), np.nan)
    row = column = 0
    for own in values:
        filled[row : row + own.shape[0], column : column + own.shape[1]] = own
        row, column = row + own.shape[0], column + own.shape[1]
    return filled


def _common_width_deg(recordings: Sequence[Recording]) -> float | None:
    widths = {
        round(r.session.display.width_deg, 2) if r.session.display else None for r in recordings
    }
    return widths.pop() if len(widths) == 1 else None
