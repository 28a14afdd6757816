"""Ridge on reduced features, from sums over blocks of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dask
import dask.array as da
import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from toolkit.encoding.compute import tree_reduced
from toolkit.encoding.errors import ReadoutError, ResponsesError
from toolkit.encoding.readouts import Readout
from toolkit.encoding.reduction import added, as_dask, block_rows, computed
from toolkit.encoding.ridge import alpha_per_neuron, shared_alpha
from toolkit.metrics import is_constant


@dataclass(frozen=True)
class RidgeFit:
    """Ridge of every neuron on the same scores.

    Attributes
    ----------
    weights, intercept
        (k, n_neurons) and (n_neurons,).
    alpha
        Penalty of each neuron, (n_neurons,); NaN for a neuron of zero variance, 0 for least
        squares.
    alphas
        The penalties to choose from, (n_alphas,); empty for least squares.
    squared_errors
        Out-of-fold, summed over training images, (n_alphas, n_neurons); no rows where no penalties
        were compared.
    """

    weights: NDArray[np.float64]
    intercept: NDArray[np.float64]
    alpha: NDArray[np.float64]
    alphas: NDArray[np.float64]
    squared_errors: NDArray[np.float64]

    def predict(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Responses to the images with these scores, (n_images, n_neurons)."""
        return scores @ self.weights + self.intercept


def fit_ridge(
    scores: da.Array | NDArray[np.float64], responses: NDArray[np.float64], readout: Readout
) -> RidgeFit:
    """The read-out of :class:`toolkit.encoding.LayerEncoder`, from sums over images.

    With B = [1, scores], one pass over blocks of rows sums BᵀB, BᵀY and the squares of Y for each
    fold. What a fold is predicted from is the difference of all and its own sums, and its errors
    are ΣY² − 2 Σ W·(BᵀY) + Σ W·(BᵀB W), so that no image is looked at again for any penalty.

    Parameters
    ----------
    scores
        Of the training images, (n_train, k), about as large as their number: a Dask array is
        streamed by its row chunks.
    responses
        Of the training images, (n_train, n_neurons).
    readout
        Penalties, folds and seed; its ``n_components`` is not looked at.

    Raises
    ------
    ReadoutError
        If it asks for leave-one-out, or for more folds than images.
    ResponsesError
        If the responses have another number of images, or hold NaN or infinity.
    """
    n_train = scores.shape[0]
    if responses.ndim != 2 or len(responses) != n_train or not np.isfinite(responses).all():
        raise ResponsesError(
            f"responses of shape {responses.shape} must be finite and have the {n_train} rows of "
            "the scores: leave images or neurons with NaN out of the data set"
        )
    constant, mean = is_constant(responses), responses.mean(axis=0)
    centred = np.where(constant, 0, responses - mean)
    compare = len(readout.alphas) > 1
    folds = _fold_numbers(readout, n_train) if compare else np.zeros(n_train, dtype=int)
    sums = _cross_products(scores, centred, folds)
    total = tuple(part.sum(axis=0) for part in sums)
    alphas = readout.penalties(_mean_square(total[0]))

    squared_errors = np.zeros((0, responses.shape[1]))
    if compare:
        per_fold = (
            _fold_errors([all_ - own for all_, own in zip(total, fold, strict=True)], fold, alphas)
            for fold in zip(*sums, strict=True)
        )
        squared_errors = np.sum(list(per_fold), axis=0)
        choose = alpha_per_neuron if readout.alpha_per_neuron else shared_alpha
        alpha = choose(squared_errors, alphas, responses)
    elif readout.kind == "linear":
        alpha = np.zeros(len(mean))
    else:
        alpha = np.where(constant, np.nan, alphas)
    (coefficients,) = _solutions(total, np.nan_to_num(alpha)[None])
    return RidgeFit(coefficients[1:], coefficients[0] + mean, alpha, alphas, squared_errors)


def _mean_square(products: NDArray[np.float64]) -> float:
    """Mean over images of the squared length of their centred scores, from BᵀB."""
    n, sums = products[0, 0], products[0, 1:]
    return float(np.trace(products[1:, 1:]) / n - np.square(sums / n).sum())


def _fold_numbers(readout: Readout, n_train: int) -> NDArray[np.intp]:
    """Fold of each image, (n_train,): those that ``LayerEncoder`` makes."""
    if readout.n_folds is None or readout.n_folds > n_train:
        raise ReadoutError(
            f"n_folds is {readout.n_folds}; ridge on reduced features compares penalties on 2 to "
            f"{n_train} folds of the training images"
        )
    folds = np.empty(n_train, dtype=np.intp)
    cut = KFold(readout.n_folds, shuffle=True, random_state=readout.seed)
    for number, (_, held_out) in enumerate(cut.split(folds)):
        folds[held_out] = number
    return folds


def _cross_products(
    scores: da.Array | NDArray[np.float64],
    responses: NDArray[np.float64],
    folds: NDArray[np.intp],
) -> tuple[NDArray[np.float64], ...]:
    """BᵀB (f, 1 + k, 1 + k), BᵀY (f, 1 + k, m) and ΣY² (f, m) of each of f folds."""
    n_folds = folds.max() + 1
    array = as_dask(scores, (block_rows(scores.shape[1]), scores.shape[1]))
    blocks, stops = array.to_delayed()[:, 0], np.cumsum(array.chunks[0])
    add = dask.delayed(_block_cross_products)
    parts = [
        add(block, responses[start:stop], folds[start:stop], n_folds)
        for block, start, stop in zip(blocks, [0, *stops[:-1]], stops, strict=True)
    ]
    return computed(tree_reduced(added, parts))[0]


def _block_cross_products(
    scores: NDArray[np.float64],
    responses: NDArray[np.float64],
    folds: NDArray[np.intp],
    n_folds: int,
) -> tuple[NDArray[np.float64], ...]:
    B = np.column_stack([np.ones(len(scores)), scores])
    of_fold = [(B[folds == fold], responses[folds == fold]) for fold in range(n_folds)]
    return (
        np.stack([b.T @ b for b, _ in of_fold]),
        np.stack([b.T @ y for b, y in of_fold]),
        np.stack([np.square(y).sum(axis=0) for _, y in of_fold]),
    )


def _fold_errors(
    rest: Sequence[NDArray[np.float64]],
    fold: Sequence[NDArray[np.float64]],
    alphas: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Squared errors of a fold predicted from the rest, (n_alphas, m)."""
    BB, BY, YY = fold
    n_neurons = len(YY)
    penalties = np.broadcast_to(alphas[:, None], (len(alphas), n_neurons))
    return np.array([YY + (W * (BB @ W - 2 * BY)).sum(axis=0) for W in _solutions(rest, penalties)])


def _solutions(
    sums: Sequence[NDArray[np.float64]], alpha: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Intercepts and weights, (1 + k, m), for each row of penalties in ``alpha``, (…, m)."""
    BB, BY, _ = sums
    n = BB[0, 0]
    mean = BB[0, 1:] / n  # (k,)
    eigenvalues, vectors = scipy.linalg.eigh(BB[1:, 1:] - n * np.outer(mean, mean))
    loadings = vectors.T @ (BY[1:] - np.outer(mean, BY[0]))  # (k, m)
    rank_tolerance = len(mean) * np.finfo(float).eps * eigenvalues.max(initial=0)
    spanned = (eigenvalues > rank_tolerance)[:, None]
    solutions = []
    for penalties in alpha:
        shrunk = np.where(spanned, eigenvalues[:, None] + penalties, np.inf)
        weights = vectors @ (loadings / shrunk)
        solutions.append(np.vstack([BY[0] / n - mean @ weights, weights]))
    return solutions
