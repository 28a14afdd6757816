"""Each kind of chart drawn on matplotlib axes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, cycle, repeat
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from toolkit.report.chart import Chart, Measure
from toolkit.report.style import LIGHT, LIGHT_REST, TILE_SCALE_LIGHT, WEIGHTS_COLOUR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BARS, MOST_VIOLINS = 40, 30
_MOST_TICKS = 16
_MOST_LABELLED = 12
_NAME_LETTERS = 28
# Of the height of the axes.
_LABEL_HEIGHT = 0.05
_SYMBOLS = "osD^v<>P"
FLAG_COLOUR = "#b00020"
# The first of several seeds has the colour of random weights.
_RANDOM_SEED = re.compile(r"^random \d+$")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: kinds of weights have theirs, the first few others one each."""
    kind_of: dict[str, str] = {}
    for name in names:
        kind = _RANDOM_SEED.sub("random", name)
        if kind in WEIGHTS_COLOUR and kind not in kind_of.values():
            kind_of[name] = kind
    palette = (*LIGHT, LIGHT_REST)
    colour_of = {name: palette[WEIGHTS_COLOUR[kind]] for name, kind in kind_of.items()}
    free = chain((one for one in LIGHT if one not in colour_of.values()), repeat(LIGHT_REST))
    return {name: colour_of.get(name) or next(free) for name in names}


def bars(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """The highest rows as horizontal bars."""
    ranked = rows.sort_values(measure.column, ascending=False, kind="stable")[:MOST_BARS]
    position = np.arange(len(ranked))
    for kind, colour in colours(list(dict.fromkeys(ranked[chart.series]))).items():
        chosen = (ranked[chart.series] == kind).to_numpy()
        axes.barh(
            position[chosen],
            ranked[measure.column][chosen],
            xerr=_error(ranked[chosen], measure),
            color=colour,
            height=0.72,
            label=kind,
            error_kw={"linewidth": 0.8, "ecolor": "#333333"},
        )
    if measure.reference and ranked[measure.reference].notna().any():
        axes.plot(ranked[measure.reference], position, "k|", markersize=8, label="√ceiling")
    _name_rows(axes, list(ranked[chart.x]), measure)


def lines(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """A line for each series; those that reach highest are coloured."""
    is_named = not pd.api.types.is_numeric_dtype(rows[chart.x])
    names = list(dict.fromkeys(rows[chart.x])) if is_named else []
    colour_of = colours(ranked(chart.shown, chart.series, measure, chart.panel))
    symbols = dict(zip(colour_of, cycle(_SYMBOLS), strict=False))
    tells_random = chart.rows["weights_kind"].nunique() > 1
    by_series = [(str(name), line) for name, line in rows.groupby(chart.series, sort=False)]
    for name, line in reversed(by_series):
        has_colour = colour_of[name] != LIGHT_REST
        x = line[chart.x].map(names.index) if is_named else line[chart.x]
        axes.errorbar(
            x,
            line[measure.column],
            yerr=_error(line, measure),
            color=colour_of[name],
            linestyle="--" if tells_random and (line["weights_kind"] == "random").all() else "-",
            linewidth=1.2 if has_colour else 0.6,
            marker=symbols[name] if has_colour else "",
            markersize=3,
            capsize=1.5,
            label=name if has_colour else "others",
            zorder=2 if has_colour else 1,
        )
        if chart.flag and line[chart.flag].any():
            marked = line[chart.flag].to_numpy()
            y, label = line[measure.column][marked], chart.flag_title
            axes.plot(x[marked], y, "x", color=FLAG_COLOUR, label=label, markersize=6, zorder=3)
    _finish_lines(axes, chart, measure, rows, names)


def _finish_lines(
    axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame, names: list[str]
) -> None:
    if names:
        grid = axes.get_gridspec()
        most = _MOST_TICKS if grid is None or grid.ncols < 3 else _MOST_TICKS // 2
        step = -(-len(names) // most)
        slanted_names(axes, range(0, len(names), step), names[::step])
    else:
        axes.set_xlabel(chart.x_title)
    if measure.reference and rows[measure.reference].notna().any():
        ceiling = rows[measure.reference].median()
        axes.axhline(ceiling, color="black", linestyle=":", linewidth=0.9, label="√ceiling")
    if chart.log_y:
        axes.set_yscale("log")
    else:
        axes.axhline(0, linewidth=0).sticky_edges.y.append(0)
    axes.set_ylabel(folded(measure.title))


def points(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """A mark for each row; of named ones, those that nothing to their left reaches are named."""
    groups = (
        [(str(n), g) for n, g in rows.groupby(chart.series, sort=False)] if chart.series else []
    )
    colour_of = colours([name for name, _ in groups])
    is_named = not pd.api.types.is_numeric_dtype(rows[chart.x])
    names = list(dict.fromkeys(rows[chart.x])) if is_named else []
    for name, group in groups or [("", rows)]:
        axes.errorbar(
            group[chart.x].map(names.index) if is_named else group[chart.x],
            group[measure.column],
            yerr=_error(group, measure),
            fmt="o",
            color=colour_of.get(name, LIGHT[0]),
            markersize=3.5,
            markeredgewidth=0,
            alpha=0.85,
            label=name or None,
        )
    if chart.text:
        _name_front(axes, chart, measure, rows)
    if chart.has_identity_line:
        _square_around_identity(axes)
    if chart.log_x:
        _plain_log_axis(axes)
    if is_named:
        slanted_names(axes, range(len(names)), names)
    else:
        axes.set_xlabel(chart.x_title)
    axes.set_ylabel(folded(measure.title))


def _name_front(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    ordered = rows.sort_values(chart.x)
    reached = ordered[measure.column].cummax().shift(fill_value=-np.inf)
    front = ordered[ordered[measure.column] > reached][-_MOST_LABELLED:]
    axes.margins(y=0.12)
    low, high = axes.get_ylim()
    middle = np.sqrt(rows[chart.x].min() * rows[chart.x].max())
    above = np.inf
    for x, y, name in front[[chart.x, measure.column, chart.text]][::-1].itertuples(index=False):
        if above - y < _LABEL_HEIGHT * (high - low):
            continue
        at, side = ((-4, 4), "right") if x > middle else ((4, 4), "left")
        axes.annotate(name, (x, y), fontsize=6, xytext=at, textcoords="offset points", ha=side)
        above = y


def violins(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """Violins with boxes, the highest median first."""
    groups = {str(n): g[measure.column].to_numpy() for n, g in rows.groupby(chart.x, sort=False)}
    ranked = sorted(groups.items(), key=lambda item: -np.median(item[1]))[:MOST_VIOLINS]
    across: dict[str, Any] = {"orientation": "horizontal"}
    spread = [i for i, (_, values) in enumerate(ranked) if np.ptp(values) > 0]
    if spread:
        samples = [ranked[i][1] for i in spread]
        parts = axes.violinplot(samples, spread, widths=0.85, showextrema=False, **across)
        bodies: Any = parts["bodies"]
        for body in bodies:
            body.set(facecolor=LIGHT[5], alpha=0.6)
    axes.boxplot(
        [values for _, values in ranked],
        positions=np.arange(len(ranked)),
        widths=0.22,
        manage_ticks=False,
        showcaps=False,
        flierprops={"markersize": 1.5, "markeredgewidth": 0.4},
        medianprops={"color": LIGHT[1], "linewidth": 1.4},
        **across,
    )
    _name_rows(axes, [name for name, _ in ranked], measure)


def histogram(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """How many rows have which value, with their mean."""
    values = rows[measure.column].to_numpy()
    colour = next(iter(colours([rows[chart.series].iloc[0]]).values()))
    axes.hist(values, bins=min(40, max(8, int(2 * len(values) ** 0.5))), color=colour, alpha=0.75)
    axes.axvline(values.mean(), color="black", linewidth=1, label="mean")
    axes.set(xlabel=measure.title, ylabel="neurons")


def pairs(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """The two names that come first, against each other."""
    up, across = [*dict.fromkeys(rows[chart.x]), None][:2]
    if across is None:
        return
    both = rows[rows[chart.x].isin([across, up])]
    wide = both.pivot_table(index=chart.unit, columns=chart.x, values=measure.column).dropna()
    axes.plot(wide[across], wide[up], "o", color=LIGHT[0], markersize=3, alpha=0.7)
    _square_around_identity(axes)
    difference = (wide[up] - wide[across]).mean()
    axes.set(xlabel=fill(across, _NAME_LETTERS), ylabel=fill(up, _NAME_LETTERS))
    axes.set_title(f"mean difference {difference:+.3f}, n = {len(wide)}", loc="left")


def tiles(axes: Axes, chart: Chart, measure: Measure, rows: pd.DataFrame) -> None:
    """The highest row of each cell, with its text."""
    from matplotlib.colors import LinearSegmentedColormap

    ordered = rows.sort_values(measure.column, ascending=False, kind="stable")
    best = ordered.drop_duplicates([chart.series, chart.x])
    names = ranked(best, chart.series, measure)[:MOST_BARS]
    values, texts = (
        best.pivot(index=chart.series, columns=chart.x, values=column).loc[names]
        for column in (measure.column, chart.text)
    )
    scale = LinearSegmentedColormap.from_list("tiles", list(TILE_SCALE_LIGHT))
    image = axes.pcolormesh(values.to_numpy(float), cmap=scale)
    for (i, j), text in np.ndenumerate(texts.to_numpy()):
        if isinstance(text, str):
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", fontsize=6)
    axes.set_yticks(np.arange(len(names)) + 0.5, names)
    axes.set_xticks(np.arange(values.shape[1]) + 0.5, list(values.columns))
    axes.invert_yaxis()
    axes.tick_params(length=0)
    figure: Any = axes.get_figure()
    figure.colorbar(image, ax=axes, label=folded(measure.title))


def folded(title: str) -> str:
    """A title on two lines where it has a comma."""
    return title.replace(", ", ",\n")


def _error(rows: pd.DataFrame, measure: Measure) -> np.ndarray | None:
    """Distances to the two ends of the interval, (2, n)."""
    if measure.low is None or measure.high is None:
        return None
    value = rows[measure.column]
    ends = np.stack([value - rows[measure.low], rows[measure.high] - value])
    return np.clip(np.nan_to_num(ends), 0, None) if np.isfinite(ends).any() else None


def ranked(rows: pd.DataFrame, by: str, measure: Measure, panel: str = "") -> list[str]:
    """Values of a column, those with the best measure first; of several panels in turns."""
    best = rows.groupby([panel, by] if panel else [by], sort=False)[measure.column]
    height = -best.min() if measure.lower_is_better else best.max()
    if panel:
        rank = height.groupby(level=0).rank(ascending=False, method="first")
        height = -rank.groupby(level=1, sort=False).min()
    order = height.sort_values(ascending=False, kind="stable", na_position="last")
    return [str(name) for name in order.index]


def _name_rows(axes: Axes, names: list[str], measure: Measure) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(measure.title)
    axes.axvline(0, color="black", linewidth=0.6)


def slanted_names(axes: Axes, positions: Sequence[int], names: list[str]) -> None:
    """Names below the horizontal axis."""
    axes.set_xticks(positions, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=6)


def _square_around_identity(axes: Axes) -> None:
    """The line x = y, and the same limits for both."""
    ends = axes.get_xlim() + axes.get_ylim()
    limits = (min(ends), max(ends))
    axes.axline((limits[0], limits[0]), slope=1, color="black", linewidth=0.6, linestyle=":")
    axes.set(xlim=limits, ylim=limits, aspect="equal")


def _plain_log_axis(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    is_wide = high > 20 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if is_wide else MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


DRAW: dict[str, Callable[[Axes, Chart, Measure, pd.DataFrame], None]] = {
    "bars": bars,
    "lines": lines,
    "points": points,
    "violins": violins,
    "histogram": histogram,
    "pairs": pairs,
    "tiles": tiles,
}
