"""Charts on paper: one consistent style, text as text in SVG and PDF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd

from toolkit.atomic import atomic_path
from toolkit.report import marks, training_marks
from toolkit.report.chart import Chart, Measure
from toolkit.report.marks import MOST_BARS, MOST_VIOLINS
from toolkit.report.style import COLOUR_SCALE, MARKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg", "pdf")

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}
_DOTS_PER_INCH = 300
_WIDTH_IN = 7.2
_PANEL_HEIGHT_IN, _SINGLE_HEIGHT_IN, _BAR_HEIGHT_IN, _MARGIN_IN = 1.9, 3.4, 0.17, 0.8
_COLOUR_BAR_IN = 1.6  # what its title needs
_MOST_PANELS = 12
_COLUMNS = {"bars": 1, "violins": 1, "tiles": 1, "pairs": 3, "curves": 3, "trials": 3}
_MOST_MATRICES, _MOST_LINES = 4, 4
# Of a legend entry in its font: an average letter, and its symbol with the space around.
_LETTER_IN, _SYMBOL_IN = 0.062, 0.55
_TITLE_LETTER_IN = 0.058
# Where a title is not broken.
_EQUALS = "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"

_DRAW = marks.DRAW | training_marks.DRAW
_STACKED = {"bars": MOST_BARS, "violins": MOST_VIOLINS, "tiles": MOST_BARS}


def write_charts(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write each chart as PNG, SVG and PDF, a file for each quantity that it shows.

    Returns
    -------
    The files, ``NAME.FORMAT``, or ``NAME_COLUMN.FORMAT`` for a chart of several quantities.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [
        path
        for chart in charts
        for measure in chart.measures
        for path in _write(chart, measure, folder)
    ]


def draw(chart: Chart, measure: Measure | None = None) -> Figure:
    """Draw a chart with matplotlib, its panels side by side.

    Parameters
    ----------
    chart
        What to draw; of many panels the first twelve.
    measure
        One of its quantities; the first if left out.
    """
    from matplotlib import rc_context

    measure = measure or chart.measures[0]
    chart = replace(chart, rows=_without_formulas(chart))
    panels = [(name, chart.drawn(rows, measure)) for name, rows in chart.panels]
    panels = [(name, rows) for name, rows in panels if rows[measure.column].notna().any()]
    if chart.kind == "pairs":
        panels = [(name, rows) for name, rows in panels if rows[chart.x].nunique() > 1]
    with rc_context(_STYLE):
        if chart.kind == "matrices":
            return _draw_matrices(chart, measure, panels)
        return _draw_panels(chart, measure, panels)


def _without_formulas(chart: Chart) -> pd.DataFrame:
    """The rows with names in which matplotlib does not look for formulas between dollars."""
    names = {chart.panel, chart.series, chart.text, chart.colour, chart.other}
    names |= {chart.x} if chart.kind != "trials" else set()
    texts = {c: chart.rows[c].astype(str) for c in chart.rows if c in names}
    texts = {c: text for c, text in texts.items() if text.str.contains("$", regex=False).any()}
    return chart.rows.assign(
        **{
            c: text.str.replace("$", r"\$", regex=False).where(chart.rows[c].notna())
            for c, text in texts.items()
        }
    )


def _write(chart: Chart, measure: Measure, folder: Path) -> Iterator[Path]:
    from matplotlib import rc_context

    stem = chart.name if len(chart.measures) == 1 else f"{chart.name}_{measure.column}"
    with rc_context({**_STYLE, "svg.hashsalt": stem}):
        figure = draw(chart, measure)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # laid out once, not again for each format
        for form in FORMATS:
            path = folder / f"{stem}.{form}"
            undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form)
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=form, dpi=_DOTS_PER_INCH, metadata=undated)
            yield path


def _draw_panels(chart: Chart, measure: Measure, panels: list[tuple[str, pd.DataFrame]]) -> Figure:
    from matplotlib.figure import Figure

    drawn = panels[:_MOST_PANELS]
    most_columns = 2 if chart.kind == "points" and chart.text else _COLUMNS.get(chart.kind, 4)
    n_columns = min(most_columns, len(drawn))
    heights = [_height_in(chart, rows, len(drawn)) for _, rows in drawn][::n_columns]
    figure = Figure(figsize=(_width_in(chart, n_columns), sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(heights),
        n_columns,
        squeeze=False,
        sharex=chart.kind in ("bars", "violins", "histogram"),
        sharey=chart.kind in ("lines", "histogram"),
        gridspec_kw={"height_ratios": heights},
    )
    for axes, (name, rows) in zip(grid.flat, drawn, strict=False):
        _DRAW[chart.kind](axes, chart, measure, rows)
        if len(drawn) > 1:
            width = int(_WIDTH_IN / n_columns / _TITLE_LETTER_IN)
            titles = filter(None, (name.replace(" = ", _EQUALS), axes.get_title(loc="left")))
            axes.set_title(
                "\n".join(fill(title, width, break_on_hyphens=False) for title in titles),
                loc="left",
            )
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    used = list(grid.flat[: len(drawn)])
    _share_labels(figure, used, n_columns)
    _share_legend(figure, used)
    if len(panels) > len(drawn):
        left_out = f"the first {len(drawn)} of {len(panels)}"
        figure.suptitle(left_out, x=0.99, horizontalalignment="right", fontsize=6.5)
    return figure


def _share_labels(figure: Figure, panels: Sequence[Axes], n_columns: int) -> None:
    """Say once what the vertical axes of all panels say, and below each column what its do."""
    if len(panels) < 2:
        return
    if len({axes.get_ylabel() for axes in panels}) == 1 and panels[0].get_ylabel():
        figure.supylabel(panels[0].get_ylabel().replace("\n", " "), fontsize=8)
        for axes in panels:
            axes.set_ylabel("")
    for axes, below in zip(panels, panels[n_columns:], strict=False):
        if axes.get_xlabel() == below.get_xlabel():
            axes.set_xlabel("")


def _width_in(chart: Chart, n_columns: int) -> float:
    return 4.0 if chart.kind in ("pairs", "histogram") and n_columns == 1 else _WIDTH_IN


def _height_in(chart: Chart, rows: pd.DataFrame, n_panels: int) -> float:
    if chart.kind in _STACKED:
        names = rows[chart.series if chart.kind == "tiles" else chart.x]
        height_in = _MARGIN_IN + _BAR_HEIGHT_IN * min(names.nunique(), _STACKED[chart.kind])
        return max(height_in, _COLOUR_BAR_IN) if chart.kind == "tiles" else height_in
    return _PANEL_HEIGHT_IN if n_panels > 2 else _SINGLE_HEIGHT_IN


def _draw_matrices(
    chart: Chart, measure: Measure, panels: list[tuple[str, pd.DataFrame]]
) -> Figure:
    from matplotlib.figure import Figure
    from scipy.spatial.distance import squareform

    lines = _lines_of_matrices(chart, panels)
    n_columns = max(map(len, lines))
    side = _WIDTH_IN / _MOST_MATRICES
    size = (side * n_columns + 0.6, (side + 0.25) * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(lines), n_columns, squeeze=False)
    used = []
    for across, line in zip(grid, lines, strict=True):
        for axes in across[len(line) :]:
            axes.remove()
        for axes, (name, group) in zip(across, line, strict=False):
            square = squareform(group[measure.column].to_numpy(float), checks=False)
            image = axes.imshow(square, cmap=COLOUR_SCALE, vmin=0, vmax=100)
            axes.set_title(name, fontsize=6.5)
            axes.set(xticks=[], yticks=[])
            used.append(axes)
    figure.colorbar(image, ax=used, label=measure.title, shrink=0.6)
    return figure


def _lines_of_matrices(
    chart: Chart, panels: list[tuple[str, pd.DataFrame]]
) -> list[list[tuple[str, pd.DataFrame]]]:
    """Names and rows of the matrices beside each other; each panel has lines of its own."""
    most = max(1, _MOST_LINES // len(panels))
    lines = []
    for panel, rows in panels:
        groups = [(str(name), group) for name, group in rows.groupby(chart.series, sort=False)]
        groups[0] = "\n".join(filter(None, (panel, groups[0][0]))), groups[0][1]
        n_lines = -(-len(groups) // _MOST_MATRICES)
        n_columns = -(-len(groups) // n_lines)
        starts = range(0, len(groups), n_columns)
        lines += [groups[start : start + n_columns] for start in starts][:most]
    return lines


def _share_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend of everything that any panel tells apart, as wide as the figure is."""
    found = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if len(found) < 2:
        return
    drawn_last_first = list(reversed(found))
    names = sorted(drawn_last_first, key=lambda name: name in ("others", "√ceiling", *MARKS))
    entry_in = _SYMBOL_IN + _LETTER_IN * max(map(len, names))
    figure.legend(
        [found[name] for name in names],
        names,
        loc="outside lower center",
        ncols=max(1, min(4, len(names), int(figure.get_figwidth() / entry_in))),
    )
