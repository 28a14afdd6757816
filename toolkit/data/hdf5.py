"""HDF5 files opened and read with messages that name the file and the key."""

from __future__ import annotations

from pathlib import Path

import h5py

from toolkit.data.errors import DataError, MissingDataError


def open_hdf5(path: Path) -> h5py.File:
    """Open for reading.

    Raises
    ------
    DataError
        If there is no such file, or it is not HDF5.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error})") from error


def require_dataset(file: h5py.File, path: Path, key: str) -> h5py.Dataset:
    """Return the data set of this key.

    Raises
    ------
    DataError
        If there is none.
    """
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: no data set {key}")
    return found


def texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Values of a data set of texts."""
    return tuple(v if isinstance(v, str) else bytes(v).decode("latin-1") for v in dataset[()])
