"""Plots of a data-quality report, as SVG to be put into a page."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.data.dataset import Timeline
from toolkit.data.quality import Quality, median_known

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Two abreast on a desk, one on a phone, where the text is then still legible.
_WIDTH_IN, _HEIGHT_IN = 4.6, 2.9
_ROW_IN = 0.35
# Okabe & Ito (2008): told apart with every common colour vision.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#999999")
_N_TIME_BINS = 20
_N_BARS = 20
_N_LETTERS = 24


def figures(quality: Quality) -> Iterator[str]:
    """HTML ``<figure>`` elements, one per plot for which there are data."""
    if np.isfinite(quality.ceilings).any():
        before = "" if quality.before_onset is None else "; diamond: before onset"
        yield _figure(
            _plot_ceilings,
            quality,
            "Split-half ceiling of each neuroid, with quartiles, by area. Orange: median of an "
            f"area when labels are shuffled{before}.",
            height_in=_HEIGHT_IN / 2 + 1.4 * _ROW_IN * len(quality.areas),
        )
    if quality.dataset.repetitions is not None:
        yield _figure(_plot_repetitions, quality, "How many stimuli were presented how many times.")
    if quality.dataset.timelines:
        yield _figure(
            _plot_time_course,
            quality,
            "Response over the session: each unit's mean in SD from its own mean; median and "
            "middle half of the units, thick; single units, thin.",
        )
    if quality.drift_over:
        yield _figure(
            _plot_drift,
            quality,
            f"Drift of each neuroid: second half of the {quality.drift_over} against the first.",
        )
    yield _figure(_plot_responses, quality, "Mean response of each neuroid, and its spread.")
    if quality.classes:
        n_shown = min(_N_BARS, len(next(iter(quality.classes.values()))))
        yield _figure(
            _plot_balance,
            quality,
            "Stimuli of each label.",
            height_in=_HEIGHT_IN / 4 + _ROW_IN / 2 * (n_shown + 1),
        )


def _figure(
    plot: Callable[[Axes, Quality], None],
    quality: Quality,
    caption: str,
    height_in: float = _HEIGHT_IN,
) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": caption,
        "font.size": 9,
        "text.parse_math": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        plot(axes, quality)
        return f"<figure>{_svg(figure)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _plot_ceilings(axes: Axes, quality: Quality) -> None:
    rng = np.random.default_rng(0)
    for row, index in enumerate(quality.areas.values()):
        values = quality.ceilings[index]
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        heights = row + rng.uniform(-0.3, 0.3, len(values))
        axes.plot(values, heights, "o", color=_COLOURS[0], markersize=3, alpha=0.5, linewidth=0)
        quartiles = np.quantile(values, [0.25, 0.5, 0.75])
        axes.vlines(quartiles, row - 0.4, row + 0.4, color="black", linewidth=[0.8, 2, 0.8])
        axes.hlines(row + np.array([-0.4, 0.4]), *quartiles[[0, 2]], color="black", linewidth=0.8)
        for shuffle in quality.chance:
            axes.plot(median_known(shuffle[index]), row, "|", color=_COLOURS[1], markersize=20)
        if quality.before_onset is not None:
            median = median_known(quality.before_onset[index])
            axes.plot(median, row, "D", color=_COLOURS[4], markersize=5)
    axes.set(xlabel="split-half ceiling (Spearman-Brown)", ylim=(len(quality.areas) - 0.4, -0.6))
    axes.set_xlim(right=1.02)
    axes.set_yticks(range(len(quality.areas)), [area or "all" for area in quality.areas])


def _plot_repetitions(axes: Axes, quality: Quality) -> None:
    from matplotlib.ticker import MaxNLocator

    values, counts = np.unique(quality.n_presentations, return_counts=True)
    axes.bar(values, counts, width=0.6, color=_COLOURS[0])
    axes.set(xlabel="presentations", ylabel="stimuli", xlim=(0, values[-1] + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _plot_time_course(axes: Axes, quality: Quality) -> None:
    timeline = max(quality.dataset.timelines, key=lambda t: len(t.time_s))
    minutes, courses = _time_course(timeline)
    axes.plot(minutes, courses, color=_COLOURS[6], linewidth=0.5, alpha=0.6)
    low, middle, high = np.nanquantile(courses, [0.25, 0.5, 0.75], axis=1)
    axes.fill_between(minutes, low, high, color=_COLOURS[0], alpha=0.3, linewidth=0)
    axes.plot(minutes, middle, color=_COLOURS[0], linewidth=2)
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel=f"minutes into {timeline.session}", ylabel="response (SD)")


def _time_course(timeline: Timeline) -> tuple[np.ndarray, np.ndarray]:
    """Middle of each time bin in minutes, and each unit's mean in it, (n_bins, n_units), in SD."""
    responses = timeline.responses.astype(np.float64)
    deviation = responses.std(axis=0)
    scores = (responses - responses.mean(axis=0)) / np.where(deviation == 0, np.nan, deviation)
    edges = np.linspace(timeline.time_s[0], timeline.time_s[-1], _N_TIME_BINS + 1)
    bin_of = np.clip(np.searchsorted(edges, timeline.time_s, side="right") - 1, 0, _N_TIME_BINS - 1)
    used = np.unique(bin_of)
    courses = np.stack([scores[bin_of == b].mean(axis=0) for b in used])
    return (edges[used] + edges[used + 1]) / 2 / 60, courses


def _plot_drift(axes: Axes, quality: Quality) -> None:
    values = np.sort(quality.drift[np.isfinite(quality.drift)])
    axes.bar(np.arange(len(values)), values, width=1.0, color=_COLOURS[0])
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel="neuroids, sorted", ylabel="drift (SD)")


def _plot_responses(axes: Axes, quality: Quality) -> None:
    responses = quality.dataset.responses
    for colour, (area, index) in zip(_cycled(), quality.areas.items(), strict=False):
        mean, spread = (
            np.nanmean(responses[:, index], axis=0),
            np.nanstd(responses[:, index], axis=0),
        )
        axes.plot(mean, spread, "o", color=colour, markersize=4, alpha=0.7, label=area or None)
    axes.set(xlabel="mean response over stimuli", ylabel="standard deviation")
    if len(quality.areas) > 1:
        _legend_above(axes)


def _plot_balance(axes: Axes, quality: Quality) -> None:
    kind, counts = next(iter(quality.classes.items()))
    shown = list(counts.items())[:_N_BARS]
    axes.barh(range(len(shown)), [n for _, n in shown], color=_COLOURS[0])
    axes.set_yticks(range(len(shown)), [_short(label) or "(empty)" for label, _ in shown])
    axes.invert_yaxis()
    more = f" (first {_N_BARS} of {len(counts)})" if len(counts) > _N_BARS else ""
    axes.set(xlabel="stimuli", title=f"{kind}{more}")


def _short(label: str) -> str:
    return label if len(label) <= _N_LETTERS else f"{label[: _N_LETTERS - 1]}…"


def _legend_above(axes: Axes) -> None:
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def _cycled() -> Iterator[str]:
    while True:
        yield from _COLOURS
