"""Charts of trainings drawn on matplotlib axes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.report.chart import Chart, Measure
from toolkit.report.marks import FLAG_COLOUR, colours, folded, ranked, slanted_names
from toolkit.report.style import DIVERGED, LIGHT, LIGHT_REST, MARKS, WINNER

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Values that differ by such a factor are drawn as logarithms.
_DECADE = 10
# Of the axes' height: where marks are that have no place on the axis.
_LOWER_EDGE, _UPPER_EDGE = 0.03, 0.97
# Fractional parts of its multiples are spread evenly, however many they are.
_GOLDEN = 0.618
_SPREAD = 0.5
_HOLLOW = "sv"


def curves(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """A line for each series with its marks; those that reach the best values are coloured."""
    colour_of = colours(ranked(chart.rows, chart.colour, chart.measures[0], chart.panel))
    shows_faint = rows[chart.series].nunique() <= len(LIGHT)
    for _, line in reversed(list(rows.groupby(chart.series, sort=False))):
        name = str(line[chart.colour].iloc[0])
        is_rest = colour_of[name] == LIGHT_REST
        for is_faint, part in line[~chart.is_at_edge(line)].groupby(chart.faint):
            if is_faint and not shows_faint:
                continue
            axes.plot(
                part[chart.x],
                part[measure.column],
                color=colour_of[name],
                linestyle=":" if is_faint else "-",
                linewidth=0.7 if is_faint or is_rest else 1.2,
                alpha=0.6 if is_rest else 1,
                label=None if is_faint else "others" if is_rest else name,
                zorder=1 if is_rest else 2,
            )
        _draw_marks(axes, chart, measure, line, line[chart.x], colour_of[name])
    values = rows[measure.column]
    if measure.lower_is_better and spans_decades(values):
        axes.set_yscale("log")
    if measure.floor is not None and values.min() < measure.floor:
        axes.set_ylim(bottom=measure.floor)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel(chart.x_title)
    axes.set_ylabel(folded(measure.title))


def trials(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """A mark for each row over numbers, their logarithms, or names side by side."""
    x, names = _positions(rows[chart.x])
    colour_of = colours(list(chart.rows[chart.series].unique()))
    for name, group in rows.groupby(chart.series, sort=False):
        plain = group[group[chart.mark].isna()]
        axes.plot(
            x[plain.index],
            plain[measure.column],
            "o",
            color=colour_of[str(name)],
            markersize=3.5,
            markeredgewidth=0,
            alpha=0.7,
            label=name,
        )
        _draw_marks(axes, chart, measure, group, x[group.index], colour_of[str(name)])
    if names:
        slanted_names(axes, range(len(names)), names)
    elif spans_decades(x):
        axes.set_xscale("log")
    axes.set_xlabel(str(rows[chart.text].iloc[0]) if not chart.panel else "")
    axes.set_ylabel(folded(measure.title))


def spans_decades(values: pd.Series) -> bool:
    """Whether values are positive, and differ by a factor of ten or more."""
    return bool(values.min() > 0 and values.max() >= _DECADE * values.min())


def _positions(values: pd.Series) -> tuple[pd.Series, list[str]]:
    """Where marks are; of names, the marks of each beside each other, and the names."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        return numbers, []
    names = sorted(set(values), key=_natural)
    spread = (np.arange(len(values)) * _GOLDEN % 1 - 0.5) * _SPREAD
    return values.map(names.index) + spread, names


def _natural(name: str) -> list[str | int]:
    """Sorts ``[100]`` before ``[1000]``."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _draw_marks(
    axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame, x: pd.Series, colour: str
) -> None:
    edge = _UPPER_EDGE if measure.lower_is_better else _LOWER_EDGE
    for kind, marked in rows[rows[chart.mark].notna()].groupby(chart.mark):
        symbol, _, is_at_edge = MARKS[str(kind)]
        hollow: dict[str, Any] = {"fillstyle": "none"} if symbol in _HOLLOW else {}
        axes.plot(
            x[marked.index],
            [edge] * len(marked) if is_at_edge else marked[measure.column],
            symbol,
            color=FLAG_COLOUR if kind == DIVERGED else colour,
            markersize=9 if kind == WINNER else 2 if colour == LIGHT_REST else 4,
            **hollow,
            transform=axes.get_xaxis_transform() if is_at_edge else axes.transData,
            zorder=1 if colour == LIGHT_REST else 3,
            clip_on=False,
        )
        axes.plot([], [], symbol, color="black", markersize=4, label=str(kind), **hollow)


DRAW = {"curves": curves, "trials": trials}
