"""Responses from files: arrays whose axes are declared, or tables with one row per stimulus."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.response_tables import ResponseTable, read_response_table
from toolkit.data.tables import TABLE_SUFFIXES
from toolkit.data.zarr_arrays import only_key, stored_array

_AXES = ("stimulus", "neuroid", "repetition")
_ARRAY_SUFFIXES = (".npy", ".npz", ".zarr")


@dataclass(frozen=True)
class ResponseArray:
    """An array of responses, before its values are read.

    Parameters
    ----------
    path
        The file.
    axes
        What each axis is.
    n_stimuli, n_neuroids
        Its size.
    """

    path: Path
    axes: tuple[str, ...]
    n_stimuli: int
    n_neuroids: int

    def read(self) -> Responses:
        """Read the values; see :class:`Responses`.

        Raises
        ------
        DataError
            If they are not real numbers, or cannot be read.
        """
        values, notes = _read_array(self.path)
        if values.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: values are {values.dtype}, expected real numbers")
        if values.dtype.kind in "iu" and values.size:
            notes += (
                f"{self.path}: whole numbers from {values.min()} to {values.max()}; if one of them "
                "means that there is no response, write NaN instead",
            )
        values = values.transpose([self.axes.index(axis) for axis in _AXES if axis in self.axes])
        if values.ndim == 2:
            return Responses(np.ascontiguousarray(values, dtype=np.float64), None, notes)
        is_single = values.dtype.kind == "f" and values.dtype.itemsize == 4
        repetitions = np.ascontiguousarray(values, np.float32 if is_single else np.float64)
        return Responses(mean_over_repetitions(repetitions), repetitions, notes)


@dataclass(frozen=True, eq=False)
class Responses:
    """Responses as read.

    Parameters
    ----------
    averaged
        float64 (n_stimuli, n_neuroids), the mean over the repetitions that are not NaN.
    repetitions
        float32 or float64 (n_stimuli, n_neuroids, n_repetitions), or None without that axis.
    notes
        What was taken for granted.
    """

    averaged: np.ndarray
    repetitions: np.ndarray | None
    notes: tuple[str, ...] = ()


def open_responses(
    path: Path,
    axes: Sequence[str] | None,
    neuroid_columns: Sequence[str] | None,
    neuroid_ids: Sequence[str] | None,
) -> ResponseArray | ResponseTable:
    """Find out what responses there are: a table is read, of an array only the header.

    Parameters
    ----------
    path
        ``.npy``, ``.npz`` or ``.zarr`` (a single array, or one called ``responses``), ``.csv`` or
        ``.parquet`` (column ``stimulus_id``, other columns neuroids).
    axes
        What each axis of an array is: ``stimulus``, ``neuroid`` and perhaps ``repetition``, in
        the array's order; None for stimulus, neuroid. Tables have theirs fixed.
    neuroid_columns
        Names or patterns of a table's columns that are neuroids.
    neuroid_ids
        Ids of the neuroid table, if there is one.

    Raises
    ------
    DataError
        If the file is missing, unreadable, of another kind, not of the declared axes, or it is not
        clear which axis or column is which.
    """
    if not path.exists():
        raise MissingDataError(f"{path}: no such file")
    if path.suffix.lower() in TABLE_SUFFIXES:
        return read_response_table(path, neuroid_columns, neuroid_ids)
    if neuroid_columns is not None:
        raise DataError(f"{path}: has no columns with names, so leave out neuroid_columns")
    shape, names = _array_shape(path)
    axes = _checked_axes(path, axes, shape, names)
    sizes = dict(zip(axes, shape, strict=True))
    return ResponseArray(path, axes, sizes["stimulus"], sizes["neuroid"])


def mean_over_repetitions(repetitions: np.ndarray) -> np.ndarray:
    """Mean over the presentations there were, one stimulus at a time; NaN where there was none.

    Parameters
    ----------
    repetitions
        (n_stimuli, n_neuroids, n_repetitions), NaN = not presented.

    Returns
    -------
    float64 (n_stimuli, n_neuroids).
    """
    mean = np.empty(repetitions.shape[:2])
    for stimulus, values in enumerate(repetitions):
        n_presented = np.sum(~np.isnan(values), axis=1)
        total = np.nansum(values, axis=1, dtype=np.float64)
        mean[stimulus] = total / np.where(n_presented == 0, np.nan, n_presented)
    return mean


def _checked_axes(
    path: Path,
    given: Sequence[str] | None,
    shape: tuple[int, ...],
    names: tuple[str, ...] | None,
) -> tuple[str, ...]:
    """What each axis is, by what was declared and what the file calls them."""
    names = names if names and set(names) <= set(_AXES) else None
    axes = tuple(given or names or _AXES[:2])
    if len(set(axes)) != len(axes) or not {"stimulus", "neuroid"} <= set(axes) <= set(_AXES):
        raise DataError(
            f"{path}: response_axes is {list(axes)}; it must name stimulus and neuroid, and "
            "repetition if there is one, each once, in the order of the array's axes"
        )
    if len(shape) != len(axes):
        raise DataError(
            f"{path}: shape {shape} has {len(shape)} axes, but response_axes names {len(axes)}: "
            f"{', '.join(axes)}"
        )
    if names and axes != names:
        raise DataError(
            f"{path}: response_axes is [{', '.join(axes)}], but the file calls its axes "
            f"{', '.join(names)}"
        )
    if not (given or names) and shape[0] == shape[1]:
        raise DataError(
            f"{path}: shape {shape} does not tell images from neurons; write response_axes: "
            "[stimulus, neuroid] or [neuroid, stimulus]"
        )
    return axes


def _array_shape(path: Path) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Shape of an array, and what the file calls its axes."""
    match path.suffix.lower():
        case ".npy":
            with _numpy_errors(path):
                return np.load(path, mmap_mode="r", allow_pickle=False).shape, None
        case ".npz":
            return _npz_shape(path), None
        case ".zarr":
            found = stored_array(path)
            return found.shape, found.dimensions
    raise DataError(
        f"{path}: responses must be one of {', '.join(_ARRAY_SUFFIXES)}, "
        f"{', '.join(sorted(TABLE_SUFFIXES))}"
    )


def _read_array(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    match path.suffix.lower():
        case ".npz":
            with _numpy_errors(path), np.load(path, allow_pickle=False) as archive:
                return archive[only_key(path, archive.files)], ()
        case ".zarr":
            return stored_array(path).read()
    with _numpy_errors(path):
        return np.load(path, allow_pickle=False), ()


def _npz_shape(path: Path) -> tuple[int, ...]:
    with _numpy_errors(path), zipfile.ZipFile(path) as archive:
        key = only_key(path, [name.removesuffix(".npy") for name in archive.namelist()])
        with archive.open(f"{key}.npy") as member:
            version = np.lib.format.read_magic(member)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            return read(member)[0]


@contextmanager
def _numpy_errors(path: Path) -> Iterator[None]:
    """Name the file in whatever NumPy raises on a damaged or foreign one."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable NumPy file of numbers ({error})") from error
