"""One layer, one read-out: scores from the layer's Gram matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.meter import Meter
from jobs.session import Session
from toolkit.plan import SIMILARITY_KINDS, features_id
from toolkit.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from toolkit.data import NeuralDataset
    from toolkit.encoding import Readout, ReadoutScores
    from toolkit.encoding.protocols import Split

_log = logging.getLogger("toolkit")


def encode_layer(task: Task, session: Session, _: Callable[[int, int], None]) -> None:
    """Run one encode task and publish its scores.

    Damage makes the extraction undone, of a chunk for the images concerned, of the only copy of a
    Gram matrix for the layer, of the store's metadata altogether, so that the next round rebuilds
    it.
    """
    from toolkit import results
    from toolkit.encoding.errors import DamagedGramError
    from toolkit.features.errors import DamagedChunkError, DamagedStoreError

    meter = Meter()
    dataset = session.dataset_for_encoding(task)
    is_similarity = task.params["readout"]["kind"] in SIMILARITY_KINDS
    score = _similarity if is_similarity else _predict
    try:
        neurons, scores = score(task, session, dataset)
    except (DamagedChunkError, DamagedGramError, DamagedStoreError) as error:
        _undo_extraction(session, task, error)
        raise
    summary = {
        **results.summarise(neurons),
        **scores,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "device": "cpu",
        "config_hash": task.options["config_hash"],
        "git_sha": session.git_sha,
        "versions": session.versions,
        "created": datetime.now(UTC),
    }
    results.write_scores(session.run.result_path(task.id), neurons, summary)


def _predict(
    task: Task, session: Session, dataset: NeuralDataset
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Responses predicted from the layer: scores of each neuron, and what depends on splits."""
    from toolkit.encoding import Readout

    params = task.params["readout"]
    readout = Readout(**{**params, "alphas": tuple(params.get("alphas", ()))})
    splits = _splits(task, dataset)
    scores, solver = _score(task, session, dataset, readout, splits)
    tested = [test for _, test in splits]
    ceilings = session.ceilings(dataset, None if task.params["ceiling_images"] == "all" else tested)
    reduces = readout.n_components is not None or readout.kind == "pls"
    return _neuron_table(dataset, scores, ceilings, is_ridge=readout.kind == "ridge"), {
        **_over_splits(scores, ceilings, task.params.get("bootstrap", 0)),
        "ceiling_images": ceiling_images(task, ceilings),
        "similarity": None,
        "solver": solver,
        "n_components": int(scores.n_components.min()) if reduces else None,
        "n_train": int(scores.n_train[0]),
        "n_test": int(scores.n_test[0]),
        "n_splits": len(splits),
    }


def _splits(task: Task, dataset: NeuralDataset) -> list[Split]:
    from toolkit.encoding import outer_splits

    return outer_splits(
        task.params["protocol"],
        n_stimuli=len(dataset.stimuli),
        splits=dataset.splits,
        object_names=dataset.object_names,
    )


def _score(
    task: Task,
    session: Session,
    dataset: NeuralDataset,
    readout: Readout,
    splits: Sequence[Split],
) -> tuple[ReadoutScores, str]:
    """Scores, and the solver that gave the components."""
    n_permutations, solver = task.params.get("permutations", 0), task.params["solver"]
    if solver == "gram":
        encoder = session.encoder(task, dataset)
        return encoder.score(readout, splits, n_permutations=n_permutations), solver

    from toolkit.encoding.reduced import score_reduced

    features = session.features(task)
    try:
        with session.compute(task):
            scores = score_reduced(
                features,
                dataset.responses,
                readout,
                splits,
                solver=solver,
                memory_bytes=task.options["memory_gb"] * 1e9,
                n_threads=session.n_cpus,
                n_permutations=n_permutations,
            )
    except Exception:  # a missing chunk reads as NaN, and zarr does not say which one is damaged
        session.store(task).require_sound(task.params["layer"])
        raise
    return scores, solver


def _neuron_table(
    dataset: NeuralDataset, scores: ReadoutScores, ceilings: np.ndarray, *, is_ridge: bool
) -> pd.DataFrame:
    import pandas as pd

    from toolkit.metrics import METRICS, mean_over_splits

    at_edge = np.where(np.isnan(scores.alpha), np.nan, scores.alpha_at_edge)
    return pd.DataFrame(
        {
            "neuron_id": dataset.neuroid_ids,
            "region": dataset.regions,
            "alpha": pd.DataFrame(scores.alpha).median() if is_ridge else np.nan,
            "alpha_at_edge": mean_over_splits(at_edge) if is_ridge else np.nan,
            **{name: mean_over_splits(getattr(scores, name)) for name in METRICS},
            "n_splits_scored": np.isfinite(scores.r).sum(axis=0),
            "ceiling": mean_over_splits(ceilings),
        }
    )


def _over_splits(scores: ReadoutScores, ceilings: np.ndarray, n_resamples: int) -> dict[str, Any]:
    """Aggregates whose order over neurons and splits matters, and their uncertainty."""
    from toolkit import metrics
    from toolkit.metrics.uncertainty import bootstrap_interval

    r = metrics.summarise(scores.r)
    low, high = np.nan, np.nan
    if n_resamples:
        r_of_neurons = metrics.mean_over_splits(scores.r)
        low, high = bootstrap_interval(r_of_neurons, statistic="mean", n_resamples=n_resamples)
    return {
        "ev_median": metrics.median_over_neurons(scores.ev),
        "r_median": r.median,
        "r_median_sem": r.median_sem,
        "r_mean_sem": metrics.sem(metrics.mean_over_neurons(scores.r)),
        "r_mean_low": low,
        "r_mean_high": high,
        "p_value": scores.p_value,
        "ceiling_median": metrics.median_over_neurons(ceilings),
        "ceiled_median_2026": metrics.ceiled_2026(scores.r, ceilings),
        "ceiled_median_2018": metrics.ceiled_2018(scores.r, ceilings),
    }


def ceiling_images(task: Task, ceilings: np.ndarray) -> str | None:
    """Which images the ceilings are of, where there are any."""
    return task.params["ceiling_images"] if np.isfinite(ceilings).any() else None


def _similarity(
    task: Task, session: Session, dataset: NeuralDataset
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Agreement of the layer and the neurons; nothing is fitted.

    Over all images, or over those that the protocol tests if the network was trained on others.
    """
    import pandas as pd

    from toolkit.encoding.similarity import compare_representations, restrict
    from toolkit.results.columns import SCORE_COLUMNS, UNCERTAINTY_COLUMNS, names

    statistics, rows = session.statistics(task), np.arange(len(dataset.stimuli))
    if "protocol" in task.params:
        rows = np.unique(np.concatenate([test for _, test in _splits(task, dataset)]))
        statistics = restrict(statistics, rows)
    names_of_objects = dataset.object_names
    similarity = compare_representations(
        statistics,
        dataset.responses[rows],
        task.params["readout"],
        object_names=names_of_objects and [names_of_objects[row] for row in rows],
    )
    no_neurons = pd.DataFrame({name: [] for name in names(SCORE_COLUMNS)})
    return no_neurons, {
        **dict.fromkeys(names(UNCERTAINTY_COLUMNS)),
        "ceiling_images": None,
        "similarity": similarity,
        "solver": "gram",
        "n_components": None,
        "n_neurons": len(dataset.neuroid_ids),
        "n_train": 0,
        "n_test": len(rows),
        "n_splits": 1,
    }


def _undo_extraction(session: Session, task: Task, error: Exception) -> None:
    from toolkit.features.creation import remove_store
    from toolkit.features.errors import DamagedChunkError, DamagedStoreError
    from toolkit.features.store import FeatureStore

    path = session.run.features_path(features_id(task))
    if isinstance(error, DamagedChunkError):
        store = FeatureStore.open(path)
        for block in error.blocks:
            store.forget_block(block)
    elif isinstance(error, DamagedStoreError):
        remove_store(path)
    else:
        session.run.gram_path(features_id(task), task.params["layer"]).unlink(missing_ok=True)
    for extract_id in task.inputs:
        session.run.result_path(extract_id).unlink(missing_ok=True)
    _log.warning("%s; what is missing will be extracted again", error)
