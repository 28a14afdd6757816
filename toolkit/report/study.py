"""The runs of a report: their tables together, with what every figure asks of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np
import pandas as pd
import pyarrow as pa

from toolkit.cluster.run_folder import RunFolder
from toolkit.metrics.uncertainty import bootstrap_interval
from toolkit.report.errors import ReportError
from toolkit.report.style import WEIGHTS_COLOUR
from toolkit.results import Tables, load
from toolkit.results.best import short_weights
from toolkit.results.columns import RESULT_COLUMNS
from toolkit.results.columns import names as column_names

# What a score depends on beside the network: rows are ranked only where these agree.
CONDITIONS = ("run", "experiment", "dataset", "region", "features", "readout")
NETWORK = ("library", "model", "weights", "seed", "training", "objective", "fold")
# Steps of a search that are no results of their own.
_UNFINISHED_STEPS = ("trial", "slot", "modules")

_N_RESAMPLES = 2_000
_NO_WEIGHTS = "no weights"


@dataclass(frozen=True)
class Study:
    """Tables of one or several runs.

    Attributes
    ----------
    runs
        Name of each run → its folder.
    results
        The runs' results together, with these columns more: ``row``, the number of the row;
        ``run``; ``score``, the mean r over neurons, or the similarity where nothing is predicted;
        ``r_highest``, the r of a perfect prediction of a neuron of median ceiling, √ceiling;
        ``weights_kind``, pretrained, random, checkpoint or no weights; ``architecture``, a short
        name of the network, ``choice``, of its weights, and of the run where there are several, and
        ``network``, of both; ``setting``, a short name of the conditions that differ within
        a run, empty if none do, and ``architecture_setting`` and ``network_setting`` with it;
        ``is_best``, whether no other layer of the network scores higher in its setting. Where a
        best layer has no interval of the mean r, ``r_mean_low`` and ``r_mean_high`` are of 2,000
        bootstrap resamples of the neurons' scores, each averaged over splits.
    neurons
        Scores of each neuron, with the ``row`` of results they belong to; its region is ``area``.
    tasks
        Every planned task, with its ``run``.
    """

    runs: dict[str, Path]
    results: pd.DataFrame
    neurons: pd.DataFrame
    tasks: pd.DataFrame

    @property
    def best(self) -> pd.DataFrame:
        """The best layer of each network in each setting, highest r first, similarities after."""
        best = self.results[self.results["is_best"]]
        return best.sort_values(["r_mean", "score"], ascending=False, kind="stable")

    def curve(self, row: pd.Series) -> pd.DataFrame | None:
        """What the training of a row measured in each epoch; None if it left nothing readable."""
        path = RunFolder(self.runs[row["run"]]).curve_path(row["task_id"])
        try:
            table = pd.read_parquet(path)
        except (OSError, UnicodeDecodeError, pa.ArrowException):
            return None
        return table if table.attrs.get("task_id") == row["task_id"] else None

    def with_rows(self, frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
        """Join columns of the results to a frame that has their ``row``."""
        rows = self.results.set_index("row")[list(columns)]
        return frame.join(rows, on="row")


def read_study(folders: Sequence[str | Path]) -> Study:
    """Read the tables of one or several run folders.

    Raises
    ------
    ReportError
        If no folder is given.
    ResultError
        If a folder's tables are missing or damaged.
    """
    if not folders:
        raise ReportError("no run folder is given; write one or more, such as runs/quickstart")
    return make_study({name: (path, load(path)) for name, path in _named(folders).items()})


def make_study(runs: Mapping[str, tuple[Path, Tables]]) -> Study:
    """A study of tables that are loaded already, by the names of their runs.

    Tables written before there were trainings lack their columns; they are taken as missing.
    """
    results, neurons, tasks = [], [], []
    first_row = 0
    for name, (_, tables) in runs.items():
        known = tables.results.reindex(columns=list(column_names(RESULT_COLUMNS)))
        numbered = known.assign(run=name, row=range(first_row, first_row + len(known)))
        first_row += len(numbered)
        results.append(numbered)
        row_of_id = numbered.set_index("row_id")["row"]
        neurons.append(_slim(tables.neurons).assign(row=tables.neurons["row_id"].map(row_of_id)))
        tasks.append(tables.tasks.assign(run=name))
    all_neurons = pd.concat(neurons, ignore_index=True)
    described = _described(pd.concat(results, ignore_index=True), n_runs=len(runs))
    return Study(
        runs={name: path for name, (path, _) in runs.items()},
        results=_with_intervals(described, all_neurons),
        neurons=all_neurons,
        tasks=pd.concat(tasks, ignore_index=True),
    )


def _named(folders: Sequence[str | Path]) -> dict[str, Path]:
    """Short names of the folders: their last part, or as much of the path as tells them apart."""
    paths = list(dict.fromkeys(Path(folder).absolute() for folder in folders))
    n_parts = 1
    names = [path.name for path in paths]
    while len(set(names)) < len(paths):
        n_parts += 1
        names = [str(PurePath(*path.parts[-n_parts:])) for path in paths]
    return dict(zip(names, paths, strict=True))


def _slim(neurons: pd.DataFrame) -> pd.DataFrame:
    """Without what the results say of the task."""
    own = ["neuron_id", "region", "alpha", "ev", "r", "ceiling"]
    return neurons[own].rename(columns={"region": "area"})


def _described(results: pd.DataFrame, n_runs: int) -> pd.DataFrame:
    described = results.assign(
        score=results["r_mean"].fillna(results["similarity"]),
        r_highest=np.sqrt(results["ceiling_median"].clip(lower=0)),
        weights_kind=_weights_kind(results),
        architecture=_architecture_names(results),
        choice=_weights_names(results),
        setting=_setting_names(results),
    )
    plain = described["weights_kind"].isin(["pretrained", _NO_WEIGHTS])
    named = described["architecture"] + " (" + described["choice"] + ")"
    described["network"] = described["architecture"].where(plain, named)
    if n_runs > 1:
        for column in ("network", "choice"):
            described[column] = described[column] + " · " + described["run"]
    for column in ("architecture", "network"):
        described[f"{column}_setting"] = _with_setting(described, column)
    return described.assign(is_best=_is_best(described))


def _with_intervals(results: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    missing = results[results["is_best"] & results["r_mean"].notna() & results["r_mean_low"].isna()]
    r_of_row = neurons[neurons["row"].isin(missing["row"])].groupby("row")["r"]
    filled = results.copy()
    for row, r in r_of_row:
        low_high = bootstrap_interval(r.to_numpy(), statistic="mean", n_resamples=_N_RESAMPLES)
        filled.loc[filled["row"] == row, ["r_mean_low", "r_mean_high"]] = low_high
    return filled


def _weights_kind(results: pd.DataFrame) -> pd.Series:
    weights = results["weights"].replace("none", _NO_WEIGHTS)
    is_trained = results["training"].notna() | weights.str.startswith(("trained:", "run:"))
    weights = weights.where(~is_trained, "trained")
    return weights.where(weights.isin(list(WEIGHTS_COLOUR)), "checkpoint")


def _weights_names(results: pd.DataFrame) -> pd.Series:
    """What tells the weights apart: a seed, a training's name, and what differs in it."""
    is_random = results["weights"] == "random"
    names = results["weights"].map(short_weights(results["weights"]))
    if results.loc[is_random, "seed"].nunique() > 1:
        names = names.where(~is_random, "random " + results["seed"].astype(str))
    has_training = results["training"].notna() & ~results["weights"].str.startswith("trained:")
    names = names.where(~has_training, names + ", " + results["training"].astype(str))
    for column, said in (("objective", ""), ("fold", "fold ")):
        several = results.groupby("training")[column].transform("nunique") > 1
        told = results[column].map(lambda value, said=said: f", {said}{value}")
        names = names.where(~several, names + told)
    return names


def _architecture_names(results: pd.DataFrame) -> pd.Series:
    """The model, with its library where two libraries have one of this name."""
    libraries = results.groupby("model")["library"].transform("nunique")
    return results["model"].where(libraries < 2, results["library"] + " " + results["model"])


def _setting_names(results: pd.DataFrame) -> pd.Series:
    """The conditions in which one quantity was measured repeatedly within a run."""
    comparing = results.loc[results["similarity"].notna(), "readout"].unique()
    quantity = [results["run"], results["readout"].isin(comparing)]
    shown = [
        c
        for c in CONDITIONS
        if c not in ("run", "experiment") and (results.groupby(quantity)[c].nunique() > 1).any()
    ]
    if not shown:
        return pd.Series("", index=results.index)
    return results[shown].fillna("").astype(str).agg(" · ".join, axis=1)


def _with_setting(results: pd.DataFrame, column: str) -> pd.Series:
    joined = results[column] + " · " + results["setting"]
    return joined.where(results["setting"] != "", results[column])


def _is_best(results: pd.DataFrame) -> pd.Series:
    scored = results[results["score"].notna() & ~results["step"].isin(_UNFINISHED_STEPS)]
    best = scored.groupby([*CONDITIONS, *NETWORK], sort=False, dropna=False)["score"].idxmax()
    return results.index.to_series().isin(best)
