"""HDF5 files opened and read with messages that name the file and the key."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from toolkit.data.dataset import shortened
from toolkit.data.errors import DataError, MissingDataError

# Attributes that change what values mean, and what they are where they change nothing.
_ENCODING = {
    "scale_factor": 1,
    "add_offset": 0,
    "_FillValue": np.nan,
    "missing_value": np.nan,
    "conversion": 1,
    "offset": 0,
}


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
        If there is none, or its attributes (of CF or NWB) say that its values stand for others.
    """
    found = file.get(key)
    if not isinstance(found, h5py.Dataset):
        raise DataError(f"{path}: no data set {key}")
    for attribute, neutral in _ENCODING.items():
        value = np.ravel(found.attrs.get(attribute, neutral))
        is_number = value.dtype.kind in "fiu"
        if not (is_number and np.array_equal(value.astype(float), [neutral], equal_nan=True)):
            raise DataError(
                f"{path}: {key} has {attribute} {shortened(value.tolist())}, so its values stand "
                "for others; write them as they are meant, without that attribute"
            )
    return found


def texts(dataset: h5py.Dataset) -> tuple[str, ...]:
    """Values of a data set of texts: UTF-8 (which ASCII is), or Latin-1 where they are not that.

    Raises
    ------
    DataError
        If its values are neither texts nor whole numbers.
    """
    values = dataset[()]
    if dataset.dtype.kind in "iu":
        return tuple(map(str, values.tolist()))
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise DataError(f"{dataset.file.filename}: {dataset.name} is {dataset.dtype}, not texts")
    return tuple(as_text(bytes(value)) for value in values)


def as_text(value: bytes) -> str:
    """Bytes as text: UTF-8 (which ASCII is), or Latin-1 where they are not that."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
