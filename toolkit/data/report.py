"""The data-quality report: the same tables as text and, with plots, as one HTML page."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.atomic import atomic_path
from toolkit.data.dataset import shortened
from toolkit.data.plots import figures
from toolkit.data.quality import Quality

# A unit whose mean response moved by more than this many standard deviations is named.
NOTABLE_DRIFT = 0.5
_N_CLASSES = 20


@dataclass(frozen=True)
class Section:
    """A heading with rows of text under it; the first row names the columns if there are several.

    Parameters
    ----------
    title
        The heading.
    rows
        The rows, all of one length.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]


def sections(quality: Quality) -> list[Section]:
    """Return everything the report says, in words and numbers."""
    return [
        Section("What there is", tuple(_overview(quality))),
        Section("Areas", tuple(_areas(quality))),
        Section("Units", tuple(_units(quality))),
        Section("Images", tuple(_images(quality))),
        *(Section(f"Balance of {kind}", tuple(_balance(n))) for kind, n in quality.classes.items()),
    ]


def as_text(quality: Quality) -> str:
    """Return the report as plain text."""
    parts = [quality.dataset.name]
    for section in sections(quality):
        widths = [max(map(len, column)) for column in zip(*section.rows, strict=True)]
        lines = [
            "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in section.rows
        ]
        parts.append("\n".join([section.title, *lines]))
    return "\n\n".join(parts)


def write_page(path: Path, quality: Quality) -> None:
    """Write the report with plots as one HTML file that needs nothing else."""
    name = html.escape(quality.dataset.name)
    body = "\n".join([*map(_as_table, sections(quality)), *figures(quality)])
    with atomic_path(path) as temporary:
        temporary.write_text(_PAGE.format(name=name, body=body), encoding="utf-8")


def _overview(quality: Quality) -> Iterator[tuple[str, str]]:
    dataset = quality.dataset
    yield "stimuli", str(len(dataset.stimuli))
    yield "neuroids", str(len(dataset.neuroid_ids))
    missing = np.isnan(dataset.responses).mean()
    if missing:
        yield "responses missing", f"{missing:.1%} (not shown in the neuroid's session)"
    if dataset.repetitions is None:
        yield "repetitions", "none in the source, so no ceiling"
    else:
        values, counts = np.unique(quality.n_presentations, return_counts=True)
        spread = ", ".join(f"{n} × {v}" for v, n in zip(values, counts, strict=True))
        full = len(values) <= 6
        text = f"stimuli × presentations: {spread}" if full else f"{values[0]} to {values[-1]}"
        yield "repetitions", f"{text}; median {np.median(quality.n_presentations):g}"
    if dataset.timelines:
        minutes = [(t.time_s[-1] - t.time_s[0]) / 60 for t in dataset.timelines]
        n_events = sum(len(t.time_s) for t in dataset.timelines)
        yield "sessions", f"{len(minutes)}, {n_events} responses over {sum(minutes):.0f} min"
        n_dropped = sum(dataset.dropped.values())
        reasons = "; ".join(f"{n} {reason}" for reason, n in dataset.dropped.items())
        yield (
            "left out",
            f"{n_dropped} of {n_dropped + n_events}" + (f": {reasons}" * bool(reasons)),
        )
    if dataset.visual_degrees is not None:
        yield "visual angle", f"{dataset.visual_degrees:g}° wide"


def _areas(quality: Quality) -> Iterator[tuple[str, ...]]:
    yield "area", "neuroids", "ceiling: median", "5 %", "95 %", "without"
    for area, index in quality.areas.items():
        ceilings = quality.ceilings[index]
        known = ceilings[~np.isnan(ceilings)]
        shares = np.quantile(known, [0.5, 0.05, 0.95]) if len(known) else [np.nan] * 3
        texts = [f"{share:.3f}" if np.isfinite(share) else "–" for share in shares]
        yield area or "(not given)", str(len(index)), *texts, str(len(index) - len(known))


def _units(quality: Quality) -> Iterator[tuple[str, str]]:
    yield "silent", _named(quality, quality.is_silent)
    yield "constant", _named(quality, quality.is_constant)
    if not quality.drift_over:
        yield "drift", "unknown: neither times nor repetitions"
        return
    size = np.abs(quality.drift[~np.isnan(quality.drift)])
    yield (
        f"drift over {quality.drift_over}",
        f"second half against first, in SD of single responses: median size "
        f"{np.median(size) if len(size) else np.nan:.2f}, largest {max(size, default=np.nan):.2f}",
    )
    with np.errstate(invalid="ignore"):
        yield (
            f"drift above {NOTABLE_DRIFT:g} SD",
            _named(quality, np.abs(quality.drift) > NOTABLE_DRIFT),
        )


def _images(quality: Quality) -> Iterator[tuple[str, str]]:
    splits = quality.dataset.splits
    yield "splits", ", ".join(f"{k} {len(v)}" for k, v in splits.items()) or "none declared"
    if quality.duplicates is None:
        yield "duplicates, leaks", "not checked: loaded without images"
        return
    n = len(quality.duplicates)
    sets = shortened([" = ".join(same[:4]) for same in quality.duplicates])
    yield "duplicates", f"{n} sets: {sets}" if n else "none"
    leaks = f"{len(quality.leaks)}: {shortened(quality.leaks)}" if quality.leaks else "none"
    yield "in two splits", leaks if splits else "no splits to compare"


def _balance(counts: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    yield "label", "stimuli", "share"
    total = sum(counts.values())
    for label, n in list(counts.items())[:_N_CLASSES]:
        yield label or "(empty)", str(n), f"{n / total:.1%}"
    rest = list(counts.values())[_N_CLASSES:]
    if rest:
        yield f"{len(rest)} more", str(sum(rest)), f"{sum(rest) / total:.1%}"


def _named(quality: Quality, which: np.ndarray) -> str:
    ids = [quality.dataset.neuroid_ids[i] for i in np.flatnonzero(which)]
    return f"{len(ids)}: {shortened(ids)}" if ids else "none"


def _as_table(section: Section) -> str:
    has_head = len(section.rows[0]) > 2
    lines = [f"<h2>{html.escape(section.title)}</h2>", "<table>"]
    for number, row in enumerate(section.rows):
        lines.append(_as_row(row, "th" if has_head and number == 0 else "td"))
    return "\n".join([*lines, "</table>"])


def _as_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: data quality</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin: 1.8rem 0 .4rem; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem 1.2rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e3e3e3; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
td:first-child {{ white-space: nowrap; }}
figure {{ margin: 1.8rem 0; }} figure svg {{ max-width: 100%; height: auto; }}
figcaption {{ color: #555; }}
</style>
</head>
<body>
<h1>{name}: data quality</h1>
{body}
</body>
</html>
"""
