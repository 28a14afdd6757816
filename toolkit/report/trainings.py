"""The trainings of a study by name, and what the trials of a search tried."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from toolkit.report.style import DIVERGED, WEIGHTS_COLOUR
from toolkit.results.best import short_weights

TRIAL_STEPS = ("trial", "slot")

_STEPS = (*TRIAL_STEPS, "training", "winner", "grown")
_ENTRY = ("training", "dataset", "region", "experiment", "run")
_VARIANT = ("architecture", "weights", "layer", "readout", "objective", "seed", "fold")
_NUMBERED = ("seed", "fold")


def named_trainings(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of trainings and of the trials of searches, by names that tell them apart.

    Returns
    -------
    Those rows, with these columns more: ``entry``, the entry of the config, with data set and run
    where there are several; ``variant``, what of network, weights, objective, seed and fold differs
    within the entry, or the weights; ``search``, of both what it takes to tell searches apart.
    """
    rows = results[results["step"].isin(_STEPS)]
    if rows.empty:
        return rows.assign(entry="", variant="", search="")
    shown = ["training", *(c for c in _ENTRY[1:] if rows[c].nunique(dropna=False) > 1)]
    entry = rows[shown].fillna("").astype(str).agg(" · ".join, axis=1)
    variant = pd.concat([_variants(own) for _, own in rows.groupby(entry, sort=False)])
    named = rows.assign(entry=entry, variant=variant)
    several = named.groupby("entry")["variant"].transform("nunique") > 1
    whole = named["entry"] + " · " + named["variant"]
    return named.assign(search=named["entry"].where(~several, whole))


def lines_of(named: pd.DataFrame) -> pd.DataFrame:
    """One row for each learning curve: a training, or of a trial the last rung that it finished.

    Parameters
    ----------
    named
        From :func:`named_trainings`.

    Returns
    -------
    Rows of ``named`` with these columns more: ``line``, a name; ``searched``, what a trial tried;
    ``has_diverged``; ``colour``, the weights it started from where the entry has several, or
    ``line``.
    """
    alone = named[~named["step"].isin(TRIAL_STEPS)]
    has_diverged = alone["error_class"] == DIVERGED
    line = alone["variant"].where(alone["step"] != "winner", "winner, on all training images")
    alone = alone.assign(line=line, searched="", has_diverged=has_diverged)
    lines = [alone[(alone["status"] == "done") | has_diverged]]
    trials = named[named["step"].isin(TRIAL_STEPS) & named["trial"].notna()]
    won = alone.loc[alone["step"] == "winner"].groupby("search")["trial"].first()
    lines += [
        _lines_of_trials(own, won.get(search))
        for search, own in trials.groupby("search", sort=False)
    ]
    whole = pd.concat(lines, ignore_index=True)
    start = whole["weights"].map(_start)
    several = start.groupby(whole["entry"]).transform("nunique") > 1
    return whole.assign(colour=start.where(several, whole["line"]))


def searched_values(trials: pd.DataFrame) -> pd.DataFrame:
    """What the trials of one search differ in.

    Parameters
    ----------
    trials
        Rows of the results with a ``recipe``.

    Returns
    -------
    A column for each field, by its name in the config, such as ``optimizer.lr``; values as JSON
    texts, names without quotes. Rows as those of ``trials``.
    """
    flat = pd.DataFrame([dict(_fields(recipe)) for recipe in trials["recipe"]], index=trials.index)
    return flat[[field for field in flat if flat[field].nunique(dropna=False) > 1]].fillna("")


def searched_texts(trials: pd.DataFrame) -> list[str]:
    """Of each trial of one search ``optimizer.lr 0.001, optimizer.kind adam``."""
    tried = searched_values(trials).to_dict("records")
    return [", ".join(f"{field} {value}" for field, value in one.items()) for one in tried]


def recipe_of(row: pd.Series) -> dict[str, Any]:
    """The recipe of a row of the results; empty where there is none."""
    return json.loads(row["recipe"])["recipe"] if isinstance(row["recipe"], str) else {}


def _lines_of_trials(search: pd.DataFrame, winner: float | None) -> pd.DataFrame:
    is_over = search["outcome"] == DIVERGED
    in_order = search.assign(is_over=is_over).sort_values("rung", kind="stable")
    # The last rung before a trial diverged, if any.
    in_order = in_order.sort_values("is_over", ascending=False, kind="stable")
    last = in_order.drop_duplicates("trial", keep="last").sort_values("trial")
    line = "trial " + last["trial"].astype(int).astype(str)
    line = line.where(last["trial"] != winner, line + ", winner")
    if search["search"].iloc[0] != search["entry"].iloc[0]:
        line = last["variant"] + " · " + line
    return last.assign(
        line=line,
        searched=searched_texts(last),
        has_diverged=last["trial"].isin(search.loc[is_over, "trial"]),
    )


def _start(weights: str) -> str:
    if weights in WEIGHTS_COLOUR:
        return weights
    return "trained" if weights.startswith(("trained:", "run:")) else "checkpoint"


def _variants(rows: pd.DataFrame) -> pd.Series:
    weights = rows["weights"].map(short_weights(rows["weights"]))
    told = rows[list(_VARIANT)].assign(weights=weights)
    differing = [column for column in _VARIANT if told[column].nunique(dropna=False) > 1]
    if not differing:
        return weights
    texts = told[differing].fillna("").astype(str)
    for column in set(differing) & set(_NUMBERED):
        texts[column] = f"{column} " + texts[column]
    named = [" · ".join(filter(None, row)) for row in texts.itertuples(index=False)]
    return pd.Series(named, index=rows.index)


def _fields(recipe: str) -> Iterator[tuple[str, str]]:
    whole = json.loads(recipe)
    yield from _flat(whole["recipe"], "")
    yield from _flat(whole["decoder"] or {}, "decoder.")


def _flat(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
