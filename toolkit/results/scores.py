"""The result of one read-out or training: Parquet, a row per neuron, a summary in its metadata."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from toolkit.atomic import atomic_path
from toolkit.results.columns import (
    SCORE_COLUMNS,
    SUMMARY_COLUMNS,
    TRAINING_COLUMNS,
    names,
    schema,
)
from toolkit.results.errors import AGAIN, ResultError

SUMMARY_KEY = b"toolkit.encode.summary"
TASK_KEY = b"toolkit.task"  # the id, which is also the name of the file
DIGEST_KEY = b"toolkit.encode.summary.sha256"  # Parquet has checksums of pages, not of metadata

# Half of a pair of surrogates: JSON may hold it, tables may not.
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

_SCORE_SCHEMA = schema(SCORE_COLUMNS)
_REQUIRED = names(SUMMARY_COLUMNS)
_SUMMARY_SCHEMA = schema((*SUMMARY_COLUMNS, *TRAINING_COLUMNS))
_PYTHON_TYPES: dict[pa.DataType, type | tuple[type, ...]] = {
    pa.string(): str,
    pa.int64(): int,
    pa.float64(): (int, float),
    pa.timestamp("us", tz="UTC"): datetime,
}


def summarise(neurons: pd.DataFrame) -> dict[str, float | int]:
    """Aggregate the scores of one task's neurons; missing values are skipped.

    Parameters
    ----------
    neurons
        One row per neuron with the columns ``alpha, alpha_at_edge, ev, r, r2, mse, ceiling``.

    Returns
    -------
    dict
        One value per :data:`~toolkit.results.columns.AGGREGATE_COLUMNS`; NaN where no neuron has
        a value. The ceiled scores are NaN where the median ceiling is not positive; like
        Brain-Score's, they square the median r and so lose its sign.
    """
    ceiling, r_median = neurons["ceiling"].median(), neurons["r"].median()
    usable_ceiling = ceiling if ceiling > 0 else math.nan
    scored = np.isfinite(neurons["ev"].to_numpy(float)) & np.isfinite(neurons["r"].to_numpy(float))
    return {
        "alpha_median": float(neurons["alpha"].median()),
        "alpha_at_edge": float(neurons["alpha_at_edge"].mean()),
        "ev_mean": float(neurons["ev"].mean()),
        "ev_median": float(neurons["ev"].median()),
        "r_mean": float(neurons["r"].mean()),
        "r_median": float(r_median),
        "r2_mean": float(neurons["r2"].mean()),
        "mse_mean": float(neurons["mse"].mean()),
        "ceiling_median": float(ceiling),
        "ceiled_median_2026": float(r_median**2 / usable_ceiling),
        "ceiled_median_2018": float((r_median / usable_ceiling) ** 2),
        "n_neurons": len(neurons),
        "n_neurons_scored": int(scored.sum()),
    }


def write_scores(path: str | Path, neurons: pd.DataFrame, summary: dict[str, Any]) -> None:
    """Publish the result of one read-out or training; the file appears complete or not at all.

    Parameters
    ----------
    path
        ``RUN/results/<task id>.parquet``; its folder must exist.
    neurons
        One row per neuron, with exactly the columns of
        :data:`~toolkit.results.columns.SCORE_COLUMNS` in any order. NaN is stored as null.
    summary
        A value (None or NaN for "does not apply") for every
        :data:`~toolkit.results.columns.SUMMARY_COLUMNS`; ``created`` is a time with a time zone
        or its ISO form, ``versions`` a dict. A training adds
        :data:`~toolkit.results.columns.TRAINING_COLUMNS`. Further keys are kept in the file and
        ignored by the tables.

    Raises
    ------
    ResultError
        If a column or key is missing, superfluous or of another type than its schema says.
    """
    path = Path(path)
    table = _score_table(path, neurons)
    as_json = _to_json(summary, path).encode()
    summary_row(json.loads(as_json), source=path)
    table = table.replace_schema_metadata(
        {SUMMARY_KEY: as_json, DIGEST_KEY: _digest(as_json), TASK_KEY: path.stem.encode()}
    )
    with atomic_path(path, durable=True) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            # Scores hardly repeat: a dictionary makes the file larger and slower to read.
            use_dictionary=["region"],
            write_page_checksum=True,
        )


def read_scores(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a file that :func:`write_scores` wrote; missing scores come back as NaN or None.

    Raises
    ------
    ResultError
        If the file is missing, truncated, damaged, that of another task, or was written by
        something else.
    """
    table, summary = read_score_table(Path(path))
    return table.to_pandas(), summary


def read_score_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """Read as :func:`read_scores` does, with the neurons as an Arrow table."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
            table = file.read(use_threads=False)
    except FileNotFoundError as error:
        raise ResultError(f"{path}: there is no such result file") from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ResultError(f"{path}: cannot be read as a Parquet file ({error}); {AGAIN}") from error
    metadata = table.schema.metadata or {}
    if SUMMARY_KEY not in metadata or not table.schema.equals(_SCORE_SCHEMA):
        raise ResultError(
            f"{path}: not the result of a read-out or training: expected a summary and the columns "
            f"{', '.join(_SCORE_SCHEMA.names)}; found the columns {', '.join(table.column_names)}"
        )
    _require_own(path, metadata)
    return table, _summary(path, metadata)


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a file that :func:`write_scores` wrote, without reading its scores.

    Raises
    ------
    ResultError
        If the file is missing, that of another task, or its end or summary is damaged.
    """
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ResultError(f"{path}: cannot be read as a Parquet file ({error})") from error
    _require_own(path, metadata)
    return _summary(path, metadata)


def _summary(path: Path, metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    as_json = metadata.get(SUMMARY_KEY, b"")
    if metadata.get(DIGEST_KEY) != _digest(as_json):
        raise ResultError(f"{path}: its summary is not the one that was written; {AGAIN}")
    try:
        summary = json.loads(as_json)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path}: its summary is not JSON ({error}); {AGAIN}") from error
    if not isinstance(summary, dict):
        raise ResultError(f"{path}: its summary is no JSON object; {AGAIN}")
    return summary


def _digest(summary: bytes) -> bytes:
    return hashlib.sha256(summary).hexdigest().encode()


def _require_own(path: Path, metadata: Mapping[bytes, bytes]) -> None:
    if metadata.get(TASK_KEY) != path.stem.encode():
        other = metadata.get(TASK_KEY, b"no task").decode(errors="replace")
        raise ResultError(
            f"{path}: is the result of {other}, not of the task it is named after; {AGAIN}"
        )


def summary_row(summary: dict[str, Any], *, source: Path) -> dict[str, Any]:
    """The summary's part of a row of results.parquet, checked against the schema.

    Raises
    ------
    ResultError
        If a key is missing or its value has another type than its column; the message names
        ``source``.
    """
    missing = [name for name in _REQUIRED if name not in summary]
    if missing:
        raise ResultError(f"{source}: its summary lacks {', '.join(missing)}")
    row = {name: summary.get(name) for name in _SUMMARY_SCHEMA.names}
    if not isinstance(row["versions"], dict):
        raise ResultError(f"{source}: versions of its summary is {row['versions']!r}, no object")
    row["versions"] = json.dumps(row["versions"], sort_keys=True)
    row["created"] = _utc_time(row["created"], source)
    for field in _SUMMARY_SCHEMA:
        value = row[field.name]
        if value is not None and not _fits(value, field.type):
            raise ResultError(
                f"{source}: {field.name} of its summary is {value!r}, expected {field.type}"
            )
    return row


def _fits(value: Any, kind: pa.DataType) -> bool:
    if isinstance(value, bool) or not isinstance(value, _PYTHON_TYPES[kind]):
        return False
    if isinstance(value, int):
        return abs(value) < (2**63 if kind == pa.int64() else 2**53)
    return not (isinstance(value, str) and _HALF_CHARACTER.search(value))


def _score_table(path: Path, neurons: pd.DataFrame) -> pa.Table:
    expected = set(names(SCORE_COLUMNS))
    if set(neurons.columns) != expected:
        raise ResultError(
            f"{path}: the neurons' columns lack {sorted(expected - set(neurons.columns))} and have "
            f"the unknown {sorted(set(neurons.columns) - expected)}"
        )
    try:
        return pa.Table.from_pandas(neurons, schema=_SCORE_SCHEMA, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise ResultError(f"{path}: the neurons do not fit their schema: {error}") from error


def _utc_time(value: Any, source: Path) -> datetime:
    try:
        time = datetime.fromisoformat(value)
        in_utc = time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError) as error:
        raise ResultError(f"{source}: created is {value!r}, expected an ISO time") from error
    if time.tzinfo is None:
        raise ResultError(f"{source}: created is {value!r}, expected a time with a time zone")
    return in_utc


def _to_json(summary: dict[str, Any], path: Path) -> str:
    values = {key: _json_value(value) for key, value in summary.items()}
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ResultError(f"{path}: the summary is not JSON: {error}") from error


def _json_value(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    return value
