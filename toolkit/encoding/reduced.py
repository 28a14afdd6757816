"""Read-outs of layers whose Gram matrix does not fit: reduce, then ridge on the scores."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import NDArray

from toolkit.encoding.errors import ReadoutError
from toolkit.encoding.protocols import Split
from toolkit.encoding.readouts import Readout, ReadoutScores, at_edge
from toolkit.encoding.reduced_ridge import fit_ridge
from toolkit.encoding.reduction import Layer, Reduction, Solver, reduce_layer
from toolkit.metrics import METRICS, pearson_r
from toolkit.metrics.uncertainty import permutation_p_value, refitted_p_value


def score_reduced(
    layer: Layer,
    responses: NDArray[np.float64],
    readout: Readout,
    splits: Sequence[Split],
    *,
    solver: Solver,
    memory_bytes: float,
    n_threads: int = CPU_COUNT,
    n_permutations: int = 0,
) -> ReadoutScores:
    """What :meth:`toolkit.encoding.LayerEncoder.score` gives, without a Gram matrix.

    Parameters
    ----------
    layer
        (n_stimuli, n_features), streamed.
    responses
        (n_stimuli, n_neurons), complete.
    readout
        Kind ridge with folds, or linear; with ``n_components``.
    splits
        Pairs of (training, test) row numbers.
    solver, memory_bytes, n_threads
        As in :func:`toolkit.encoding.reduction.reduce_layer`.
    n_permutations
        As in ``LayerEncoder.score``.

    Raises
    ------
    ReadoutError
        If the read-out needs all components.
    ResponsesError
        If a response is missing.
    """
    if readout.kind == "pls" or readout.n_components is None:
        raise ReadoutError(
            f"solver {solver} keeps some components, but this read-out needs all of them: give "
            "n_components, or write solver gram"
        )
    rows, r_of_splits = [], []
    for train, test in splits:
        k = min(readout.n_components, layer.shape[1], len(train) - 1)
        reduction = reduce_layer(
            layer,
            train,
            test,
            k,
            memory_bytes=memory_bytes,
            solver=solver,
            n_threads=n_threads,
            seed=readout.seed,
        )
        fit = fit_ridge(reduction.train_scores, responses[train], readout)
        predicted = fit.predict(reduction.test_scores)
        row: dict[str, Any] = {name: of(responses[test], predicted) for name, of in METRICS.items()}
        row |= {
            "alpha": fit.alpha,
            "alpha_at_edge": at_edge(fit.alpha, fit.alphas),
            "n_components": reduction.train_scores.shape[1],
            "n_train": len(train),
            "n_test": len(test),
        }
        rows.append(row)
        r_of_splits.append(partial(_r_of, reduction, (train, test), readout))
    p_value = float("nan")
    if n_permutations and len(splits) == 1:
        p_value = permutation_p_value(
            responses[test], predicted, statistic="mean", n_permutations=n_permutations
        )
    elif n_permutations:
        p_value = refitted_p_value(
            responses,
            r_of_splits,
            n_permutations=n_permutations,
            n_at_once=readout.n_shuffles_at_once(responses.size),
        )
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return ReadoutScores(**columns, p_value=p_value)


def _r_of(
    reduction: Reduction, split: Split, readout: Readout, responses: NDArray[np.float64]
) -> NDArray[np.float64]:
    train, test = split
    fit = fit_ridge(reduction.train_scores, responses[train], readout)
    return pearson_r(responses[test], fit.predict(reduction.test_scores))
