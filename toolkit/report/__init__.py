"""A run as one HTML page and as figures for print.

Each figure is a function of a :class:`~toolkit.report.study.Study`, which gives a
:class:`~toolkit.report.chart.Chart`. :func:`~toolkit.report.paper.draw` makes a matplotlib figure
of it; the page draws the same chart with Plotly, which embeds itself, tells exact values, and saves
what it shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.report.chart import Chart
from toolkit.report.comparing import compare, differences
from toolkit.report.errors import ReportError
from toolkit.report.figures import all_charts
from toolkit.report.page import write_study
from toolkit.report.paper import draw, write_charts
from toolkit.report.recordings import Recordings
from toolkit.report.study import Study, read_study

__all__ = [
    "Chart",
    "ReportError",
    "Study",
    "all_charts",
    "compare",
    "draw",
    "main",
    "read_study",
    "write_figures",
    "write_page",
]

PAGE_FILE, FIGURES_FOLDER = "report.html", "figures"


def main(runs: Sequence[Path], out: Path | None = None, figures: bool = False) -> list[Path]:
    """Report on one run, or on several side by side.

    Parameters
    ----------
    runs
        Run folders whose results were collected; the first is what others are compared with.
    out
        The HTML file; ``report.html`` in the first run folder if left out.
    figures
        Whether each figure is also written as PNG, SVG and PDF, to ``figures`` beside the page.

    Returns
    -------
    The files, the page first.

    Raises
    ------
    ReportError
        If no run is given.
    toolkit.results.ResultError
        If the tables of a run are missing or damaged.
    """
    study = read_study(runs)
    page = Path(out) if out else next(iter(study.runs.values())) / PAGE_FILE
    charts = _write_page(study, page)
    written = write_charts(charts, page.parent / FIGURES_FOLDER) if figures else []
    return [page, *written]


def write_page(runs: Sequence[str | Path], path: str | Path) -> None:
    """Write the page of one or several runs; see :func:`main`."""
    _write_page(read_study(runs), Path(path))


def write_figures(run: str | Path, folder: str | Path) -> list[Path]:
    """Write every figure of a run as PNG, SVG and PDF; returns the files."""
    study = read_study([run])
    return write_charts(all_charts(study, Recordings(study)), Path(folder))


def _write_page(study: Study, path: Path) -> list[Chart]:
    recordings = Recordings(study)
    charts = all_charts(study, recordings)
    compared = compare(study)
    chart = differences(compared)
    charts += [chart] if chart else []
    write_study(path, study, charts, compared, recordings.absences)
    return charts
