"""A figure as a value: tidy rows, and how they are drawn on the page and on paper alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from toolkit.report.style import MARKS

Kind = Literal[
    "bars",
    "lines",
    "curves",
    "points",
    "trials",
    "violins",
    "histogram",
    "pairs",
    "tiles",
    "matrices",
]
"""How rows become marks.

bars
    A horizontal bar for each ``x``, longest first.
lines
    A line for each ``series``, its rows in their order.
curves
    A line for each ``series`` over a number; the rows in ``faint`` are dotted.
points
    A mark for each row.
trials
    A mark for each row over ``x``, the JSON text of a number or a name, of the field ``text``.
violins
    A violin with its box for each ``x``, from all of its rows.
histogram
    A histogram for each ``series``.
pairs
    One value of ``x`` against another, a mark for each value of ``unit`` that both have.
tiles
    ``x`` against ``series``, coloured and labelled by the row of highest value.
matrices
    A symmetric matrix for each ``series``, from rows ``x``, ``other``, value of its upper triangle.
"""


@dataclass(frozen=True)
class Measure:
    """A quantity that a figure can show.

    Attributes
    ----------
    column, title
        Where it is, and what the axis says.
    low, high
        Columns of the ends of its interval, if any.
    reference
        Column of what it could be at most, such as the ceiling, if any.
    lower_is_better
        Whether it is a loss.
    floor
        Where the axis begins if values are lower.
    """

    column: str
    title: str
    low: str | None = None
    high: str | None = None
    reference: str | None = None
    lower_is_better: bool = False
    floor: float | None = None


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes
    ----------
    name
        What its files are called.
    title, caption
        What it shows; how it is to be read.
    kind
        How rows become marks.
    rows
        Tidy rows, one per mark, or per neuron of a violin or histogram. With the columns ``row``
        and ``is_best`` of the study's results if they belong to any.
    measures
        What can be shown, the first unless asked otherwise.
    x, x_title
        Column of the other axis or of the names, and what the axis says.
    series
        Column that tells lines, and colours, apart.
    colour
        Column that tells the colours of curves apart.
    panel
        Column of which one value is shown at a time on the page, and each in a panel of its own on
        paper; ordered by first appearance.
    best_only
        Whether only each network's best layer is shown; which one that is depends on the filter.
    hover
        Further columns whose values are told.
    log_x, log_y
        Whether an axis is logarithmic.
    flag
        Column that is True where a mark is to stand out, and ``flag_title``, why.
    mark
        Column that says what is special about a row, a key of ``style.MARKS``, or None.
    faint
        Column that is True for the rows of a line that accompany the others.
    unit, other, text
        Further columns that some kinds need.
    has_identity_line
        Whether the line x = y is drawn.
    """

    name: str
    title: str
    caption: str
    kind: Kind
    rows: pd.DataFrame
    measures: tuple[Measure, ...]
    x: str
    x_title: str
    series: str = ""
    colour: str = ""
    panel: str = ""
    best_only: bool = False
    hover: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    flag: str = ""
    flag_title: str = ""
    mark: str = ""
    faint: str = ""
    unit: str = ""
    other: str = ""
    text: str = ""
    has_identity_line: bool = False

    @property
    def shown(self) -> pd.DataFrame:
        """The rows that are drawn without any filter."""
        return self.rows[self.rows["is_best"]] if self.best_only else self.rows

    @property
    def panels(self) -> list[tuple[str, pd.DataFrame]]:
        """Name and rows of each panel; one without a name where there is only one."""
        if not self.panel:
            return [("", self.shown)]
        return [(str(name), rows) for name, rows in self.shown.groupby(self.panel, sort=False)]

    def drawn(self, rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
        """Rows that have a value, or a mark at the edge in its place."""
        has_value = rows[measure.column].notna()
        return rows[has_value | self.is_at_edge(rows)]

    def is_at_edge(self, rows: pd.DataFrame) -> pd.Series:
        """Whether the mark of a row is at the edge of the axes."""
        at_edge = [name for name, (_, _, is_at_edge) in MARKS.items() if is_at_edge]
        if not self.mark:
            return pd.Series(False, index=rows.index)
        return rows[self.mark].isin(at_edge)
