"""Responses as tables: a row per stimulus, and which of the columns are neurons."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PureWindowsPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from toolkit.data.dataset import check_unique, shortened
from toolkit.data.errors import DataError
from toolkit.data.naming import IMAGE_SUFFIXES, unmatched

_ID_COLUMN = "stimulus_id"
# How pandas and R call the numbers of the rows when they write them beside the data.
_ROW_NUMBERS = re.compile(r"|index|Unnamed: \d+|__index_level_\d+__")
# How they call the columns of an array that has no names.
_COLUMN_NUMBER = re.compile(r"(?:V|Var)?(\d+)")
_MISSING = ("", "NA", "NaN", "nan", "null", "None")
_WHOLE_NUMBER = r"^[+-]?\d+$"
_LARGEST_BLOCK_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class ResponseTable:
    """A table with the columns that are neurons.

    Parameters
    ----------
    path
        The file.
    stimulus_ids
        Of each row.
    columns
        Names of the neurons, in the order of the file.
    values
        float64 (n_rows, n_columns), NaN where a cell is empty.
    notes
        What was taken for granted.
    """

    path: Path
    stimulus_ids: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...]

    def in_order_of(self, images: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
        """Values in the order of the images, float64 (n_images, n_columns); see `rows_of`."""
        rows, notes = rows_of(self.path, self.stimulus_ids, images)
        return self.values[rows], notes


def are_numbers(names: Sequence[str]) -> bool:
    """Whether neurons are called 0, 1, 2 … (or V1, Var1), as those of an array without names."""
    matches = map(_COLUMN_NUMBER.fullmatch, names)
    numbers = sorted(int(match[1]) if match else -1 for match in matches)
    return numbers[0] in (0, 1) and bool(np.all(np.diff(numbers) == 1))


def rows_of(
    path: Path, stimulus_ids: Sequence[str], images: Sequence[str]
) -> tuple[list[int], tuple[str, ...]]:
    """Which row of a file is the response to each image, matched by id.

    Ids that differ only in folder, suffix, or leading zeros are matched if that is clear.

    Returns
    -------
    (n_images,) rows, and a line that says so if ids were not equal.

    Raises
    ------
    DataError
        If the ids are not those of the images.
    """
    rows = _spelled_as(stimulus_ids, images)
    _check_ids(path, images, rows)
    row_of = {row: position for position, row in enumerate(rows)}
    pairs = zip(stimulus_ids, rows, strict=True)
    differing = [f"{row!r} for image {image!r}" for row, image in pairs if row != image]
    note = f"{path}: {_ID_COLUMN} is taken, {shortened(differing)}"
    return [row_of[image] for image in images], (note,) if differing else ()


def _check_ids(path: Path, images: Sequence[str], rows: Sequence[str]) -> None:
    try:
        check_unique(rows, _ID_COLUMN, path)
    except DataError as error:
        raise DataError(
            f"{error}; average its rows, or give an array with an axis repetition"
        ) from error
    known, present = set(images), set(rows)
    without_image = [row for row in rows if row not in known]
    if without_image:
        raise DataError(
            f"{path}: no image for {_ID_COLUMN} {unmatched(without_image, images)}; "
            f"there are {len(images)} images"
        )
    without_response = [repr(i) for i in images if i not in present]
    if without_response:
        raise DataError(
            f"{path}: {len(rows)} rows for {len(images)} images; no row for "
            f"{_ID_COLUMN} {shortened(without_response)}"
        )


def read_response_table(
    path: Path, neuroid_columns: Sequence[str] | None, neuroid_ids: Sequence[str] | None
) -> ResponseTable:
    """Read a table whose rows are stimuli, named by ``stimulus_id``.

    Which columns are neurons is said by ``neuroid_columns``, or by the ids of a neuroid table.
    Otherwise every column is, except those that pandas and R write to number the rows. Refused is
    what looks like something else beside the others: text, whole numbers among fractions, numbers
    of the rows, a name without a digit among names with one.

    Parameters
    ----------
    path
        ``.csv`` or ``.parquet``.
    neuroid_columns
        Names or glob patterns.
    neuroid_ids
        Ids of the neuroid table.

    Raises
    ------
    DataError
        If the file is unreadable, lacks a column, or it is not clear which columns are neurons.
    """
    table = _read(path)
    names = table.column_names
    if _ID_COLUMN not in names:
        raise DataError(f"{path}: no column {_ID_COLUMN}; it has {shortened(names) or 'none'}")
    check_unique(names, "column", path)
    candidates = [name for name in names if name != _ID_COLUMN]
    if neuroid_columns is not None:
        chosen = _matching(path, candidates, neuroid_columns)
    elif neuroid_ids is not None:
        chosen = called(path, candidates, neuroid_ids)
    else:
        chosen = [name for name in candidates if not _ROW_NUMBERS.fullmatch(name)]
        if not chosen:
            raise DataError(f"{path}: has no columns of neurons, only {shortened(names)}")
    ids = _texts(path, table[_ID_COLUMN])
    columns = {name: _numbers(path, name, table[name], ids) for name in chosen}
    is_guess = neuroid_columns is None and neuroid_ids is None
    if is_guess:
        _refuse_doubtful(path, columns, {name: _is_whole(table[name]) for name in chosen})
    left_out = [repr(name) for name in candidates if name not in columns]
    why = "the numbers of the rows" if is_guess else "not named as neurons"
    note = f"{path}: {len(chosen)} columns are neurons: {shortened(chosen)}"
    return ResponseTable(
        path=path,
        stimulus_ids=ids,
        columns=tuple(chosen),
        values=np.column_stack(list(columns.values())),
        notes=(note + (f"; left out, {why}: {shortened(left_out)}" if left_out else ""),),
    )


def _matching(path: Path, candidates: Sequence[str], patterns: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in candidates if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            nearest = get_close_matches(pattern, candidates, n=5, cutoff=0)
            raise DataError(
                f"{path}: neuroid_columns has {pattern!r}, but no column is called so; "
                f"the nearest are {', '.join(map(repr, nearest)) or 'none'}"
            )
        chosen.update(found)
    return [name for name in candidates if name in chosen]


def called(path: Path, candidates: Sequence[str], neuroid_ids: Sequence[str]) -> list[str]:
    """Those neurons of a file that a neuroid table names, in the order of the file.

    Raises
    ------
    DataError
        If the file lacks one.
    """
    missing = [repr(name) for name in neuroid_ids if name not in set(candidates)]
    if missing:
        raise DataError(
            f"{path}: no column for the neuroid_id {shortened(missing)} of the neuroid table; it "
            f"has {shortened(list(map(repr, candidates))) or 'none'}"
        )
    return [name for name in candidates if name in set(neuroid_ids)]


def _refuse_doubtful(
    path: Path, columns: Mapping[str, np.ndarray], is_whole: Mapping[str, bool]
) -> None:
    """Refuse columns that are numbers, but hardly responses beside the others."""
    numbering = [name for name, values in columns.items() if _numbers_rows(values)]
    whole = [name for name in columns if is_whole[name]]
    without_digit = [name for name in columns if not re.search(r"\d", name)]
    doubts: dict[str, str] = {}
    for names, why in (
        (numbering, "it numbers the rows"),
        (whole, "it has whole numbers, others fractions"),
        (without_digit, "its name has no number, others' have"),
    ):
        if len(names) < len(columns):
            doubts = {**dict.fromkeys(names, why), **doubts}
    if not doubts:
        return
    clear = [name for name in columns if name not in doubts] or list(columns)
    prefix = re.sub(r"\d.*", "", clear[0])
    all_begin_so = len(clear) > 1 and all(name.startswith(prefix) for name in clear)
    if prefix and all_begin_so and not any(name.startswith(prefix) for name in doubts):
        clear = [f"{prefix}*"]
    named = [f"{name!r} ({why})" for name, why in doubts.items()]
    written = ", ".join(f'"{name}"' for name in clear[:5]) + (", …" if len(clear) > 5 else "")
    raise DataError(
        f"{path}: perhaps no neurons: columns {shortened(named)}; write which columns are, by name "
        f"or pattern: neuroid_columns: [{written}]"
    )


def _numbers_rows(values: np.ndarray) -> bool:
    ordered = np.sort(values)
    return len(values) > 1 and bool(np.all(np.diff(ordered) == 1))


def _read(path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path}: not a file")
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                return file.read()
        return pa_csv.read_csv(
            path,
            # In one block if possible: a row must not be longer than a block.
            pa_csv.ReadOptions(block_size=min(path.stat().st_size + 1, _LARGEST_BLOCK_BYTES)),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(_header(path), pa.string()), strings_can_be_null=False
            ),
        )
    except (pa.ArrowException, UnicodeDecodeError, OSError, csv.Error) as error:
        raise DataError(f"{path}: not a readable table ({error})") from error


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = next(csv.reader(file), [])
    if len(names) == 1:
        for separator in (";", "\t"):
            if separator in names[0]:
                raise DataError(
                    f"{path}: its values are separated by {separator!r}; save it with commas "
                    "between the values, and points in the numbers"
                )
    return names


def _texts(path: Path, column: pa.ChunkedArray) -> tuple[str, ...]:
    if column.null_count or pa.types.is_floating(column.type):
        raise DataError(
            f"{path}: {column.null_count} rows have no {_ID_COLUMN}, or it is a fraction "
            f"({column.type}); write it as text"
        )
    return tuple(column.cast(pa.string()).to_pylist())


def _numbers(path: Path, name: str, column: pa.ChunkedArray, ids: Sequence[str]) -> np.ndarray:
    """Values as float64, NaN where a cell is empty."""
    if path.suffix.lower() == ".parquet":
        kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        if not any(is_kind(column.type) for is_kind in kinds):
            raise _not_numbers(path, name, f"it is {column.type}")
        return np.asarray(column.to_numpy(), dtype=np.float64)
    cells = _cells(column)
    try:
        return np.asarray(cells.cast(pa.float64()).to_numpy(), dtype=np.float64)
    except pa.ArrowInvalid as error:
        text, row = _first_text(cells, ids)
        raise _not_numbers(path, name, f"{text[:50]!r} for {row!r}") from error


def _cells(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Texts of a CSV column without spaces around them, null where they say that nothing is."""
    texts = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(texts, pa.array(_MISSING)), None, texts)


def _not_numbers(path: Path, name: str, why: str) -> DataError:
    return DataError(
        f"{path}: column {name!r} is not of numbers: {why}; where there is no response, leave the "
        "cell empty; if it is no neuron, name the neurons in neuroid_columns"
    )


def _first_text(cells: pa.ChunkedArray, ids: Sequence[str]) -> tuple[str, str]:
    """The first cell that is no number, and its row."""
    for cell, row in zip(cells.combine_chunks(), ids, strict=True):
        try:
            cell.cast(pa.float64())
        except pa.ArrowInvalid:
            return cell.as_py(), row
    raise AssertionError("every cell is a number")


def _is_whole(column: pa.ChunkedArray) -> bool:
    if not pa.types.is_string(column.type):
        return bool(pa.types.is_integer(column.type))
    return bool(pc.all(pc.match_substring_regex(_cells(column), _WHOLE_NUMBER)).as_py())


def _spelled_as(rows: Sequence[str], images: Sequence[str]) -> tuple[str, ...]:
    """The image that each row means, if that is clear for all of them; otherwise the rows."""
    known = set(images)
    of_name: dict[str, list[str]] = {}
    for image in images:
        of_name.setdefault(_plain_parts(image)[-1], []).append(image)
    found = []
    for row in rows:
        meant = [image for image in of_name.get(_plain_parts(row)[-1], ()) if _agree(row, image)]
        if row not in known and len(meant) != 1:
            return tuple(rows)
        found.append(row if row in known else meant[0])
    return tuple(found)


def _agree(one: str, other: str) -> bool:
    """Whether two ids end in the same folders, as far as both name some."""
    parts = [_plain_parts(one)[::-1], _plain_parts(other)[::-1]]
    return all(a == b for a, b in zip(*parts, strict=False))


def _plain_parts(stimulus: str) -> tuple[str, ...]:
    """Folders and name of an id, without what its spellings differ in: suffix, zeros, accents."""
    file = PureWindowsPath(unicodedata.normalize("NFC", stimulus) or " ")
    name = file.stem if file.suffix.lower() in IMAGE_SUFFIXES else file.name
    return (*file.parts[:-1], str(int(name)) if name.isdecimal() else name)
