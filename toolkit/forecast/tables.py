"""A forecast as people read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from toolkit.forecast.durations import Span
from toolkit.forecast.forecasting import Forecast
from toolkit.forecast.space import Space
from toolkit.terminal import visible

_MOST_REASONS = 12


def render(forecast: Forecast) -> Iterator[RenderableType]:
    """A table of the stages, one of the reasons, and lines that say what they rest on."""
    yield stage_table(forecast)
    for stage in forecast.stages:
        if stage.n_to_run:
            known = stage.cpu_hours is not None
            yield _line(f"Hours to {stage.kind}: {'' if known else 'unknown: '}{stage.basis}")
    yield from map(_line, forecast.arrays)
    if forecast.reasons:
        yield reason_table(forecast)
        yield _line(_space_text(forecast.space))
    for warning in forecast.space.warnings:
        yield _line(f"Warning: {warning}", style="yellow")


def stage_table(forecast: Forecast) -> Table:
    """A row for each stage: its tasks, the hours that are left, and what all of it keeps."""
    table = _table("stage")
    for heading in (
        "tasks",
        "done",
        "to run",
        "blocked",
        "GPU-hours",
        "CPU-hours",
        "bytes",
        "files",
    ):
        table.add_column(heading, justify="right")
    for stage in forecast.stages:
        counts = (stage.n_tasks, stage.n_done, stage.n_to_run, stage.n_blocked)
        hours = (hours_text(stage.gpu_hours), hours_text(stage.cpu_hours))
        kept = (decimal(stage.kept_bytes) if stage.kept_bytes else "", str(stage.kept_files))
        table.add_row(str(stage.kind), *map(str, counts), *hours, *kept)
    return table


def reason_table(forecast: Forecast) -> Table:
    """For each stage and reason, how many tasks would run because of it."""
    table = _table("why", "stage")
    table.add_column("tasks", justify="right")
    counts = Counter((why, forecast.tasks[i].kind) for i, why in forecast.reasons.items())
    for (why, kind), n in counts.most_common(_MOST_REASONS):
        table.add_row(why, str(kind), str(n))
    if len(counts) > _MOST_REASONS:
        n_rest = counts.total() - sum(n for _, n in counts.most_common(_MOST_REASONS))
        table.add_row(f"{len(counts) - _MOST_REASONS} other reasons", "", str(n_rest))
    return table


def hours_text(hours: Span | None) -> str:
    """``0.5-2.1``, ``< 0.01``, or ``unknown``."""
    if hours is None:
        return "unknown"
    if hours.high < 0.01:
        return "< 0.01" if hours.high else "0"
    low, high = _hours(hours.low), _hours(hours.high)
    return high if low == high else f"{low}-{high}"


def _hours(hours: float) -> str:
    if hours < 0.01:
        return "0"
    return f"{hours:.2g}" if hours < 10 else f"{hours:,.0f}"


def _space_text(space: Space) -> str:
    room = "" if space.free_files is None else f" and room for {space.free_files} files"
    return (
        f"To write: up to {decimal(space.feature_bytes)} of features and "
        f"{decimal(space.gram_bytes)} of Gram matrices, {space.n_files} files; "
        f"{decimal(space.free_bytes)} free{room}"
    )


def _line(text: str, style: str = "") -> Text:
    return Text(visible(text), style=style, overflow="fold")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table
