"""Responses from files: arrays whose axes are declared, or tables with one row per stimulus."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.dataset import check_unique, shortened
from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.naming import matched, unmatched
from toolkit.data.tables import TABLE_SUFFIXES, read_parquet

_AXES = ("stimulus", "neuroid", "repetition")
_ARRAY_SUFFIXES = (".npy", ".npz", ".zarr")
_ID_COLUMN = "stimulus_id"
_ARCHIVE_KEY = "responses"
_PANDAS_INDEX = "__index_level_"  # how pandas calls a nameless index that it stores


@dataclass(frozen=True)
class ResponseHeader:
    """What a response file says of itself before its values are read.

    ``n_stimuli`` is None for a CSV file, whose length only reading tells; ``neuroid_ids`` is None
    for arrays, which name nothing.
    """

    n_stimuli: int | None
    n_neuroids: int
    neuroid_ids: tuple[str, ...] | None


def read_header(path: Path, axes: Sequence[str]) -> ResponseHeader:
    """Shape of the responses at ``path``, without reading them.

    Parameters
    ----------
    path
        ``.npy``, ``.npz`` or ``.zarr`` (a single array, or one called ``responses``), ``.csv`` or
        ``.parquet`` (column ``stimulus_id``, every other column a neuroid).
    axes
        What each axis of an array is: ``stimulus``, ``neuroid`` and perhaps ``repetition``, in
        the array's order. Tables have theirs fixed.

    Raises
    ------
    DataError
        If the file is missing, unreadable, of another kind, or not of the declared axes.
    """
    if not path.exists():
        raise MissingDataError(f"{path}: no such file")
    if path.suffix.lower() in TABLE_SUFFIXES:
        columns, n_rows = _table_header(path)
        if _ID_COLUMN not in columns:
            raise DataError(f"{path}: no column {_ID_COLUMN}; it has {shortened(columns)}")
        check_unique(columns, "column", path)
        neuroid_ids = tuple(column for column in columns if column != _ID_COLUMN)
        return ResponseHeader(n_rows, len(neuroid_ids), neuroid_ids)
    _check_axes(path, axes)
    shape = _array_shape(path)
    if len(shape) != len(axes):
        raise DataError(
            f"{path}: shape {shape} has {len(shape)} axes, but response_axes names {len(axes)}: "
            f"{', '.join(axes)}"
        )
    sizes = dict(zip(axes, shape, strict=True))
    return ResponseHeader(sizes["stimulus"], sizes["neuroid"], None)


def read_responses(
    path: Path, axes: Sequence[str], stimulus_ids: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read responses in the order of ``stimulus_ids``.

    Parameters
    ----------
    path, axes
        As for :func:`read_header`, which is to be called first for its checks.
    stimulus_ids
        The images; a table's rows are matched to them by id, an array is taken to follow them.

    Returns
    -------
    responses
        float64 (n_stimuli, n_neuroids), the mean over the repetitions that are not NaN.
    repetitions
        float32 or float64 (n_stimuli, n_neuroids, n_repetitions), or None without that axis.

    Raises
    ------
    DataError
        If values are not real numbers, or a table's ids are not those of the images.
    """
    if path.suffix.lower() in TABLE_SUFFIXES:
        return _table_values(path, stimulus_ids), None
    values = _read_array(path)
    if values.dtype.kind not in "fiu":
        raise DataError(f"{path}: values are {values.dtype}, expected real numbers")
    values = values.transpose([axes.index(axis) for axis in _AXES if axis in axes])
    if values.ndim == 2:
        return np.ascontiguousarray(values, dtype=np.float64), None
    dtype = np.float32 if values.dtype == np.float32 else np.float64
    repetitions = np.ascontiguousarray(values, dtype=dtype)
    return mean_over_repetitions(repetitions), repetitions


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


def _check_axes(path: Path, axes: Sequence[str]) -> None:
    if len(set(axes)) != len(axes) or not {"stimulus", "neuroid"} <= set(axes) <= set(_AXES):
        raise DataError(
            f"{path}: response_axes is {list(axes)}; it must name stimulus and neuroid, and "
            "repetition if there is one, each once, in the order of the array's axes"
        )


def _array_shape(path: Path) -> tuple[int, ...]:
    match path.suffix.lower():
        case ".npy":
            with _numpy_errors(path):
                return np.load(path, mmap_mode="r", allow_pickle=False).shape
        case ".npz":
            return _npz_shape(path)
        case ".zarr":
            return _open_zarr(path).shape
    raise DataError(
        f"{path}: responses must be one of {', '.join(_ARRAY_SUFFIXES)}, "
        f"{', '.join(sorted(TABLE_SUFFIXES))}"
    )


def _read_array(path: Path) -> np.ndarray:
    match path.suffix.lower():
        case ".npz":
            with _numpy_errors(path), np.load(path, allow_pickle=False) as archive:
                return archive[_only_key(path, archive.files)]
        case ".zarr":
            return np.asarray(_open_zarr(path)[...])
    with _numpy_errors(path):
        return np.load(path, allow_pickle=False)


def _npz_shape(path: Path) -> tuple[int, ...]:
    with _numpy_errors(path), zipfile.ZipFile(path) as archive:
        key = _only_key(path, [name.removesuffix(".npy") for name in archive.namelist()])
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
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable NumPy file of numbers ({error})") from error


def _open_zarr(path: Path) -> Any:
    import zarr

    try:
        node = zarr.open(path, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"{path}: not a readable zarr store ({error})") from error
    if isinstance(node, zarr.Group):
        return node[_only_key(path, sorted(node.array_keys()))]
    return node


def _only_key(path: Path, keys: Sequence[str]) -> str:
    """Key of the responses among several arrays: the only one, or the one called so."""
    if len(keys) == 1:
        return keys[0]
    if _ARCHIVE_KEY in keys:
        return _ARCHIVE_KEY
    raise DataError(f"{path}: has arrays {', '.join(keys)}; call the responses {_ARCHIVE_KEY!r}")


def _table_header(path: Path) -> tuple[list[str], int | None]:
    if path.suffix.lower() == ".csv":
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                return next(csv.reader(file), []), None
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a readable CSV file ({error})") from error
    try:
        metadata = pq.read_metadata(path)
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
    names = metadata.schema.to_arrow_schema().names
    return [n for n in names if not n.startswith(_PANDAS_INDEX)], metadata.num_rows


def _table_values(path: Path, stimulus_ids: tuple[str, ...]) -> np.ndarray:
    frame = _read_table(path)
    written = frame.pop(_ID_COLUMN).astype(str).tolist()
    rows = matched(written, stimulus_ids, "the images")
    without_image = [name for name, row in zip(written, rows, strict=True) if row is None]
    if without_image:
        raise DataError(
            f"{path}: no image for {_ID_COLUMN} {unmatched(without_image, stimulus_ids)}"
        )
    check_unique([row for row in rows if row is not None], _ID_COLUMN, path)
    present = set(rows)
    without_response = [repr(i) for i in stimulus_ids if i not in present]
    if without_response:
        raise DataError(
            f"{path}: {len(rows)} rows for {len(stimulus_ids)} images; no row for "
            f"{_ID_COLUMN} {shortened(without_response)}"
        )
    not_numbers = [c for c in frame if not pd.api.types.is_numeric_dtype(frame[c])]
    if not_numbers:
        raise DataError(f"{path}: columns that are not numbers: {shortened(not_numbers)}")
    frame.index = pd.Index(rows)
    return np.ascontiguousarray(frame.loc[list(stimulus_ids)].to_numpy(dtype=np.float64))


def _read_table(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".parquet":
        columns, _ = _table_header(path)
        return read_parquet(path, columns)
    try:
        return pd.read_csv(path, converters={_ID_COLUMN: str}, encoding="utf-8-sig")
    except ValueError as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
