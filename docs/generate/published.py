"""What the reports published: the lines of ``published.yaml``, and which results they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from toolkit.results import Tables

PUBLISHED = Path(__file__).with_name("published.yaml")

Row = Mapping[str, Any]
"""A row of ``results.parquet``."""


class ReportError(ValueError):
    """A run from which no value of the reports can be taken."""


class SelectionError(ReportError):
    """A line picks no row of the results, or several."""


@dataclass(frozen=True)
class Line:
    """One published system.

    Parameters
    ----------
    row, name
        Row of the report, and which of its systems; empty if it has one.
    system
        What was done, of the whole row.
    config
        Stem of the file in ``configs/reports`` that repeats it.
    published
        Metric → value as it is written, or words.
    metrics
        What is measured, each with a number that shows digits and unit.
    select
        Column of ``results.parquet`` → value of the row; empty where nothing is to be measured.
    is_best
        Whether several rows are selected, of which the highest mean r counts.
    """

    row: str
    name: str
    system: str
    config: str
    published: Mapping[str, str] | str
    metrics: Mapping[str, str]
    select: Mapping[str, str]
    is_best: bool

    @property
    def id(self) -> str:
        """What the line is filed under."""
        return f"{self.row} {self.name}".strip()

    def rows_in(self, results: pd.DataFrame) -> pd.DataFrame:
        """The row it selects, or the rows of which the best counts.

        Raises
        ------
        SelectionError
            If there is none, or several without a best.
        """
        fits = results["experiment"] == self.config
        for column, value in self.select.items():
            fits &= results[column].astype("string").eq(value).fillna(False).astype(bool)
        found = results[fits]
        if found.empty or (len(found) > 1 and not self.is_best):
            raise SelectionError(
                f"line {self.id!r} selects {dict(self.select)}, which are {len(found)} of the "
                f"{len(results)} rows; it must be {'one or more' if self.is_best else 'one'}"
            )
        return found


@dataclass(frozen=True)
class Metric:
    """How a metric is written, and where its value is taken from: a row of results, the tables."""

    heading: str
    of: Callable[[Row, Tables], Any]


def _column(name: str) -> Callable[[Row, Tables], Any]:
    return lambda row, _: row[name]


def _median_r2(row: Row, tables: Tables) -> float:
    neurons = tables.neurons
    return float(neurons.loc[neurons["row_id"] == row["row_id"], "r2"].median())


def _optimizer(row: Row, _: Tables) -> str:
    chosen = json.loads(row["recipe"])["recipe"]["optimizer"]
    return f"{chosen['kind']}, lr {chosen['lr']:g}"


METRICS = {
    "ev": Metric("EV", _column("ev_mean")),
    "r": Metric("r", _column("r_mean")),
    "r2": Metric("R²", _column("r2_mean")),
    "r2_median": Metric("median R²", _median_r2),
    "mse": Metric("MSE", _column("mse_mean")),
    "accuracy": Metric("accuracy", _column("accuracy")),
    "spearman": Metric("Spearman's r", _column("similarity")),
    "optimizer": Metric("", _optimizer),
}


@cache
def _content() -> dict[str, Any]:
    # BaseLoader keeps every value as it is written.
    return dict(yaml.load(PUBLISHED.read_text(encoding="utf-8"), Loader=yaml.BaseLoader))


@cache
def lines() -> tuple[Line, ...]:
    """Every line of ``published.yaml``, in order."""
    return tuple(
        _line(row, name, {**shared, **own}, {**shared.get("select", {}), **own.get("select", {})})
        for row, shared in _content()["rows"].items()
        for name, own in shared.get("lines", {"": {}}).items()
    )


def _line(row: str, name: str, keys: dict[str, Any], select: dict[str, str]) -> Line:
    published = keys["published"]
    return Line(
        row=row,
        name=name,
        system=keys["system"],
        config=keys["config"],
        published=published,
        metrics=keys.get("metrics", {}) if isinstance(published, str) else published,
        select=select,
        is_best=keys.get("best") == "r",
    )


def data_set_facts(name: str) -> dict[str, Any]:
    """What is known of a report's data set: ``regions``, perhaps ``n_neurons`` and ``n_test``."""
    return dict(_content()["data_sets"][name])
