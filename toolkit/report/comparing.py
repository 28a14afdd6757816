"""Runs side by side: the same networks, neuron by neuron."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from toolkit.metrics.paired import paired_difference
from toolkit.report.chart import Chart, Measure
from toolkit.report.study import NETWORK, Study

_NETWORK = ("dataset", "region", *NETWORK)
_SETTING = ("features", "readout")
_BEST = "the best of each run"


def compare(study: Study) -> pd.DataFrame:
    """Paired differences between the first run and each other one.

    Compared are the best layers of each network that both runs have, in each setting that both
    have or, if none, in the best of each; and the best network of each run. It is over the neurons,
    by id, that both have a score for. Neurons that are known by position only have ids that hold
    for equal responses only.

    Returns
    -------
    One row per comparison: ``compared``, ``first_run``, ``second_run``, ``dataset``,
    ``first_layer``, ``second_layer``, the means of r ``r_first`` and ``r_second``, ``difference``
    with ``difference_low`` and ``difference_high``, ``p_value``, ``q_value`` (Benjamini and
    Hochberg 1995, over all rows) and ``n_neurons``. No rows where nothing matches.
    """
    best = study.best[study.best["r_mean"].notna()]
    first_run, *others = study.runs
    rows = [
        _compared(study, name, first, second)
        for other in others
        for name, first, second in _pairs(
            best[best["run"] == first_run], best[best["run"] == other]
        )
    ]
    table = pd.DataFrame([row for row in rows if row["n_neurons"] > 1], columns=_COLUMNS)
    if len(table):
        table["q_value"] = false_discovery_control(table["p_value"])
    return table


def differences(table: pd.DataFrame) -> Chart | None:
    """What :func:`compare` found, as bars."""
    if table.empty:
        return None
    several = table["second_run"].nunique() > 1
    runs = table["second_run"] + " − " + table["first_run"]
    return Chart(
        name="differences",
        title="Differences between runs",
        caption="Mean over neurons of r in one run minus r in the other, for the best layer of the "
        "same network, with a 95 % bootstrap interval over neurons.",
        kind="bars",
        rows=table.assign(runs=runs),
        measures=(
            Measure(
                "difference",
                "difference of r, mean over neurons",
                low="difference_low",
                high="difference_high",
            ),
        ),
        x="compared",
        x_title="",
        series="runs",
        panel="runs" if several else "",
        hover=("r_first", "r_second", "p_value", "q_value", "n_neurons"),
    )


_COLUMNS = [
    "compared",
    "first_run",
    "second_run",
    "dataset",
    "first_layer",
    "second_layer",
    "r_first",
    "r_second",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "q_value",
    "n_neurons",
]


def _pairs(first: pd.DataFrame, second: pd.DataFrame) -> list[tuple[str, pd.Series, pd.Series]]:
    """What is compared with what, the best of each data set first."""
    found = []
    for dataset in first["dataset"].unique():
        there = second[second["dataset"] == dataset]
        if len(there):
            found.append((_BEST, first[first["dataset"] == dataset].iloc[0], there.iloc[0]))
    networks_there = _grouped(second, _NETWORK)
    for network, here in _grouped(first, _NETWORK).items():
        if network in networks_there:
            found += _pairs_of_network(here, networks_there[network])
    return found


def _pairs_of_network(
    here: pd.DataFrame, there: pd.DataFrame
) -> list[tuple[str, pd.Series, pd.Series]]:
    settings_here, settings_there = _grouped(here, _SETTING), _grouped(there, _SETTING)
    common = [setting for setting in settings_here if setting in settings_there]
    if not common:
        first, second = here.iloc[0], there.iloc[0]
        return [(f"{_name(first)}, {first['readout']} and {second['readout']}", first, second)]
    found = []
    for setting in common:
        first, second = settings_here[setting].iloc[0], settings_there[setting].iloc[0]
        found.append((f"{_name(first)}, {first['readout']}", first, second))
    return found


def _grouped(best: pd.DataFrame, by: tuple[str, ...]) -> dict[tuple[str, ...], pd.DataFrame]:
    """Rows that agree in some columns, missing values agreeing too; in the order of ``best``."""
    keys = best[list(by)].astype(object).fillna("").astype(str).agg(tuple, axis=1)
    return {key: best[keys == key] for key in keys.unique()}


def _name(row: pd.Series) -> str:
    return str(row["network"]).removesuffix(f" · {row['run']}")


def _compared(study: Study, name: str, first: pd.Series, second: pd.Series) -> dict[str, Any]:
    scores = [study.neurons[study.neurons["row"] == row["row"]] for row in (first, second)]
    r = [one.drop_duplicates("neuron_id").set_index("neuron_id")["r"] for one in scores]
    both = pd.concat(r, axis=1, join="inner", keys=["first", "second"]).dropna()
    found = paired_difference(both["first"], both["second"])
    return {
        "compared": name,
        "first_run": first["run"],
        "second_run": second["run"],
        "dataset": first["dataset"],
        "first_layer": f"{first['network']} {first['layer']}" if name == _BEST else first["layer"],
        "second_layer": (
            f"{second['network']} {second['layer']}" if name == _BEST else second["layer"]
        ),
        "r_first": both["first"].mean(),
        "r_second": both["second"].mean(),
        "difference": found.mean,
        "difference_low": found.low,
        "difference_high": found.high,
        "p_value": found.p_value,
        "q_value": np.nan,
        "n_neurons": found.n_neurons,
    }
