"""Free-viewing sessions of Xiao et al. 2024 (DANDI 000628): what was shown when, and the gaze.

A session is two NWB files: ``NAME_image.nwb`` with presentations, trials and fixations, and
``NAME.nwb`` with the spike rasters. They are read with h5py: rasters must be read in pieces, and
their attribute ``rate`` is not what the NWB schema says it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import h5py
import numpy as np

from toolkit.data.dataset import shortened
from toolkit.data.errors import DataError
from toolkit.data.hdf5 import open_hdf5, require_dataset, texts
from toolkit.data.rasters import Raster, read_raster

_IMAGE_SUFFIX = "_image"
_PRESENTATIONS = "intervals/presentations"
_TRIALS = "intervals/trials"
_SHOWN = "stimulus/presentation/presentations"
_TEMPLATES = "stimulus/templates/stimuli"
_FIXATIONS = "processing/behavior/fixations"
# Start times are written twice; they agree to less than this.
_TIME_TOLERANCE_S = 1e-3


@dataclass(frozen=True, eq=False)
class Presentations:
    """Every time an image was shown, in the order of time; all arrays are (n,), positions (n, 2).

    Parameters
    ----------
    image
        Index into the session's images.
    onset_s, offset_s
        When it appeared and went, seconds; the offset is NaN if it is not known. The file's times
        as they are: they are the photodiode's already (responses are sharpest aligned to them),
        and its column ``latency`` says how late that was after the command.
    error_code
        Of the trial; 0 for none, NaN if the trial is not in the file.
    position_deg
        Centre of the image, degrees of visual angle right of and above that of the screen.
    """

    image: np.ndarray
    onset_s: np.ndarray
    offset_s: np.ndarray
    error_code: np.ndarray
    position_deg: np.ndarray


@dataclass(frozen=True, eq=False)
class Fixations:
    """Periods of steady gaze, in the order of time; all arrays are (n,).

    Parameters
    ----------
    start_s, stop_s
        Seconds.
    x_deg, y_deg
        Gaze, degrees of visual angle right of and above the centre of the screen.
    """

    start_s: np.ndarray
    stop_s: np.ndarray
    x_deg: np.ndarray
    y_deg: np.ndarray


@dataclass(frozen=True, eq=False)
class Display:
    """How large images were shown.

    Parameters
    ----------
    size_px
        Width and height of the images on the screen, pixels.
    px_per_deg
        Pixels of the screen per degree of visual angle.
    """

    size_px: tuple[int, int]
    px_per_deg: float

    @property
    def width_deg(self) -> float:
        """Width of the images, degrees of visual angle."""
        return self.size_px[0] / self.px_per_deg


@dataclass(frozen=True, eq=False)
class Session:
    """One recording session.

    Parameters
    ----------
    name
        Name of its files: ``sub-An_ses-20220105T173929``.
    path
        The file of the images, for messages.
    image_names
        File name of each image, without folders.
    presentations, fixations
        What was shown, and where the animal looked.
    display
        How large, or None if the file does not say.
    raster
        The spikes.
    """

    name: str
    path: Path
    image_names: tuple[str, ...]
    presentations: Presentations
    fixations: Fixations
    display: Display | None
    raster: Raster


def session_files(path: Path) -> tuple[Path, Path]:
    """Files of rasters and of images of the session that a path of either names."""
    stem = path.stem.removesuffix(_IMAGE_SUFFIX)
    return path.with_name(f"{stem}.nwb"), path.with_name(f"{stem}{_IMAGE_SUFFIX}.nwb")


def find_sessions(path: Path) -> list[Path]:
    """Raster files of the session, or of all sessions in a folder and its subfolders, by name.

    Raises
    ------
    DataError
        If there is none.
    """
    if not path.is_dir():
        return [session_files(path)[0]]
    image_files = sorted(path.rglob(f"*{_IMAGE_SUFFIX}.nwb"), key=lambda p: p.name)
    if not image_files:
        raise DataError(f"{path}: no session in it; a session is a pair NAME.nwb, NAME_image.nwb")
    return [session_files(found)[0] for found in image_files]


def read_session(path: Path) -> Session:
    """Read all of a session but its rasters.

    Parameters
    ----------
    path
        Either of its two files.

    Raises
    ------
    DataError
        If a file or something in it is missing, or they do not fit together.
    """
    raster_path, image_path = session_files(path)
    with open_hdf5(image_path) as file:
        names = _image_names(file, image_path)
        presentations = _presentations(file, image_path, len(names))
        fixations = _fixations(file, image_path)
        display = _display(file)
    return Session(
        name=raster_path.stem,
        path=image_path,
        image_names=names,
        presentations=presentations,
        fixations=fixations,
        display=display,
        raster=read_raster(raster_path, presentations.onset_s),
    )


def _image_names(file: h5py.File, path: Path) -> tuple[str, ...]:
    stored = texts(require_dataset(file, path, f"{_TEMPLATES}/external_file"))
    names = tuple(PureWindowsPath(name).name for name in stored)  # splits at / and \
    doubles = [name for name, n in Counter(names).items() if n > 1]
    if doubles:
        raise DataError(f"{path}: images of one file name: {shortened(doubles)}")
    return names


def _presentations(file: h5py.File, path: Path, n_images: int) -> Presentations:
    columns = _columns(file, path, _PRESENTATIONS, ("start_time", "stop_time", "trial_id"))
    image = require_dataset(file, path, f"{_SHOWN}/data")[()].astype(np.int64)
    shown_s = require_dataset(file, path, f"{_SHOWN}/timestamps")[()]
    onset_s = columns["start_time"]
    if not len(image) == len(shown_s) == len(onset_s):
        raise DataError(
            f"{path}: {len(image)} presented images, {len(shown_s)} times of them and "
            f"{len(onset_s)} intervals; the numbers must be equal"
        )
    if not len(image):
        raise DataError(f"{path}: no presentations")
    if not np.allclose(shown_s, onset_s, rtol=0, atol=_TIME_TOLERANCE_S):
        raise DataError(f"{path}: {_SHOWN}/timestamps are not the start times of {_PRESENTATIONS}")
    if image.min() < 0 or image.max() >= n_images:
        raise DataError(f"{path}: image {image.max()} was presented, but there are {n_images}")
    if np.any(np.diff(onset_s) < 0):
        raise DataError(f"{path}: presentations are not in the order of time")
    key = f"{_PRESENTATIONS}/position"
    position = require_dataset(file, path, key)[()] if key in file else np.zeros((len(image), 2))
    return Presentations(
        image=image,
        onset_s=onset_s,
        offset_s=columns["stop_time"],
        error_code=_error_codes(file, path, columns["trial_id"]),
        position_deg=position,
    )


def _error_codes(file: h5py.File, path: Path, trial_of: np.ndarray) -> np.ndarray:
    trials = _columns(file, path, _TRIALS, ("id", "error_code"))
    code_of = dict(zip(trials["id"].tolist(), trials["error_code"].tolist(), strict=True))
    return np.array([code_of.get(trial, np.nan) for trial in trial_of.tolist()], dtype=float)


def _fixations(file: h5py.File, path: Path) -> Fixations:
    if _FIXATIONS not in file:
        none = np.empty(0)
        return Fixations(none, none, none, none)
    columns = _columns(file, path, _FIXATIONS, ("start_time", "stop_time", "x", "y"))
    order = np.argsort(columns["start_time"], kind="stable")
    return Fixations(*(values[order] for values in columns.values()))


def _display(file: h5py.File) -> Display | None:
    """Size on the screen from the images' extent in metres and the distance of the screen."""
    keys = [f"{_TEMPLATES}/{key}" for key in ("dimension", "field_of_view", "distance")]
    if any(key not in file for key in keys):
        return None
    size_px, size_m, distance_m = (file[key][()] for key in keys)
    width_deg = 2 * np.degrees(np.arctan(size_m[0] / 2 / distance_m))
    if not (np.isfinite(width_deg) and width_deg > 0):
        return None
    return Display((int(size_px[0]), int(size_px[1])), float(size_px[0] / width_deg))


def _columns(
    file: h5py.File, path: Path, group: str, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    found = {name: require_dataset(file, path, f"{group}/{name}")[()] for name in names}
    lengths = {name: len(values) for name, values in found.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path}: columns of {group} differ in length: {lengths}")
    return found
