"""A figure as a value: tidy rows, and how they are drawn on the page and on paper alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

Kind = Literal["bars", "lines", "points", "violins", "histogram", "pairs", "tiles", "matrices"]
"""How rows become marks.

bars
    A horizontal bar for each ``x``, longest first.
lines
    A line for each ``series``, its rows in their order.
points
    A mark for each row.
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
    """

    column: str
    title: str
    low: str | None = None
    high: str | None = None
    reference: str | None = None


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
        Column that tells colours apart.
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
    panel: str = ""
    best_only: bool = False
    hover: tuple[str, ...] = ()
    log_x: bool = False
    log_y: bool = False
    flag: str = ""
    flag_title: str = ""
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
