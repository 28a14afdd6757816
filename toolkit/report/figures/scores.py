"""Figures of the tables alone: each takes a study, and gives a chart or None without its data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from toolkit.report.chart import Chart, Measure
from toolkit.report.study import Study

ABOUT = ("network", "layer", "readout", "n_neurons")
_CEILING_NOTE = " √ceiling is the highest r possible for a neuron of median split-half ceiling."

_R = Measure("r_mean", "Pearson r, mean over neurons", reference="r_highest")
_R_WITH_INTERVAL = replace(_R, low="r_mean_low", high="r_mean_high")
_EV = Measure("ev_mean", "explained variance, mean over neurons")


def comparison(study: Study) -> Chart | None:
    """Each network's best layer, with interval and ceiling."""
    return scores_chart(
        best_panel_first(study.results[study.results["score"].notna()], "setting"),
        r=_R_WITH_INTERVAL,
        name="comparison",
        title="Networks compared",
        caption="Each network's best layer. Bars of r end in a 95 % bootstrap interval over "
        "neurons; a tick marks √ceiling, the highest r possible for a neuron of median split-half "
        "ceiling, where there are repetitions.",
        kind="bars",
        x="network",
        x_title="",
        series="weights_kind",
        panel="setting",
        best_only=True,
        hover=("layer", "readout", "n_neurons"),
    )


def by_layer(study: Study) -> Chart | None:
    """Scores of each layer of a network, pretrained against random."""
    return scores_chart(
        _layer_rows(study),
        name="by_layer",
        title="Layer by layer",
        caption="Scores of the layers of one network in the order in which they compute, a line "
        "for each choice of weights." + _CEILING_NOTE,
        kind="lines",
        x="layer",
        x_title="layer",
        series="choice",
        panel="architecture_setting",
    )


def depth_profile(study: Study) -> Chart | None:
    """Scores against relative depth, all networks together."""
    layers_per_network = study.results.groupby(["network", "setting"])["layer"].transform("nunique")
    rows = study.results[(layers_per_network > 1) & study.results["score"].notna()]
    rows = rows.sort_values(["network", "layer_depth"], kind="stable")
    random = " Dashed: random weights." if rows["weights_kind"].nunique() > 1 else ""
    return scores_chart(
        best_panel_first(rows, "setting"),
        name="depth_profile",
        title="Depth profile",
        caption="Scores against the depth of the layer in its network, 0 the first and 1 the last. "
        f"The highest networks are coloured.{random}{_CEILING_NOTE}",
        kind="lines",
        x="layer_depth",
        x_title="relative depth of the layer",
        series="network",
        panel="setting",
    )


def scores_chart(rows: pd.DataFrame, *, r: Measure = _R, **what: Any) -> Chart | None:
    """A chart of r, EV and similarity, as far as rows of the results have them."""
    compared = rows.loc[rows["similarity"].notna(), "readout"].unique()
    by = f", {compared[0]}" if len(compared) == 1 else ""
    measures = (r, _EV, Measure("similarity", f"similarity to the neurons{by}"))
    present = tuple(m for m in measures if rows[m.column].notna().any())
    if not present:
        return None
    return Chart(**{"rows": rows, "measures": present, "hover": ABOUT, **what})


def best_panel_first(rows: pd.DataFrame, panel: str) -> pd.DataFrame:
    """Rows of the highest panel first, the order within panels kept."""
    height = rows.groupby(panel)["score"].transform("max")
    order = height.sort_values(ascending=False, kind="stable").index
    return rows.loc[order] if rows[panel].nunique() > 1 else rows


def neuron_violins(study: Study) -> Chart | None:
    """Distribution of the neurons' scores for each network."""
    return _of_neurons(
        study,
        name="neuron_violins",
        title="Neurons of each network",
        caption="Scores of single neurons, each network's best layer: violin with median and "
        "quartiles.",
        kind="violins",
    )


def neuron_histogram(study: Study) -> Chart | None:
    """Histogram of the neurons' scores."""
    return _of_neurons(
        study,
        name="neuron_histogram",
        title="Histogram of neurons",
        caption="How many neurons have which score with one network's best layer.",
        kind="histogram",
        series="weights_kind",
        panel="network_setting",
    )


def neuron_pairs(study: Study) -> Chart | None:
    """The neurons' scores with one network against another."""
    if study.best.groupby("setting")["network"].nunique().max() < 2:
        return None
    return _of_neurons(
        study,
        name="neuron_pairs",
        title="Neuron by neuron",
        caption="Each mark is a neuron: its score with one network against its score with another, "
        "best layers. Above the line the network of the vertical axis predicts it better.",
        kind="pairs",
        unit="neuron_id",
        has_identity_line=True,
    )


def best_layer_by_region(study: Study) -> Chart | None:
    """Which layer predicts each region best."""
    if study.neurons["area"].nunique() < 2:
        return None
    scores = study.neurons.groupby(["row", "area"], sort=False)[["r", "ev"]].mean().reset_index()
    columns = ["network", "layer", "layer_depth", "setting", "score", "is_best"]
    rows = study.with_rows(scores, columns)
    return Chart(
        name="best_layer_by_region",
        title="Best layer by region",
        caption="For each network and region the layer with the highest mean over the region's "
        "neurons; colour is its score.",
        kind="tiles",
        rows=rows.sort_values("score", ascending=False, kind="stable"),
        measures=(Measure("r", _R.title), Measure("ev", _EV.title)),
        x="area",
        x_title="region",
        series="network",
        panel="setting",
        text="layer",
        hover=("layer_depth",),
    )


def alpha_choice(study: Study) -> Chart | None:
    """The ridge penalty chosen for each layer, and whether the grid was too small."""
    results = study.results
    rows = _layer_rows(study, results[(results["alpha_median"] > 0) & results["r_mean"].notna()])
    if rows.empty:
        return None
    alphas = study.neurons[study.neurons["alpha"] > 0].groupby("row")["alpha"]
    quartiles = pd.DataFrame(
        {"alpha_low": alphas.quantile(0.25), "alpha_high": alphas.quantile(0.75)}
    )
    rows = rows.join(quartiles, on="row")
    edge = rows["alpha_at_edge"] > 0.05
    return Chart(
        name="alpha_choice",
        title="Choice of the ridge penalty",
        caption="Median over neurons of the alpha that cross-validation chose, with quartiles. "
        "Crosses: more than 5 % of the neurons chose the first or last alpha of the grid, so a "
        "better one may lie outside.",
        kind="lines",
        rows=rows.assign(is_at_edge=edge),
        measures=(Measure("alpha_median", "alpha (median)", low="alpha_low", high="alpha_high"),),
        x="layer",
        x_title="layer",
        series="choice",
        panel="architecture_setting",
        hover=(*ABOUT, "alpha_at_edge"),
        log_y=True,
        flag="is_at_edge",
        flag_title="on the grid's edge",
    )


def _of_neurons(study: Study, **what: object) -> Chart | None:
    if study.neurons.empty:
        return None
    order = study.best.reset_index(drop=True)
    rank = pd.Series(order.index, index=order["row"])
    columns = [
        "dataset",
        "network",
        "weights_kind",
        "layer",
        "setting",
        "network_setting",
        "is_best",
    ]
    scores = study.neurons[["row", "neuron_id", "area", "r", "ev", "ceiling"]]
    rows = study.with_rows(scores, columns).assign(rank=scores["row"].map(rank))
    if rows["dataset"].nunique() > 1:  # which may use the same ids for other neurons
        rows["neuron_id"] = rows["dataset"] + " · " + rows["neuron_id"]
    shared: dict[str, object] = {"series": "network", "panel": "setting"}
    return Chart(
        rows=rows.sort_values("rank", kind="stable").drop(columns=["rank", "dataset"]),
        measures=(
            Measure("r", "Pearson r of a neuron"),
            Measure("ev", "explained variance of a neuron"),
        ),
        x="network",
        x_title="",
        best_only=True,
        hover=("neuron_id", "area", "layer", "ceiling"),
        **{**shared, **what},  # type: ignore[arg-type]
    )


def _layer_rows(study: Study, rows: pd.DataFrame | None = None) -> pd.DataFrame:
    """Scored rows of networks with several layers, highest panel first."""
    rows = study.results if rows is None else rows
    rows = rows[rows["score"].notna()]
    several = rows.groupby("architecture_setting")["layer"].transform("nunique") > 1
    rows = rows[several].sort_values(["choice", "layer_index"], kind="stable")
    return best_panel_first(rows, "architecture_setting")
