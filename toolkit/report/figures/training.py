"""Figures of trainings: what happened in each epoch, and what a search found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from toolkit.report.chart import Chart, Measure
from toolkit.report.study import Study
from toolkit.report.style import (
    BEST_EPOCH,
    DIVERGED,
    FAR_BELOW,
    STOPPED_EARLY,
    WINNER,
)
from toolkit.report.trainings import (
    TRIAL_STEPS,
    lines_of,
    named_trainings,
    recipe_of,
    searched_texts,
    searched_values,
)

# Of more trainings the best ones; of long ones not every epoch.
MOST_CURVES, MOST_CURVE_ROWS = 400, 24_000
_FEWEST_EPOCHS = 10

_PREFIXES = {"validation": "val_", "training": "train_"}
_MEASURES = (
    Measure("epoch_loss", "loss", lower_is_better=True),
    Measure("mse", "squared error", lower_is_better=True),
    Measure("poisson", "Poisson loss", lower_is_better=True),
    Measure("correlation", "1 − correlation", lower_is_better=True),
    Measure("object", "cross-entropy of objects", lower_is_better=True),
    Measure("category", "cross-entropy of categories", lower_is_better=True),
    # Lower values only say that training is at its beginning.
    Measure("epoch_ev", "explained variance", floor=-1.0),
    Measure("epoch_r", "Pearson r"),
    Measure("epoch_accuracy", "accuracy"),
)
# Name in the curve → own name, which no column of the results has.
_COLUMNS = {m.column.removeprefix("epoch_"): m.column for m in _MEASURES}
_MONITORED = {"loss": "− loss", "ev": "explained variance", "r": "Pearson r"}
# How far below its lower quartile a search is drawn, in distances from there to its best.
_DRAWN_BELOW = 2.0


def learning_curves(study: Study) -> Chart | None:
    """Loss, each objective and scores by epoch, a line for each training."""
    lines = lines_of(named_trainings(study.results))
    rank = lines.groupby("entry")["val_score"].rank(ascending=False, method="first")
    drawn = lines.loc[rank.sort_values(na_position="first", kind="stable").index[:MOST_CURVES]]
    most_epochs = max(_FEWEST_EPOCHS, MOST_CURVE_ROWS // (2 * max(1, len(drawn))))
    curves = [_curve(study, line, most_epochs) for _, line in drawn.sort_values("row").iterrows()]
    if not any("epoch_loss" in curve for curve in curves):
        return None
    rows = _with_companions(pd.concat(curves, ignore_index=True))
    measures = tuple(_shown_measures(rows))
    unused = set(_COLUMNS.values()) - {measure.column for measure in measures}
    left_out = len(lines) - len(drawn)
    return Chart(
        name="learning_curves",
        title="Learning curves",
        caption="A line for each training and each trial of a search, on the validation images; "
        "dotted, where they are few, on the training images. Marks: the epoch whose weights were "
        "kept, and trainings that stopped early. Crosses: diverged after the epochs recorded."
        + (f" {left_out} more trainings, of lower score, are left out." if left_out else ""),
        kind="curves",
        rows=rows.drop(columns=list(unused)),
        measures=measures,
        x="epoch",
        x_title="epoch, from 0",
        series="line",
        colour="colour",
        panel="entry" if rows["entry"].nunique() > 1 else "",
        hover=("images", "mark", "searched", "lr", "objective", "n_epochs", "best_epoch"),
        mark="mark",
        faint="is_faint",
    )


def search_results(study: Study) -> Chart | None:
    """Validation score of each trial of a search against each field that was searched."""
    named = named_trainings(study.results)
    trials = named[named["step"].isin(TRIAL_STEPS) & named["recipe"].notna()]
    winners = named[named["step"] == "winner"].groupby("search")["trial"].first()
    found = [
        rows
        for search, own in trials.groupby("search", sort=False)
        for rows in _trial_rows(own, winners.get(search))
    ]
    if not found:
        return None
    rows = pd.concat(found, ignore_index=True)
    if rows["search"].nunique() > 1:
        rows["panel"] = rows["search"] + " · " + rows["field"]
    monitors = {recipe_of(row)["monitor"] for _, row in trials.drop_duplicates("search").iterrows()}
    monitored = monitors.pop() if len(monitors) == 1 else "monitored value"
    return Chart(
        name="search_results",
        title="Searches",
        caption="Each mark is a trial at the end of a rung: its score on the validation images "
        "against one of the values that were searched. A star is the trial that won. At the lower "
        "edge: trials that diverged, and scores far below the others.",
        kind="trials",
        rows=rows,
        measures=(Measure("val_score", f"{_MONITORED.get(monitored, monitored)}, validation"),),
        x="value",
        x_title="",
        series="rung_name",
        panel="panel" if rows["panel"].nunique() > 1 else "",
        text="field",
        hover=("search", "trial", "searched", "mark", "n_epochs", "best_epoch"),
        mark="mark",
    )


def _curve(study: Study, line: pd.Series, most_epochs: int) -> pd.DataFrame:
    """What is drawn of a training: some of its epochs, on validation and on training images."""
    measured = study.curve(line)
    parts = [] if measured is None else list(_on_images(measured, line, most_epochs))
    if line["has_diverged"]:
        n_recorded = 0 if measured is None else len(measured)
        parts.append(pd.DataFrame({"epoch": [n_recorded], "mark": DIVERGED}))
    if not parts:
        return pd.DataFrame()
    about = {name: line[name] for name in ("row", "entry", "line", "colour", "searched")}
    return pd.concat(parts, ignore_index=True).assign(**about)


def _on_images(measured: pd.DataFrame, line: pd.Series, most_epochs: int) -> Iterator[pd.DataFrame]:
    """Rows on validation images, if any, and on training images."""
    mark = measured["epoch"].map({line["best_epoch"]: BEST_EPOCH})
    if _stopped_early(line):
        mark.iloc[-1] = STOPPED_EARLY
    kept = np.linspace(0, len(measured) - 1, most_epochs).round()
    thinned = measured.assign(mark=mark)[measured["epoch"].isin(kept) | mark.notna()]
    for images, prefix in _PREFIXES.items():
        if f"{prefix}loss" in measured:
            part = thinned.rename(columns={f"{prefix}{name}": c for name, c in _COLUMNS.items()})
            columns = ["epoch", "lr", "mark", *_COLUMNS.values()]
            yield part.reindex(columns=columns).assign(images=images)


def _stopped_early(line: pd.Series) -> bool:
    """Whether it ended by its patience, and not because all epochs were done or a rung was over."""
    recipe = recipe_of(line)
    patience, n_epochs = recipe.get("patience"), line["n_epochs"]
    if patience is None or n_epochs == recipe["n_epochs"]:
        return False
    return bool(n_epochs - line["best_epoch"] > patience)


def _with_companions(rows: pd.DataFrame) -> pd.DataFrame:
    """Training images accompany validation images, where a figure has both."""
    on_validation = rows["images"] == "validation"
    has_validation = on_validation.groupby(rows["entry"]).transform("any")
    is_faint = (rows["images"] == "training") & has_validation
    return rows.assign(is_faint=is_faint, mark=rows["mark"].mask(is_faint, None))


def _shown_measures(rows: pd.DataFrame) -> Iterator[Measure]:
    """Those that were measured; an objective that is the whole loss is not shown twice."""
    for measure in _MEASURES:
        if measure.column not in rows or rows[measure.column].isna().all():
            continue
        is_loss = measure.column == "epoch_loss"
        if is_loss or not rows[measure.column].equals(rows["epoch_loss"]):
            yield measure


def _trial_rows(trials: pd.DataFrame, winner: float | None) -> Iterator[pd.DataFrame]:
    """Rows of a search against each of its fields."""
    score = trials["val_score"]
    low = score.quantile(0.25)
    is_last = trials["rung"] == trials["rung"].max()
    mark = pd.Series(None, index=trials.index, dtype=object)
    mark[score < low - _DRAWN_BELOW * (score.max() - low)] = FAR_BELOW
    mark[trials["outcome"] == DIVERGED] = DIVERGED
    mark[is_last & (trials["trial"] == winner)] = WINNER
    epochs = trials.groupby("rung")["n_epochs"].transform("max")
    last_epoch = ", to epoch " + (epochs - 1).astype("Int64").astype(str)
    rung = "rung " + trials["rung"].astype(int).astype(str) + last_epoch.where(epochs.notna(), "")
    rows = trials[["row", "search", "trial", "val_score"]].assign(
        searched=searched_texts(trials),
        mark=mark,
        rung_name=rung if trials["rung"].nunique() > 1 else "trials",
    )
    for field, values in searched_values(trials).items():
        yield rows.assign(field=str(field), value=values, panel=str(field))
