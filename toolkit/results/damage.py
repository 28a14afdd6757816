"""Results that cannot be used: their tasks are done again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from toolkit.results.errors import AGAIN, ResultError
from toolkit.results.scores import read_summary

# Threads hide the latency of a network file system.
_N_READERS = 8

_TYPES: dict[str, Any] = {"seconds": (int, float), "share": (int, float), "device": str}


def read_report(path: Path) -> dict[str, Any]:
    """What an extraction or a probe says of itself, ``RUN/results/<task id>.json``.

    Raises
    ------
    ResultError
        If the file is missing, damaged, or the report of another task.
    """
    try:
        report = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ResultError(f"{path}: there is no such report") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{path}: is damaged ({error}); {AGAIN}") from error
    if not isinstance(report, dict) or report.get("task_id") != path.stem:
        raise ResultError(f"{path}: is not the report of the task it is named after; {AGAIN}")
    for name, kind in _TYPES.items():
        if name in report and not isinstance(report[name], kind):
            raise ResultError(f"{path}: is damaged ({name} is {report[name]!r}); {AGAIN}")
    return report


def damaged_results(paths: Iterable[Path]) -> dict[Path, ResultError]:
    """Files that are no results of the tasks they are named after, as far as their ends tell.

    Parameters
    ----------
    paths
        Result files of any tasks; those that are not there are left out.

    Returns
    -------
    dict
        For each damaged file what is wrong with it.
    """

    def fault(path: Path) -> ResultError | None:
        try:
            (read_report if path.suffix == ".json" else read_summary)(path)
        except ResultError as error:
            return error if path.exists() else None
        return None

    found = list(paths)
    with ThreadPoolExecutor(_N_READERS) as readers:
        faults = list(readers.map(fault, found))
    return {path: error for path, error in zip(found, faults, strict=True) if error is not None}
