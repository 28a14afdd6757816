"""The tables: one result file per read-out or training, and the two tables assembled from them.

Names are imported on first use, so that importing this package loads neither pandas nor pyarrow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.results.best import best_layers, print_best
    from toolkit.results.collecting import collect_run
    from toolkit.results.columns import describe
    from toolkit.results.errors import ResultError
    from toolkit.results.loading import Tables, load
    from toolkit.results.provenance import git_sha, versions
    from toolkit.results.scores import read_scores, summarise, write_scores
    from toolkit.results.tables import PlannedRow, collect

__all__ = [
    "PlannedRow",
    "ResultError",
    "Tables",
    "best_layers",
    "collect",
    "collect_run",
    "describe",
    "git_sha",
    "load",
    "print_best",
    "read_scores",
    "summarise",
    "versions",
    "write_scores",
]

_MODULE_OF = {
    "PlannedRow": "tables",
    "ResultError": "errors",
    "Tables": "loading",
    "best_layers": "best",
    "collect": "tables",
    "collect_run": "collecting",
    "describe": "columns",
    "git_sha": "provenance",
    "load": "loading",
    "print_best": "best",
    "read_scores": "scores",
    "summarise": "scores",
    "versions": "provenance",
    "write_scores": "scores",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
