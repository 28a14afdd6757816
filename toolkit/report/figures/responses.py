"""Figures that need the responses themselves: RDMs, single sites, predictions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from math import comb

import numpy as np
import pandas as pd

from toolkit.data import NeuralDataset
from toolkit.encoding import LayerEncoder, Readout, outer_splits
from toolkit.encoding.ridge import ridge_weights
from toolkit.encoding.similarity import array_statistics, average_over_objects, correlation_rdm
from toolkit.encoding.statistics import LayerStatistics
from toolkit.metrics.similarity import rank_percentiles, rdm_spearman
from toolkit.report.chart import Chart, Measure
from toolkit.report.recordings import Recordings
from toolkit.report.study import Study

# A matrix of more cannot be read by eye.
_MOST_OBJECTS = 128
# Of all data sets together, so that a page stays small.
_MOST_NETWORKS, _MOST_PAIRS = 11, 100_000
_MOST_SITES = 200
_N_PREDICTED = 12
_MOST_DATASETS = 6


def object_rdms(study: Study, recordings: Recordings) -> Chart | None:
    """RDMs of the neurons and of each network's best layer, for each data set."""
    shown = [
        (name, best, dataset, objects)
        for name, best, dataset in _datasets(study, recordings)
        if (objects := _objects(dataset)) and not np.isnan(dataset.responses).any()
    ]
    if not shown:
        return None
    n_pairs = sum(comb(len(set(objects)), 2) for *_, objects in shown)
    n_networks = max(1, min(_MOST_NETWORKS, _MOST_PAIRS // n_pairs - 1))
    rows = [
        matrix.assign(panel=name)
        for name, best, dataset, objects in shown
        for matrix in _matrices(best, recordings, dataset, objects, n_networks)
    ]
    units = sorted({_unit_of(dataset) for _, _, dataset, _ in shown})
    return Chart(
        name="object_rdms",
        title="Representational dissimilarity",
        caption=f"Dissimilarity (1 − Pearson r) of the {' or '.join(units)} to the neurons and to "
        f"the best layers of the {n_networks} best networks at most, as percentiles of its rank. "
        "The number is Spearman's r of the network's matrix and the neurons'. They are ordered by "
        "category.",
        kind="matrices",
        rows=pd.concat(rows, ignore_index=True),
        measures=(Measure("percentile", "percentile of dissimilarity"),),
        x="item",
        x_title="",
        series="matrix",
        panel="panel" if len(shown) > 1 else "",
        other="other_item",
    )


def site_responses(study: Study, recordings: Recordings) -> Chart | None:
    """Mean response of single sites to each category, for each data set."""
    shown = []
    for name, _, dataset in _datasets(study, recordings):
        labels = dataset.category_names or dataset.object_names
        if labels is not None and len(set(labels)) <= _MOST_OBJECTS:
            shown.append((name, dataset, np.asarray(labels)))
    if not shown:
        return None
    most = _MOST_SITES // len(shown)
    panels = _in_turns(
        {name: _site_rows(dataset, labels)[:most] for name, dataset, labels in shown}, "site"
    )
    return Chart(
        name="site_responses",
        title="Single sites",
        caption="Mean response of one recording site to the images of each category, with its "
        "standard error over images. The sites that categories tell apart most come first.",
        kind="points",
        rows=panels,
        measures=(Measure("response", "response", low="response_low", high="response_high"),),
        x="category",
        x_title="category",
        panel="site",
        hover=("n_images",),
    )


def predicted_and_measured(study: Study, recordings: Recordings) -> Chart | None:
    """Predictions of single neurons by each data set's best network, fitted again."""
    found, networks = {}, []
    for name, best, _ in _datasets(study, recordings):
        for _, row in best[best["r_mean"].notna()].iterrows():
            if predicted := _predictions(row, recordings):
                found[name] = predicted
                networks.append(f"{row['network']}, {row['layer']}, {row['readout']}")
                break
    if not found:
        return None
    return Chart(
        name="predicted_and_measured",
        title="Predicted and measured",
        caption="Each mark is a test image of the first split: response predicted by "
        f"{'; by '.join(dict.fromkeys(networks))}, and response measured. "
        "Neurons from the best to the worst predicted.",
        kind="points",
        rows=_in_turns(found, "neuron"),
        measures=(Measure("measured", "measured response"),),
        x="predicted",
        x_title="predicted response",
        panel="neuron",
        hover=("image",),
        has_identity_line=True,
    )


def _datasets(
    study: Study, recordings: Recordings
) -> Iterator[tuple[str, pd.DataFrame, NeuralDataset]]:
    """Name, best rows and responses of the data sets that are here, the best predicted first."""
    of_row = {at: recordings.dataset(row) for at, row in study.best.iterrows()}
    datasets = {id(one): one for one in of_row.values() if one is not None}
    found = [[at for at, one in of_row.items() if id(one) == key] for key in datasets]
    names = study.best.loc[[rows[0] for rows in found], ["dataset", "region", "run"]].fillna("")
    by = [column for column in ("dataset", "region") if names[column].nunique() > 1]
    by += ["run"] if names[["dataset", "region"]].duplicated().any() else []
    named = names[by].astype(str).agg(" ".join, axis=1) if by else [""] * len(found)
    shown = list(zip(named, found, datasets.values(), strict=True))[:_MOST_DATASETS]
    yield from ((name, study.best.loc[rows], dataset) for name, rows, dataset in shown)


def _in_turns(panels: dict[str, list[pd.DataFrame]], named: str) -> pd.DataFrame:
    """Panels of several data sets by turns, their names with that of the data set."""
    several = len(panels) > 1
    turns = zip_longest(
        *(
            [one.assign(**{named: f"{name} · " + one[named]}) if several else one for one in own]
            for name, own in panels.items()
        )
    )
    return pd.concat([one for turn in turns for one in turn if one is not None], ignore_index=True)


def _objects(dataset: NeuralDataset) -> tuple[str, ...] | None:
    """What the matrices are over: the object of each image, or each image by its own name."""
    labels = dataset.object_names or dataset.stimuli.ids
    return labels if 3 <= len(set(labels)) <= _MOST_OBJECTS else None


def _unit_of(dataset: NeuralDataset) -> str:
    return "objects" if dataset.object_names else "images"


def _matrices(
    best: pd.DataFrame,
    recordings: Recordings,
    dataset: NeuralDataset,
    objects: tuple[str, ...],
    n_networks: int,
) -> Iterator[pd.DataFrame]:
    order = _by_category(dataset, objects)
    neurons, names = _rdm(array_statistics(dataset.responses), objects)
    yield _triangle("neurons", neurons, names, order)
    n_drawn = 0
    for _, row in best.drop_duplicates("network").iterrows():
        statistics = recordings.statistics(row)
        if statistics is None or len(statistics.gram) != len(objects):
            continue
        rdm, _ = _rdm(statistics, objects)
        if not np.isfinite(rdm).all():
            continue
        label = f"{row['network']}\n{row['layer']}: {rdm_spearman(rdm, neurons):.2f}"
        yield _triangle(label, rdm, names, order)
        n_drawn += 1
        if n_drawn == n_networks:
            return


def _rdm(
    statistics: LayerStatistics, objects: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    averaged, names = average_over_objects(statistics, objects)
    return correlation_rdm(averaged), names


def _by_category(dataset: NeuralDataset, objects: tuple[str, ...]) -> np.ndarray:
    """Order of the sorted object names by category, then by name."""
    categories = dataset.category_names or objects
    category_of = dict(zip(objects, categories, strict=True))
    names = sorted(category_of)
    return np.array(sorted(range(len(names)), key=lambda i: (category_of[names[i]], names[i])))


def _triangle(
    label: str, rdm: np.ndarray, names: tuple[str, ...], order: np.ndarray
) -> pd.DataFrame:
    percentiles = rank_percentiles(rdm)[np.ix_(order, order)]
    above = np.triu_indices(len(order), k=1)
    named = np.asarray(names, dtype=object)[order]
    return pd.DataFrame(
        {
            "matrix": label,
            "item": named[above[0]],
            "other_item": named[above[1]],
            "percentile": percentiles[above],
        }
    )


def _site_rows(dataset: NeuralDataset, labels: np.ndarray) -> list[pd.DataFrame]:
    """Of each site, the most selective first."""
    frame = pd.DataFrame(dataset.responses).groupby(labels)
    mean, error, count = frame.mean(), frame.sem(), frame.count()
    between = ((mean - np.nanmean(dataset.responses, axis=0)) ** 2 * count).sum()
    total = np.nanvar(dataset.responses, axis=0) * count.sum()
    most_selective = (between / total).sort_values(ascending=False).index[:_MOST_SITES]
    several_areas = len(set(dataset.regions)) > 1
    rows = []
    for neuron in most_selective:
        site = dataset.neuroid_ids[neuron]
        rows.append(
            pd.DataFrame(
                {
                    "site": f"{dataset.regions[neuron]} {site}" if several_areas else site,
                    "category": mean.index.astype(str),
                    "response": mean[neuron].to_numpy(),
                    "response_low": (mean[neuron] - error[neuron]).to_numpy(),
                    "response_high": (mean[neuron] + error[neuron]).to_numpy(),
                    "n_images": count[neuron].to_numpy(),
                }
            )
        )
    return rows


def _predictions(row: pd.Series, recordings: Recordings) -> list[pd.DataFrame]:
    """Measured and predicted responses of some neurons to the first split's test images."""
    task, dataset = recordings.task(row), recordings.dataset(row)
    statistics = recordings.statistics(row)
    if task is None or dataset is None or statistics is None:
        return []
    params = task.params["readout"]
    exact = task.params.get("solver", "gram") == "gram" and row["solver"] == "gram"
    if params["kind"] not in ("ridge", "linear") or not exact or np.isnan(dataset.responses).any():
        return []
    readout = Readout(**{**params, "alphas": tuple(params.get("alphas", ()))})
    split = outer_splits(
        task.params["protocol"],
        n_stimuli=len(dataset.stimuli),
        splits=dataset.splits,
        object_names=dataset.object_names,
    )[0]
    train, test = split
    encoder = LayerEncoder(statistics.gram, dataset.responses)
    scores = encoder.score(readout, [split])
    components = encoder.components(train).leading(readout.n_components)
    fitted = dataset.responses[train]
    weights = ridge_weights(components, fitted, np.nan_to_num(scores.alpha[0]))
    predicted = components.project(statistics.gram[np.ix_(test, train)]) @ weights
    predicted += fitted.mean(axis=0)

    ranked = np.argsort(-scores.r[0])  # NaN last
    ranked = ranked[: np.isfinite(scores.r[0]).sum()]
    chosen = ranked[np.unique(np.linspace(0, len(ranked) - 1, _N_PREDICTED).astype(int))]
    ids = np.asarray(dataset.stimuli.ids, dtype=object)[test]
    return [
        pd.DataFrame(
            {
                "neuron": f"{dataset.neuroid_ids[n]}: r = {scores.r[0, n]:.2f}",
                "image": ids,
                "predicted": predicted[:, n],
                "measured": dataset.responses[test, n],
            }
        )
        for n in chosen
    ]
