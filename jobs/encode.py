"""One layer, one read-out: per-neuron scores from the layer's Gram matrix."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs.meter import Meter
from jobs.session import Session
from toolkit.task import Task

if TYPE_CHECKING:
    from toolkit.encoding import Readout, ReadoutScores
    from toolkit.features.errors import DamagedChunkError

_log = logging.getLogger("toolkit")


def encode_layer(task: Task, session: Session, _: Callable[[int, int], None]) -> None:
    """Run one encode task and publish its scores.

    A damaged chunk of features makes the extraction undone for the images concerned, so that
    the next round rebuilds them.
    """
    import pandas as pd

    from toolkit import results
    from toolkit.encoding import outer_splits
    from toolkit.features.errors import DamagedChunkError

    meter = Meter()
    dataset = session.dataset_for_encoding(task)
    try:
        encoder = session.encoder(task, dataset)
    except DamagedChunkError as error:
        _undo_extraction(session, task.inputs[0], error)
        raise
    splits = outer_splits(
        task.params["protocol"],
        n_stimuli=len(dataset.stimuli),
        splits=dataset.splits,
        object_names=dataset.object_names,
    )
    readout = _readout(task.params["readout"])
    is_ridge = readout.kind == "ridge"
    scores = encoder.score(readout, splits)
    neurons = pd.DataFrame(
        {
            "neuron_id": dataset.neuroid_ids,
            "region": dataset.regions,
            "alpha": np.median(scores.alpha, axis=0) if is_ridge else np.nan,
            "alpha_at_edge": scores.alpha_at_edge.mean(axis=0) if is_ridge else np.nan,
            "ev": scores.ev.mean(axis=0),
            "r": scores.r.mean(axis=0),
            "r2": scores.r2.mean(axis=0),
            "mse": scores.mse.mean(axis=0),
            "ceiling": session.ceiling(dataset),
        }
    )
    summary = {
        **results.summarise(neurons),
        "n_components": _n_components(readout, scores),
        "n_train": int(scores.n_train[0]),
        "n_test": int(scores.n_test[0]),
        "n_splits": len(splits),
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "device": "cpu",
        "config_hash": task.options["config_hash"],
        "git_sha": session.git_sha,
        "versions": session.versions,
        "created": datetime.now(UTC),
    }
    results.write_scores(session.run.result_path(task.id), neurons, summary)


def _undo_extraction(session: Session, extract_id: str, error: DamagedChunkError) -> None:
    from toolkit.features.store import FeatureStore

    store = FeatureStore.open(session.run.features_path(extract_id))
    for block in error.blocks:
        store.forget_block(block)
    session.run.result_path(extract_id).unlink(missing_ok=True)
    _log.warning("%s; the images concerned will be extracted again", error)


def _readout(params: dict[str, Any]) -> Readout:
    from toolkit.encoding import Readout

    return Readout(**{**params, "alphas": tuple(params.get("alphas", ()))})


def _n_components(readout: Readout, scores: ReadoutScores) -> int | None:
    return None if readout.n_components is None else int(scores.n_components.min())
