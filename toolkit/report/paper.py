"""Charts on paper: one consistent style, text as text in SVG and PDF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from toolkit.atomic import atomic_path
from toolkit.report.chart import Chart, Measure
from toolkit.report.marks import DRAW, MOST_BARS, MOST_VIOLINS
from toolkit.report.style import COLOUR_SCALE

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
_MOST_PANELS, _MOST_COLUMNS = 12, 4
# Of a legend entry in its font: an average letter, and its symbol with the space around.
_LETTER_IN, _SYMBOL_IN = 0.062, 0.55

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
    panels = [(name, rows[rows[measure.column].notna()]) for name, rows in chart.panels]
    panels = [(name, rows) for name, rows in panels if len(rows)]
    with rc_context(_STYLE):
        if chart.kind == "matrices":
            return _draw_matrices(chart, measure, panels[0][1])
        return _draw_panels(chart, measure, panels)


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
    n_columns = 1 if chart.kind in _STACKED else min(_MOST_COLUMNS, len(drawn))
    heights = [_height_in(chart, rows, len(drawn)) for _, rows in drawn][::n_columns]
    figure = Figure(figsize=(_width_in(chart, n_columns), sum(heights)), layout="constrained")
    grid = figure.subplots(
        len(heights),
        n_columns,
        squeeze=False,
        sharex=chart.kind == "histogram",
        sharey=chart.kind in ("lines", "histogram"),
        gridspec_kw={"height_ratios": heights},
    )
    for axes, (name, rows) in zip(grid.flat, drawn, strict=False):
        DRAW[chart.kind](axes, chart, measure, rows)
        if len(drawn) > 1:
            axes.set_title(name, loc="left")
    for axes in grid.flat[len(drawn) :]:
        axes.remove()
    used = list(grid.flat[: len(drawn)])
    _share_labels(figure, used)
    _share_legend(figure, used)
    if len(panels) > len(drawn):
        left_out = f"the first {len(drawn)} of {len(panels)}"
        figure.suptitle(left_out, x=0.99, horizontalalignment="right", fontsize=6.5)
    return figure


def _share_labels(figure: Figure, panels: Sequence[Axes]) -> None:
    """Say once what all panels' axes say."""
    if len(panels) < 2:
        return
    for axis, say in (("x", figure.supxlabel), ("y", figure.supylabel)):
        labels = {getattr(axes, f"get_{axis}label")() for axes in panels}
        label = labels.pop()
        if label and not labels:
            for axes in panels:
                axes.set(**{f"{axis}label": ""})
            say(label.replace("\n", " "), fontsize=8)


def _width_in(chart: Chart, n_columns: int) -> float:
    return 4.0 if chart.kind in ("pairs", "histogram") and n_columns == 1 else _WIDTH_IN


def _height_in(chart: Chart, rows: pd.DataFrame, n_panels: int) -> float:
    if chart.kind in _STACKED:
        names = rows[chart.series if chart.kind == "tiles" else chart.x]
        return _MARGIN_IN + _BAR_HEIGHT_IN * min(names.nunique(), _STACKED[chart.kind])
    return _PANEL_HEIGHT_IN if n_panels > 2 else _SINGLE_HEIGHT_IN


def _draw_matrices(chart: Chart, measure: Measure, rows: pd.DataFrame) -> Figure:
    from matplotlib.figure import Figure
    from scipy.spatial.distance import squareform

    groups = list(rows.groupby(chart.series, sort=False))
    n_columns = min(_MOST_COLUMNS, len(groups))
    n_rows = -(-len(groups) // n_columns)
    side = _WIDTH_IN / _MOST_COLUMNS
    figure = Figure(figsize=(side * n_columns + 0.6, (side + 0.25) * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    for axes in grid.flat[len(groups) :]:
        axes.remove()
    used = list(grid.flat[: len(groups)])
    for axes, (name, group) in zip(used, groups, strict=True):
        square = squareform(group[measure.column].to_numpy(float), checks=False)
        image = axes.imshow(square, cmap=COLOUR_SCALE, vmin=0, vmax=100)
        axes.set_title(str(name), fontsize=6.5)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(image, ax=used, label=measure.title, shrink=0.6)
    return figure


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
    names = sorted(drawn_last_first, key=lambda name: name in ("others", "ceiling"))
    entry_in = _SYMBOL_IN + _LETTER_IN * max(map(len, names))
    figure.legend(
        [found[name] for name in names],
        names,
        loc="outside lower center",
        ncols=max(1, min(4, len(names), int(figure.get_figwidth() / entry_in))),
    )
