"""Responses from files: arrays whose axes are declared, or tables with one row per stimulus."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from toolkit.data.dataset import shortened
from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.hdf5 import as_text
from toolkit.data.response_tables import ResponseTable, called, read_response_table, rows_of
from toolkit.data.tables import TABLE_SUFFIXES
from toolkit.data.zarr_arrays import member_shapes, only_key, stored_array, stored_names

_AXES = ("stimulus", "neuroid", "repetition")
_ARRAY_SUFFIXES = (".npy", ".npz", ".zarr")
_WRITE_NAMES = "write it as text (not as objects), or leave it out if rows go by position"
# What arrays beside the responses are called that name the entries of an axis, best first.
_NAMED_IN = {
    "stimulus": ("stimulus_id", "stimulus_ids", "image_id", "image_ids", "stimulus"),
    "neuroid": ("neuroid_id", "neuroid_ids", "neuroid"),
}


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
    stimulus_ids, neuroid_ids
        What the file itself calls its stimuli and neurons; None where it does not.
    rows, columns
        Which stimuli and neurons to read, in this order; None for all.
    notes
        What was taken for granted.
    """

    path: Path
    axes: tuple[str, ...]
    n_stimuli: int
    n_neuroids: int
    stimulus_ids: tuple[str, ...] | None = None
    neuroid_ids: tuple[str, ...] | None = None
    rows: Sequence[int] | None = None
    columns: Sequence[int] | None = None
    notes: tuple[str, ...] = ()

    def in_order_of(self, images: Sequence[str]) -> ResponseArray:
        """Same responses in the order of the images, matched by the file's ids if it has some.

        Raises
        ------
        DataError
            If the ids are not those of the images.
        """
        if self.stimulus_ids is None:
            return self
        rows, notes = rows_of(self.path, self.stimulus_ids, images)
        return replace(self, rows=rows, notes=self.notes + notes)

    def of_neuroids(self, neuroid_ids: Sequence[str]) -> ResponseArray:
        """Responses of those neurons that a neuroid table names, if the file names its own.

        Raises
        ------
        DataError
            If the file lacks one.
        """
        if self.neuroid_ids is None:
            return self
        chosen = called(self.path, self.neuroid_ids, neuroid_ids)
        columns = [self.neuroid_ids.index(name) for name in chosen]
        return replace(self, neuroid_ids=tuple(chosen), columns=columns, n_neuroids=len(chosen))

    def read(self) -> Responses:
        """Read the values; see :class:`Responses`.

        Raises
        ------
        DataError
            If they are not real numbers, or cannot be read.
        """
        values, notes = _read_array(self.path)
        notes = self.notes + notes
        if values.dtype.kind not in "fiu":
            raise DataError(f"{self.path}: values are {values.dtype}, expected real numbers")
        if values.dtype.kind in "iu" and values.size:
            notes += (
                f"{self.path}: whole numbers from {values.min()} to {values.max()}; if one of them "
                "means that there is no response, write NaN instead",
            )
        values = values.transpose([self.axes.index(axis) for axis in _AXES if axis in self.axes])
        values = values if self.rows is None else values[self.rows]
        values = values if self.columns is None else values[:, self.columns]
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
    dimension_of = dict(zip(axes, names or (), strict=False))
    stimuli, neuroids = (
        _names_along(path, axis, sizes[axis], dimension_of.get(axis, ""))
        for axis in ("stimulus", "neuroid")
    )
    notes = []
    if neuroids:
        notes.append(f"{path}: neurons are called as the file does: {shortened(neuroids)}")
    known = {*_NAMED_IN["stimulus"], *_NAMED_IN["neuroid"], *(names or ())}
    shapes = _member_shapes(path)
    beside = [key for key in shapes if shapes[key] == (sizes["stimulus"],) and key not in known]
    if beside and not stimuli:
        notes.append(
            f"{path}: not taken for ids of the rows: {shortened(beside)}; if one of them is, call "
            "it stimulus_id"
        )
    return ResponseArray(
        path,
        axes,
        sizes["stimulus"],
        sizes["neuroid"],
        stimulus_ids=stimuli,
        neuroid_ids=neuroids,
        notes=tuple(notes),
    )


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


def _names_along(path: Path, axis: str, size: int, dimension: str) -> tuple[str, ...] | None:
    """What an array beside the responses calls the entries of an axis; 0, 1, 2 … are no names."""
    shapes = _member_shapes(path)
    for key in dict.fromkeys((*_NAMED_IN[axis], dimension)):
        # An array called stimulus may be the pictures.
        if key not in shapes or (len(shapes[key]) != 1 and key in (axis, dimension)):
            continue
        what = f"{path}: names its {'rows' if axis == 'stimulus' else 'neurons'} in {key}, which"
        values, along = _read_names(path, key, what)
        if values.shape != (size,) or (along and dimension and along != (dimension,)):
            raise DataError(
                f"{what} has shape {values.shape}{f' along {along[0]}' if along else ''}, but the "
                f"{axis} axis has {size} entries{f' along {dimension}' if dimension else ''}; "
                "response_axes says which axis of an array is which"
            )
        if values.dtype.kind not in "iu" or not np.array_equal(values, np.arange(size)):
            return tuple(as_text(v) if isinstance(v, bytes) else str(v) for v in values.tolist())
    return None


def _member_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Key → shape of the arrays in a file that may hold several."""
    match path.suffix.lower():
        case ".npz":
            return _npz_shapes(path)
        case ".zarr":
            return member_shapes(path)
    return {}


def _read_names(path: Path, key: str, what: str) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Texts or whole numbers, and what the file calls their axes."""
    try:
        if path.suffix.lower() == ".zarr":
            stored = stored_names(path, key)
            return stored.read()[0], stored.dimensions
        with _numpy_errors(path), np.load(path, allow_pickle=False) as archive:
            values = archive[key]
    except DataError as error:
        raise DataError(f"{what} cannot be read; {_WRITE_NAMES} ({error})") from error
    if values.dtype.kind not in "iuUS":
        raise DataError(f"{what} cannot be read, for it is {values.dtype}; {_WRITE_NAMES}")
    return values, None


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
            shapes = _npz_shapes(path)
            return shapes[only_key(path, shapes)], None
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
                return archive[only_key(path, _npz_shapes(path))], ()
        case ".zarr":
            return stored_array(path).read()
    with _numpy_errors(path):
        return np.load(path, allow_pickle=False), ()


def _npz_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Key → shape of the arrays of an archive, from their headers."""
    shapes = {}
    with _numpy_errors(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                version = np.lib.format.read_magic(member)
                read = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shapes[name.removesuffix(".npy")] = read(member)[0]
    return shapes


@contextmanager
def _numpy_errors(path: Path) -> Iterator[None]:
    """Name the file in whatever NumPy raises on a damaged or foreign one."""
    try:
        yield
    except DataError:
        raise
    except (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable NumPy file of numbers ({error})") from error
