"""Tables inside a page: columns as base64 of typed arrays, texts as numbers of their values."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pandas as pd

# Longer tables keep seven digits of each number, and so half the bytes.
_LONG_ROWS = 20_000


def embed(frame: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON values; ``data.js`` reads it.

    Returns
    -------
    ``{"n": rows, "columns": {name: {"type": "f8", "data": base64, "is_text": False}}}``,
    little-endian; with ``"values"`` where the numbers count into a list. NaN is missing, and so is
    the text None.
    """
    return {
        "n": len(frame),
        "columns": {str(name): _column(values, len(frame)) for name, values in frame.items()},
    }


def _column(values: pd.Series, n_rows: int) -> dict[str, Any]:
    if isinstance(values.dtype, pd.DatetimeTZDtype):
        values = values.dt.strftime("%Y-%m-%d %H:%M UTC")
    if pd.api.types.is_bool_dtype(values):
        return _packed(values.to_numpy(np.uint8))
    if not pd.api.types.is_numeric_dtype(values):
        codes, texts = pd.factorize(values.astype(object), use_na_sentinel=False)
        listed = [None if pd.isna(text) else str(text) for text in texts]
        return {**_packed(_smallest(codes)), "values": listed, "is_text": True}
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    if pd.api.types.is_integer_dtype(values) and not np.isnan(numbers).any():
        return _packed(_smallest(values.to_numpy(np.int64)))
    distinct, codes = np.unique(numbers, return_inverse=True)
    if n_rows > _LONG_ROWS and len(distinct) < n_rows / 10 and not np.isnan(distinct).any():
        return {**_packed(_smallest(codes)), "values": distinct.tolist()}
    return _packed(numbers.astype(np.float32 if n_rows > _LONG_ROWS else np.float64))


def _smallest(numbers: np.ndarray) -> np.ndarray:
    """The same whole numbers in as few bytes as they need."""
    low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    for dtype in (np.uint8, np.uint16, np.uint32):
        if low >= 0 and high <= np.iinfo(dtype).max:
            return numbers.astype(dtype)
    return numbers.astype(np.float64)


def _packed(numbers: np.ndarray) -> dict[str, Any]:
    little = numbers.astype(numbers.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    kind = f"{numbers.dtype.kind}{numbers.dtype.itemsize}"
    return {"type": kind, "data": data, "is_text": False}
