"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from toolkit.atomic import atomic_path
from toolkit.report.chart import Chart
from toolkit.report.columns import ALL_RESULTS, COMPARED, HEADLINE, IDENTITY, TITLES, UNFINISHED
from toolkit.report.embedding import embed
from toolkit.report.overview import answers, failure_counts, run_facts
from toolkit.report.study import CONDITIONS, NETWORK, Study
from toolkit.report.style import (
    DARK,
    DARK_REST,
    LIGHT,
    LIGHT_REST,
    MARKS,
    TILE_SCALE_DARK,
    TILE_SCALE_LIGHT,
    WEIGHTS_COLOUR,
)
from toolkit.task import TaskState

_SCRIPTS = ("data.js", "table.js", "charts.js", "training.js", "page.js")
_FILTERS = (
    "run",
    "dataset",
    "region",
    "features",
    "readout",
    "library",
    "model",
    "weights_kind",
    "training",
    "objective",
    "layer",
)
# Not worth a column of the headline where they are the same everywhere.
_CONSTANT = ("dataset", "region", "features")
# Of the page without its tables' rows, beside Plotly.
_MOST_BYTES, _FRAME_BYTES = 8_000_000, 200_000
# Scores of single neurons, and fewer where the page would be too large.
_MOST_ROWS, _FEWEST_ROWS = 120_000, 40_000
_PALETTES = {
    "light": {
        "colours": LIGHT,
        "rest": LIGHT_REST,
        "ink": "#1b1f24",
        "grid": "#d9dde2",
        "paper": "#ffffff",
        "scale": TILE_SCALE_LIGHT,
    },
    "dark": {
        "colours": DARK,
        "rest": DARK_REST,
        "ink": "#e6e8eb",
        "grid": "#3a4048",
        "paper": "#15181c",
        "scale": TILE_SCALE_DARK,
    },
}


def write_study(
    path: Path,
    study: Study,
    charts: Sequence[Chart],
    compared: pd.DataFrame,
    absences: Sequence[str] = (),
) -> None:
    """Write the page of a study; it appears whole or not at all.

    Parameters
    ----------
    path
        The HTML file.
    study
        What is reported.
    charts
        Its figures, in order.
    compared
        What :func:`toolkit.report.comparing.compare` found; without rows if there is one run.
    absences
        Why figures are missing, in words.
    """
    unfinished = study.tasks[study.tasks["status"] != TaskState.DONE]
    plotly = get_plotlyjs()
    most_rows = _MOST_ROWS
    frames, described = _frames(study, charts, most_rows)
    while (
        most_rows > _FEWEST_ROWS
        and len(json.dumps(frames)) > _MOST_BYTES - len(plotly) - _FRAME_BYTES
    ):
        most_rows -= 20_000
        frames, described = _frames(study, charts, most_rows)
    frames |= {"unfinished": embed(unfinished[list(UNFINISHED)])} if len(unfinished) else {}
    frames |= {"compared": embed(compared)} if len(compared) else {}
    data = {
        "frames": frames,
        "charts": described,
        "filters": [name for name in _FILTERS if _varies(study, name)],
        "bestOf": [*CONDITIONS, *NETWORK],
        "identity": IDENTITY,
        "titles": TITLES,
        "tables": {
            "headline": [c for c in HEADLINE if c not in _CONSTANT or _varies(study, c)],
            "results": ALL_RESULTS,
            "unfinished": UNFINISHED,
            "compared": COMPARED,
        },
        "palettes": _PALETTES,
        "weightsColour": WEIGHTS_COLOUR,
        "marks": {name: (symbol, at_edge) for name, (_, symbol, at_edge) in MARKS.items()},
    }
    # In a script element "<" could begin its end or a comment.
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    page = Template(_asset("page.html")).substitute(
        title=html.escape(f"{' and '.join(study.runs)}: report"),
        style=_asset("page.css"),
        body="\n".join(_body(study, charts, unfinished, compared, absences, most_rows)),
        plotly=plotly,
        data=embedded,
        script="\n".join(map(_asset, _SCRIPTS)),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _varies(study: Study, column: str) -> bool:
    return study.results[column].nunique() > 1


def _asset(name: str) -> str:
    return files("toolkit.report").joinpath("assets", name).read_text(encoding="utf-8")


def _frames(
    study: Study, charts: Sequence[Chart], most_rows: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Embedded tables by name, and the charts that read them; equal tables are kept once.

    Of tables that belong to results the first ``most_rows`` rows.
    """
    results = study.results.drop(columns=["row", "is_best", "versions"])
    ends = results[["r_mean_low", "r_mean_high"]]
    text = ends["r_mean_low"].map("{:.3f} – ".format) + ends["r_mean_high"].map("{:.3f}".format)
    results["interval"] = text.where(ends.notna().all(axis=1))
    frames: dict[str, Any] = {"results": embed(results)}
    name_of: dict[str, str] = {}
    described = []
    for chart in charts:
        own = _own_columns(chart, results)
        embedded = embed(own[:most_rows] if "row" in own else own)
        content = json.dumps(embedded)
        name = name_of.setdefault(content, chart.name)
        frames.setdefault(name, embedded)
        fields = {key: value for key, value in vars(chart).items() if key != "rows"}
        fields["measures"] = [asdict(measure) for measure in chart.measures]
        described.append({**fields, "frame": name})
    return frames, described


def _own_columns(chart: Chart, results: pd.DataFrame) -> pd.DataFrame:
    """What the page cannot look up in the results."""
    if "row" not in chart.rows:
        return chart.rows
    return chart.rows.drop(columns=[c for c in chart.rows if c in results or c == "is_best"])


def _body(
    study: Study,
    charts: Sequence[Chart],
    unfinished: pd.DataFrame,
    compared: pd.DataFrame,
    absences: Sequence[str],
    most_rows: int,
) -> Iterator[str]:
    yield "<noscript><p>The tables and figures of this page need JavaScript.</p></noscript>"
    yield "<main>"
    yield from _answer(study, unfinished)
    yield '<div id="filters" role="group" aria-label="Filter"></div>'
    yield "<section><h2>Networks</h2>"
    yield (
        '<p class="quiet">The best layer of each network, chosen by the scores shown. The interval '
        "is a 95 % bootstrap over neurons. A network's name leads to all of its layers.</p>"
    )
    yield _table("headline", "Best layer of each network")
    yield "</section>"
    if len(compared):
        yield "<section><h2>Runs compared</h2>"
        yield (
            '<p class="quiet">Scores of the same neurons in the first run and in another: mean '
            "difference of r (second minus first), its 95 % bootstrap interval, the p-value of a "
            "sign-flip permutation test over neurons, and that p-value after control of the false "
            "discovery rate (q).</p>"
        )
        yield _table("compared", "Runs compared")
        yield "</section>"
    elif len(study.runs) > 1:
        yield (
            '<p class="quiet">The runs are not compared: they share no two neurons of a data set. '
            "Ids with an @ were made from positions, and are shared by equal responses only.</p>"
        )
    yield "<section><h2>Figures</h2>"
    yield from (_figure(chart) for chart in charts)
    yield from (f'<p class="quiet">A figure is missing: {html.escape(a)}.</p>' for a in absences)
    longest = max((len(chart.rows) for chart in charts if "row" in chart.rows), default=0)
    if longest > most_rows:
        yield (
            f'<p class="quiet">{most_rows:,} of {longest:,} scores of single neurons are in '
            "this page, those of the best layers first; all are in neurons.parquet.</p>"
        )
    yield "</section>"
    if len(unfinished):
        yield '<section id="tasks"><h2>Failed and missing tasks</h2>'
        yield f"<p>{html.escape(failure_counts(unfinished))}</p>"
        yield _table("unfinished", "Failed and missing tasks")
        yield "</section>"
    yield "<section><h2>What was run</h2>"
    for name in study.runs:
        yield f"<h3>{html.escape(name)}</h3>" if len(study.runs) > 1 else ""
        yield _definitions(run_facts(study, name))
    yield "</section>"
    yield '<section><details id="everything"><summary><h2 style="display:inline">All results'
    yield "</h2></summary>"
    yield _table("results", "All results")
    yield "</details></section></main>"


def _answer(study: Study, unfinished: pd.DataFrame) -> Iterator[str]:
    yield '<ul class="answer">'
    yield from (f"<li>{line}</li>" for line in answers(study))
    yield "</ul>"
    n_done, n_all = int((study.results["status"] == TaskState.DONE).sum()), len(study.results)
    text = f"{n_done:,} of {n_all:,} results are there."
    if len(unfinished):
        more = html.escape(failure_counts(unfinished))
        text += f' <a href="#tasks" class="bad">{more}</a>'
    yield f'<p class="quiet">{text}</p>'


def _table(name: str, title: str) -> str:
    return f'<div id="{name}" data-title="{html.escape(title)}"></div>'


def _figure(chart: Chart) -> str:
    title, caption = html.escape(chart.title), html.escape(chart.caption)
    return (
        f'<figure id="chart-{chart.name}"><h3>{title}</h3><div class="controls"></div>'
        f'<div class="plot" role="img" aria-label="{title}"></div>'
        f'<p class="note" aria-live="polite"></p><figcaption>{caption}</figcaption>'
        f'<div class="numbers" data-title="Numbers of {title}" hidden></div></figure>'
    )


def _definitions(facts: dict[str, str]) -> str:
    items = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items()
    )
    return f"<dl>{items}</dl>"
