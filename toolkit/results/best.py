"""The headline: each model's best layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import pandas as pd
from rich.console import Console
from rich.table import Table

from toolkit.terminal import one_line

_MODEL_KEYS = [
    "experiment",
    "dataset",
    "region",
    "library",
    "model",
    "weights",
    "seed",
    "readout",
    "training",
    "objective",
    "fold",
]


class _Shown(NamedTuple):
    column: str
    heading: str
    number_format: str | None = None


_NAMES = (
    _Shown("model", "model"),
    _Shown("weights", "weights"),
    _Shown("layer", "layer"),
    _Shown("readout", "readout"),
)
# Shown where models of one name, weights and read-out differ in them.
_DIFFERENCES = (
    _Shown("library", "library"),
    _Shown("training", "training"),
    _Shown("objective", "objective"),
    _Shown("seed", "seed", ".0f"),
    _Shown("fold", "fold", ".0f"),
)
_SCORES = (
    _Shown("ev_mean", "EV", ".3f"),
    _Shown("r_mean", "r", ".3f"),
    _Shown("ceiling_median", "ceiling", ".3f"),
    _Shown("ceiled_median_2026", "ceiled r² (2026)", ".3f"),
    _Shown("n_neurons", "neurons", ".0f"),
)


def best_layers(results: pd.DataFrame) -> pd.DataFrame:
    """The layer with the highest mean r of every model, with all columns of ``results``.

    A model is one combination of experiment, data set, region, library, name, weights, seed,
    read-out and training. Of layers with equal mean r the first wins; a model without any score
    has no row. Models keep the order of their first row.
    """
    scored = results[results["r_mean"].notna()].reset_index(drop=True)
    keys = [key for key in _MODEL_KEYS if key in scored]  # older tables know no trainings
    best = scored.groupby(keys, sort=False, dropna=False)["r_mean"].idxmax()
    return scored.loc[best.to_numpy()].reset_index(drop=True)


def print_best(results: pd.DataFrame, console: Console) -> None:
    """Print :func:`best_layers`, one table per experiment, data set and region.

    EV and r are means over neurons, the ceiling and the ceiled r² come from medians.
    Of models that would read the same, what they differ in is shown too: their library, or their
    training, its objective, seed and fold. On a terminal it is a table folded to the console's
    width; otherwise plain aligned lines.
    """
    best = best_layers(results)
    if best.empty:
        console.print("No scores yet.")
        return
    for key, group in best.groupby(["experiment", "dataset", "region"], sort=False, dropna=False):
        title = " · ".join(part for part in map(_text, key) if part)
        shown = _NAMES + _differences(group) + _SCORES
        cells = _cells(group, shown)
        if console.is_terminal:
            console.print(_rich_table(cells, shown, title))
        else:
            _print_plain(cells, title, console)


def short_weights(weights: Iterable[str]) -> dict[str, str]:
    """Each weights by the name of their file, with as many of its folders as tell them apart."""
    parts_of = {one: PurePath(one).parts for one in dict.fromkeys(weights)}
    short = {}
    for one, parts in parts_of.items():
        others = [other for other in parts_of.values() if other != parts]
        n_parts = 1
        while n_parts < len(parts) and any(o[-n_parts:] == parts[-n_parts:] for o in others):
            n_parts += 1
        short[one] = str(PurePath(*parts[-n_parts:]))
    return short


def _differences(best: pd.DataFrame) -> tuple[_Shown, ...]:
    names = _cells(best, _NAMES).drop(columns="layer")
    possible = tuple(one for one in _DIFFERENCES if one.column in best)
    variants = _cells(best, possible).groupby(names.agg(tuple, axis=1)).nunique()
    return tuple(one for one in possible if (variants[one.heading] > 1).any())


def _cells(best: pd.DataFrame, shown: Sequence[_Shown]) -> pd.DataFrame:
    short = short_weights(best["weights"])
    weights = [
        f"random, seed {seed}" if weights == "random" else short[weights]
        for weights, seed in zip(best["weights"], best["seed"], strict=True)
    ]
    named = best.assign(weights=weights)
    return pd.DataFrame(
        {s.heading: [_text(value, s.number_format) for value in named[s.column]] for s in shown}
    )


def _text(value: Any, number_format: str | None = None) -> str:
    if pd.isna(value):
        return "–" if number_format else ""
    return one_line(format(value, number_format or ""))


def _rich_table(cells: pd.DataFrame, shown: Sequence[_Shown], title: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1), pad_edge=False)
    for one in shown:
        table.add_column(
            one.heading.replace(" (", "\n("),
            justify="right" if one.number_format else "left",
            no_wrap=one.number_format is not None,
            overflow="fold",
        )
    for row in cells.itertuples(index=False):
        table.add_row(*row)
    return table


def _print_plain(cells: pd.DataFrame, title: str, console: Console) -> None:
    lines = f"{title}\n{cells.to_string(index=False)}"
    console.print(lines, soft_wrap=True)
