"""Tables that say what stimuli and neurons are: CSV or parquet, every value read as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.data.dataset import SPLIT_NAMES, check_unique, shortened
from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.naming import natural_key

TABLE_SUFFIXES = frozenset({".csv", ".parquet"})


@dataclass(frozen=True)
class StimulusTable:
    """One row per stimulus; a column that the file lacks is None."""

    ids: tuple[str, ...] | None
    filenames: tuple[str, ...] | None
    object_names: tuple[str, ...] | None
    category_names: tuple[str, ...] | None
    split_names: tuple[str, ...] | None


def read_stimulus_table(path: Path) -> StimulusTable:
    """Read ``stimulus_id``, ``filename``, ``object_name``, ``category_name`` and ``split``.

    ``label`` is another name of ``category_name``. Other columns are ignored. An empty split means
    that the stimulus belongs to none.

    Raises
    ------
    DataError
        If the file is missing or unreadable, has neither ``stimulus_id`` nor ``filename``, or both
        ``label`` and ``category_name``, names an id or file twice, or names a split other than
        train, val and test.
    """
    frame = _read(path)
    table = StimulusTable(
        ids=_column(frame, "stimulus_id"),
        filenames=_column(frame, "filename"),
        object_names=_column(frame, "object_name"),
        category_names=_categories(frame, path),
        split_names=_column(frame, "split"),
    )
    if table.ids is None and table.filenames is None:
        raise DataError(
            f"{path}: no column stimulus_id or filename; it has {', '.join(map(str, frame))}"
        )
    for column, values in (("stimulus_id", table.ids), ("filename", table.filenames)):
        _check_one_split_each(path, column, values, table.split_names)
        check_unique(values or (), column, path)
    unknown = sorted({repr(s) for s in table.split_names or () if s not in ("", *SPLIT_NAMES)})
    if unknown:
        raise DataError(
            f"{path}: unknown split {shortened(unknown)}; write one of {', '.join(SPLIT_NAMES)}, "
            "or nothing for a stimulus in none"
        )
    if table.split_names is not None and not any(table.split_names):
        raise DataError(f"{path}: column split is empty in every row; fill it or remove it")
    return table


def read_neuroid_table(path: Path) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """Read neuroid ids and, if the table has that column, the region of each.

    Raises
    ------
    DataError
        If the file is missing or unreadable, has no ``neuroid_id``, or repeats one.
    """
    frame = _read(path)
    ids = _column(frame, "neuroid_id")
    if ids is None:
        raise DataError(f"{path}: no column neuroid_id; it has {', '.join(map(str, frame))}")
    check_unique(ids, "neuroid id", path)
    return ids, _column(frame, "region")


def split_indices(split_names: tuple[str, ...] | None) -> dict[str, np.ndarray]:
    """Split → increasing indices of its rows, for the splits that occur."""
    if split_names is None:
        return {}
    names = np.array(split_names)
    return {split: np.flatnonzero(names == split) for split in SPLIT_NAMES if split in names}


def read_parquet(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a file, or a folder of parts, every column as one, also what pandas stored as index.

    Parts follow one another in the natural order of their names; whole numbers stay whole beside
    missing ones.
    """
    parts = [p for p in path.rglob("*.parquet") if p.is_file()] if path.is_dir() else [path]
    parts.sort(key=lambda part: natural_key(part.relative_to(path).as_posix()))
    if not parts:
        raise DataError(f"{path}: a folder without .parquet files")
    table = pq.read_table([str(part) for part in parts], columns=columns)
    return table.to_pandas(ignore_metadata=True, integer_object_nulls=True)


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise MissingDataError(f"{path}: no such file")
    try:
        if path.suffix.lower() == ".parquet":
            frame = read_parquet(path).astype(object)
            return frame.where(frame.notna(), "").astype(str)
        return pd.read_csv(path, dtype=str, keep_default_na=False)
    except DataError:
        raise
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error


def _categories(frame: pd.DataFrame, path: Path) -> tuple[str, ...] | None:
    if "label" in frame and "category_name" in frame:
        raise DataError(f"{path}: has both label and category_name, which mean the same; keep one")
    return _column(frame, "label" if "label" in frame else "category_name")


def _column(frame: pd.DataFrame, name: str) -> tuple[str, ...] | None:
    return tuple(frame[name]) if name in frame else None


def _check_one_split_each(
    path: Path, column: str, values: tuple[str, ...] | None, splits: tuple[str, ...] | None
) -> None:
    """A stimulus in two splits would leak; say so rather than only that it is repeated."""
    seen: dict[str, str] = {}
    for value, split in zip(values or (), splits or (), strict=False):
        if seen.setdefault(value, split) != split:
            raise DataError(
                f"{path}: splits overlap: {column} {value!r} is in {seen[value]!r} and {split!r}"
            )
