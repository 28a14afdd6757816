"""The data-quality report: the same tables as text and, with plots, as one HTML page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from toolkit.atomic import atomic_path
from toolkit.data.dataset import shortened
from toolkit.data.plots import figures
from toolkit.data.quality import Quality, median_known

# A unit whose mean response moved by more than this many standard deviations is named.
NOTABLE_DRIFT = 0.5
_N_CLASSES = 20
# So many neuroids are listed one by one in the text too; the page lists all.
_N_UNITS_IN_TEXT = 40
_NUMBERS = re.compile(r"[-–\d.]+%?( to [-–\d.]+)?")


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


def summary(quality: Quality) -> list[Section]:
    """Return what the report says of the whole data set, in words and numbers."""
    return [
        Section("What there is", tuple(_overview(quality))),
        Section("Areas: split-half ceilings", tuple(_areas(quality))),
        Section("Units", tuple(_units(quality))),
        Section("Images", tuple(_images(quality))),
        *(Section(f"Balance of {kind}", tuple(_balance(n))) for kind, n in quality.classes.items()),
    ]


def each_unit(quality: Quality) -> Section:
    """Return a row for each neuroid."""
    return Section("Each unit", tuple(_unit_rows(quality)))


def as_text(quality: Quality) -> str:
    """Return the report as plain text."""
    listed = [each_unit(quality)] if len(quality.ceilings) <= _N_UNITS_IN_TEXT else []
    parts = [quality.dataset.name]
    for section in [*summary(quality), *listed]:
        widths = [max(map(len, column)) for column in zip(*section.rows, strict=True)]
        lines = [
            "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in section.rows
        ]
        parts.append("\n".join([section.title, *lines]))
    return "\n\n".join(parts)


def write_page(path: Path, quality: Quality) -> None:
    """Write the report with plots as one HTML file that needs nothing else."""
    units = each_unit(quality)
    page = _PAGE.format(
        name=html.escape(quality.dataset.name),
        summary="\n".join(map(_as_section, summary(quality))),
        plots="\n".join(figures(quality)),
        units=f"<details><summary>{units.title}</summary>\n{_as_table(units)}\n</details>",
    )
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")


def _overview(quality: Quality) -> Iterator[tuple[str, str]]:
    dataset = quality.dataset
    yield "stimuli", str(len(dataset.stimuli))
    yield "neuroids", str(len(dataset.neuroid_ids))
    for note in (*dataset.notes, *dataset.stimuli.remarks()):
        yield "taken for granted", note
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
    before = [] if quality.before_onset is None else ["before onset"]
    controls = [*before, "shuffled labels", "above shuffled"]
    yield "area", "neuroids", "median", "5 %", "95 %", "no ceiling", *controls
    for area, index in quality.areas.items():
        ceilings = quality.ceilings[index]
        known = ceilings[~np.isnan(ceilings)]
        shares = np.quantile(known, [0.5, 0.05, 0.95]) if len(known) else [np.nan] * 3
        row = [area or "(not given)", str(len(index)), *map(_rounded, shares)]
        row.append(str(len(index) - len(known)))
        if quality.before_onset is not None:
            row.append(_rounded(median_known(quality.before_onset[index])))
        chance = [median_known(shuffle[index]) for shuffle in quality.chance]
        row.append(f"{_rounded(min(chance))} to {_rounded(max(chance))}")
        yield *row, str(np.sum(quality.is_above_chance[index]))


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
    yield "duplicates", f"{n} set{'s' * (n > 1)}: {sets}" if n else "none"
    leaks = f"{len(quality.leaks)}: {shortened(quality.leaks)}" if quality.leaks else "none"
    yield "in two splits", leaks if splits else "no splits to compare"


def _balance(counts: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    yield "label", "stimuli", "share"
    total = sum(counts.values())
    values = list(counts.values())
    if len(counts) > _N_CLASSES and values[0] == values[-1]:
        yield f"each of {len(counts)}", str(values[0]), f"{values[0] / total:.1%}"
        return
    for label, n in list(counts.items())[:_N_CLASSES]:
        yield label or "(empty)", str(n), f"{n / total:.1%}"
    rest = values[_N_CLASSES:]
    if rest:
        yield f"{len(rest)} more", str(sum(rest)), f"{sum(rest) / total:.1%}"


def _unit_rows(quality: Quality) -> Iterator[tuple[str, ...]]:
    columns = {
        "ceiling": quality.ceilings,
        "before onset": quality.before_onset,
        "shuffled labels, highest": np.max(quality.chance, axis=0),
        "mean": np.nanmean(quality.dataset.responses, axis=0),
        "SD": np.nanstd(quality.dataset.responses, axis=0),
        "drift (SD)": quality.drift,
    }
    known = {name: values for name, values in columns.items() if values is not None}
    yield "unit", "area", *known, "remark"
    for i, (unit, area) in enumerate(
        zip(quality.dataset.neuroid_ids, quality.dataset.regions, strict=True)
    ):
        remark = "silent" if quality.is_silent[i] else "constant" if quality.is_constant[i] else ""
        yield unit, area, *(_rounded(values[i]) for values in known.values()), remark


def _rounded(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _named(quality: Quality, which: np.ndarray) -> str:
    ids = [quality.dataset.neuroid_ids[i] for i in np.flatnonzero(which)]
    return f"{len(ids)}: {shortened(ids)}" if ids else "none"


def _as_section(section: Section) -> str:
    return f"<h2>{html.escape(section.title)}</h2>\n{_as_table(section)}"


def _as_table(section: Section) -> str:
    if len(section.rows[0]) == 2:
        rows = [_as_row(row, "td") for row in section.rows]
        return "\n".join(['<table class="words">', *rows, "</table>"])
    columns = zip(*section.rows, strict=True)
    is_numeric = [all(map(_NUMBERS.fullmatch, column[1:])) for column in columns]
    rows = [_as_row(section.rows[0], "th", is_numeric)]
    rows += [_as_row(row, "td", is_numeric) for row in section.rows[1:]]
    return "\n".join(['<div class="scroll"><table>', *rows, "</table></div>"])


def _as_row(cells: Sequence[str], tag: str, is_numeric: Sequence[bool] = ()) -> str:
    columns = zip_longest(cells, is_numeric, fillvalue=False)
    opened = [(f'{tag} class="number"' if numeric else tag, cell) for cell, numeric in columns]
    inside = (f"<{start}>{html.escape(str(cell))}</{tag}>" for start, cell in opened)
    return f"<tr>{''.join(inside)}</tr>"


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: data quality</title>
<style>
:root {{ color-scheme: light; }}
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff; }}
h1 {{ font-size: 1.5rem; }}
h2, summary {{ font-size: 1.1rem; font-weight: 600; margin: 1.8rem 0 .4rem; }}
summary {{ cursor: pointer; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: .2rem 1.2rem .2rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e3e3e3; font-variant-numeric: tabular-nums; }}
.number {{ text-align: right; }}
.words td {{ overflow-wrap: anywhere; }}
.words td:first-child, .scroll td, .scroll th {{ white-space: nowrap; }}
/* A shadow at the edge beyond which there is more of a wide table. */
.scroll {{ overflow-x: auto;
  background: linear-gradient(to right, #fff 1rem, transparent) 0 0 / 3rem 100% no-repeat local,
    linear-gradient(to left, #fff 1rem, transparent) 100% 0 / 3rem 100% no-repeat local,
    linear-gradient(to right, #0003, transparent) 0 0 / .8rem 100% no-repeat scroll,
    linear-gradient(to left, #0003, transparent) 100% 0 / .8rem 100% no-repeat scroll; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1.5rem 2rem; margin-top: 2rem; }}
figure {{ margin: 0; }} figure svg {{ width: 100%; height: auto; }}
figcaption {{ color: #555; font-size: .9rem; }}
</style>
</head>
<body>
<h1>{name}: data quality</h1>
{summary}
<div class="plots">
{plots}
</div>
{units}
</body>
</html>
"""
