"""Read-outs fitted on one layer's Gram matrix and scored on images they have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal, get_args

import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from toolkit.encoding.components import PrincipalComponents, principal_components
from toolkit.encoding.errors import FeaturesError, ProtocolError, ReadoutError, ResponsesError
from toolkit.encoding.pls import pls_weights
from toolkit.encoding.protocols import Split, check_split
from toolkit.encoding.ridge import (
    alpha_per_neuron,
    kfold_squared_errors,
    leave_one_out_squared_errors,
    ridge_weights,
    shared_alpha,
)
from toolkit.metrics import FEWEST_IMAGES, METRICS, is_constant, pearson_r_pairwise
from toolkit.metrics.uncertainty import permutation_p_value, refitted_p_value

ReadoutKind = Literal["ridge", "linear", "pls"]

# Below, the threads of LAPACK's eigh mostly wait for each other: on a busy machine 234 images took
# 1.5 s with four threads and .01 s with one.
_THREADS_FROM_N_STIMULI = 1_000

# Brain-Score's protocol has ten splits; ten decompositions of 2,900 images are .7 GB.
_DECOMPOSITIONS_KEPT = 10

# Shuffled responses that are fitted side by side.
_SHUFFLED_BYTES = 2**24


@dataclass(frozen=True)
class Readout:
    """How responses are predicted from a layer.

    Attributes
    ----------
    kind
        ``"ridge"``; ``"linear"``: least squares of minimum norm; ``"pls"``: partial least squares,
        scikit-learn's ``PLSRegression(scale=False)``.
    n_components
        Principal components of the training features that are kept, at most n_train − 1; a layer
        of lower rank gives what it has. None: all of them, which is ridge or least squares on the
        features themselves.
    alphas
        Ridge: penalties to choose from, increasing, in squared units of the unscaled features.
        Otherwise empty.
    alpha_per_neuron
        Ridge: a penalty for each neuron, the least out-of-fold squared error; or one for all, the
        highest out-of-fold R² averaged over neurons.
    n_folds
        Ridge: folds of the training images on which penalties are compared; None for leave-one-out.
        The components are those of all training images.
    seed
        Ridge: of the shuffle before the folds are cut.
    n_latent
        PLS: latent components; fewer where the responses are fitted with fewer.
    pls_per_neuron
        PLS: a model for each neuron, instead of one of all.
    pls_tolerance
        PLS: see :func:`~toolkit.encoding.pls.pls_weights`.
    alphas_relative
        Ridge: ``alphas`` are multiples of the mean over training images of the squared length of
        their components, so that scores do not depend on the features' units.

    Raises
    ------
    ReadoutError
        If a value is out of range; which one, and what to write instead.
    """

    kind: ReadoutKind
    n_components: int | None = None
    alphas: tuple[float, ...] = ()
    alpha_per_neuron: bool = True
    n_folds: int | None = 5
    seed: int = 0
    n_latent: int | None = None
    pls_per_neuron: bool = False
    pls_tolerance: float | None = None
    alphas_relative: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(ReadoutKind):
            raise ReadoutError(f"kind is {self.kind!r}; write one of {get_args(ReadoutKind)}")
        if self.n_components is not None and self.n_components < 1:
            raise ReadoutError(f"n_components is {self.n_components}; write 1 or more, or None")
        if self.n_folds is not None and self.n_folds < 2:
            raise ReadoutError(
                f"n_folds is {self.n_folds}; write 2 or more, or None for leave-one-out"
            )
        if self.kind != "ridge" and self.alphas:
            raise ReadoutError(
                f"alphas are given, but kind {self.kind} has no penalty: leave them empty"
            )
        if self.kind == "pls" and (self.n_latent is None or self.n_latent < 1):
            raise ReadoutError(f"n_latent is {self.n_latent}; PLS needs 1 or more")
        if self.kind == "ridge":
            _check_grid(self.alphas)

    def penalties(self, mean_square: float) -> NDArray[np.float64]:
        """The penalties to choose from, (n_alphas,).

        Parameters
        ----------
        mean_square
            Mean over training images of the squared length of their components; where it is 0 no
            penalty matters.
        """
        return np.array(self.alphas) * (mean_square or 1.0 if self.alphas_relative else 1.0)

    def n_shuffles_at_once(self, n_values: int) -> int:
        """Shuffled copies of the responses, of that many values, that are fitted side by side.

        1 where neurons are fitted together: those of one copy must not know of the next.
        """
        are_separate = {
            "ridge": self.alpha_per_neuron or len(self.alphas) == 1,
            "linear": True,
            "pls": self.pls_per_neuron,
        }
        return max(1, _SHUFFLED_BYTES // (8 * n_values)) if are_separate[self.kind] else 1


@dataclass(frozen=True)
class ReadoutScores:
    """Scores on the test images of each split; NaN where a neuron has none.

    Attributes
    ----------
    ev, r, r2, mse
        (n_splits, n_neurons) float64, as in :mod:`toolkit.metrics`.
    alpha
        Penalty used, (n_splits, n_neurons); 0 for kind linear, NaN where there is none (pls) or
        none matters (a neuron of zero training variance, a constant layer).
    alpha_at_edge
        (n_splits, n_neurons): the penalty is the first or last of a grid of several, so a better
        one may lie outside.
    p_value
        Probability of a mean r at least this high if images were shuffled, over the neurons that
        have an r, each on the images it has, and over all splits; NaN unless permutations were
        asked for.
    n_components
        Components used, the fewest of any neuron, (n_splits,) int.
    n_train, n_test
        Images of the split, (n_splits,) int.
    """

    ev: NDArray[np.float64]
    r: NDArray[np.float64]
    r2: NDArray[np.float64]
    mse: NDArray[np.float64]
    alpha: NDArray[np.float64]
    alpha_at_edge: NDArray[np.bool_]
    p_value: float
    n_components: NDArray[np.intp]
    n_train: NDArray[np.intp]
    n_test: NDArray[np.intp]


@dataclass(frozen=True)
class _Prediction:
    """Responses to the test images, (n_test, n_neurons), and of what read-out.

    Penalties, and whether they are at the grid's edge, are (n_neurons,) where there are any.
    """

    responses: NDArray[np.float64]
    n_components: int
    alpha: NDArray[np.float64] | float = np.nan
    alpha_at_edge: NDArray[np.bool_] | bool = False


class LayerEncoder:
    """Read-outs of one layer; the components of a training set are computed once for all of them.

    Where a layer is constant over the training images there is nothing to fit: every prediction is
    the training mean, so EV is 0 and r is NaN.

    A neuron with missing responses is fitted and scored on the images it has; neurons that miss the
    same images share a decomposition. One that has too few images for the read-out, or fewer than
    three to test, has no score.

    Parameters
    ----------
    gram
        Gram matrix of the layer over all images, (n_stimuli, n_stimuli), from
        :func:`toolkit.encoding.gram_matrix`. It is not changed.
    responses
        (n_stimuli, n_neurons), in the same order of images; NaN where a neuron was not recorded.
    n_threads
        Cores that may be used; by default those this process may run on.

    Raises
    ------
    FeaturesError
        If the Gram matrix is not square or holds NaN or infinity.
    ResponsesError
        If the responses have another number of images, or hold infinity.
    """

    def __init__(
        self, gram: ArrayLike, responses: ArrayLike, *, n_threads: int = CPU_COUNT
    ) -> None:
        self._gram = np.asarray(gram, dtype=np.float64)
        self._responses = np.asarray(responses, dtype=np.float64)
        _check_gram(self._gram)
        _check_responses(self._responses, n_stimuli=len(self._gram))
        self._n_threads = n_threads if len(self._gram) >= _THREADS_FROM_N_STIMULI else 1
        self._components_of = lru_cache(_DECOMPOSITIONS_KEPT)(self._decompose)

    def score(
        self, readout: Readout, splits: Sequence[Split], *, n_permutations: int = 0
    ) -> ReadoutScores:
        """Fit on the training images of each split and score its test images.

        Parameters
        ----------
        readout
            How to predict.
        splits
            Pairs of (training, test) row numbers.
        n_permutations
            Shuffles behind the p-value, 0 for none: of the test images where there is one split,
            else of all images, each of which is fitted anew.

        Raises
        ------
        ProtocolError
            If there is no split, or one shares images between training and test, or repeats
            or lacks images.
        ReadoutError
            If there are too few training images for the components or folds asked for, or a
            penalty is too small for this layer.
        """
        if not splits:
            raise ProtocolError("there is no split to score: give at least one (train, test) pair")
        with threadpool_limits(self._n_threads, user_api="blas"):
            fits = [self._fit(readout, train, test, self._responses) for train, test in splits]
            p_value = self._p_value(readout, splits, fits, n_permutations)
        rows = [self._scores_of(fit, test) for fit, (_, test) in zip(fits, splits, strict=True)]
        return ReadoutScores(
            **{name: np.array([row[name] for row in rows]) for name in rows[0]},
            n_train=np.array([len(train) for train, _ in splits]),
            n_test=np.array([len(test) for _, test in splits]),
            p_value=p_value,
        )

    def components(self, train: NDArray[np.integer]) -> PrincipalComponents:
        """All principal components of these training images, from the cache where it has them."""
        return self._components_of(np.asarray(train, dtype=np.intp).tobytes())

    def _decompose(self, train_bytes: bytes) -> PrincipalComponents:
        train = np.frombuffer(train_bytes, dtype=np.intp)
        return principal_components(self._gram[np.ix_(train, train)])

    def _fit(
        self,
        readout: Readout,
        train: NDArray[np.integer],
        test: NDArray[np.integer],
        responses: NDArray[np.float64],
    ) -> _Prediction:
        """Predictions of all test images, NaN for neurons that have too few images."""
        check_split(train, test, len(self._gram))
        _check_enough_images(readout, len(train))
        n_neurons = responses.shape[1]
        predicted = np.full((len(test), n_neurons), np.nan)
        alpha, alpha_at_edge = np.full(n_neurons, np.nan), np.zeros(n_neurons, dtype=bool)
        n_components = []
        for neurons, observed in _neurons_of_same_images(responses):
            seen = train[observed[train]]
            if len(seen) < _fewest_images(readout) or observed[test].sum() < FEWEST_IMAGES:
                continue
            part = self._predict(readout, seen, test, responses[np.ix_(seen, neurons)])
            predicted[:, neurons] = part.responses
            alpha[neurons], alpha_at_edge[neurons] = part.alpha, part.alpha_at_edge
            n_components.append(part.n_components)
        return _Prediction(predicted, min(n_components, default=0), alpha, alpha_at_edge)

    def _scores_of(self, fit: _Prediction, test: NDArray[np.integer]) -> dict[str, Any]:
        """Scores of each neuron on the test images that it has."""
        measured = self._responses[test]
        row: dict[str, Any] = {name: np.full(measured.shape[1], np.nan) for name in METRICS}
        for neurons, observed in _neurons_of_same_images(measured):
            if observed.sum() >= FEWEST_IMAGES:
                at = np.ix_(observed, neurons)
                for name, metric in METRICS.items():
                    row[name][neurons] = metric(measured[at], fit.responses[at])
        return row | {
            "alpha": fit.alpha,
            "alpha_at_edge": fit.alpha_at_edge,
            "n_components": fit.n_components,
        }

    def _p_value(
        self,
        readout: Readout,
        splits: Sequence[Split],
        fits: Sequence[_Prediction],
        n_permutations: int,
    ) -> float:
        if not n_permutations:
            return float("nan")
        if len(splits) == 1:
            [(_, test)], [fit] = splits, fits
            return permutation_p_value(
                self._responses[test],
                fit.responses,
                statistic="mean",
                n_permutations=n_permutations,
            )

        def r_of(split: Split, responses: NDArray[np.float64]) -> NDArray[np.float64]:
            train, test = split
            fit = self._fit(readout, train, test, responses)
            return pearson_r_pairwise(responses[test], fit.responses)

        return refitted_p_value(
            self._responses,
            [partial(r_of, split) for split in splits],
            n_permutations=n_permutations,
            n_at_once=readout.n_shuffles_at_once(self._responses.size),
        )

    def _predict(
        self,
        readout: Readout,
        train: NDArray[np.integer],
        test: NDArray[np.integer],
        responses: NDArray[np.float64],
    ) -> _Prediction:
        """Predictions of the test images from complete responses to the training images."""
        components = self.components(train).leading(readout.n_components)
        used, penalties = components.n_components, dict[str, Any]()
        if readout.kind == "pls":
            weights, n_latent = pls_weights(
                components,
                responses,
                readout.n_latent or 1,
                per_neuron=readout.pls_per_neuron,
                tolerance=readout.pls_tolerance,
            )
            used = int(n_latent.min())
        else:
            alphas = readout.penalties(components.eigenvalues.sum() / len(train))
            alpha = _alpha(readout, components, responses, alphas, self._n_threads)
            penalties = {"alpha": alpha, "alpha_at_edge": at_edge(alpha, alphas)}
            weights = ridge_weights(components, responses, np.nan_to_num(alpha))
        scores = components.project(self._gram[np.ix_(test, train)])
        return _Prediction(scores @ weights + responses.mean(axis=0), used, **penalties)


def _neurons_of_same_images(
    responses: NDArray[np.float64],
) -> list[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Groups of neurons, and the images (n_stimuli,) for which each group has responses."""
    observed = ~np.isnan(responses)
    if observed.all():
        return [(np.arange(responses.shape[1]), observed[:, 0])]
    patterns, group = np.unique(observed, axis=1, return_inverse=True)
    return [
        (np.flatnonzero(group.ravel() == index), patterns[:, index])
        for index in range(patterns.shape[1])
    ]


def _fewest_images(readout: Readout) -> int:
    return max(2, (readout.n_components or 0) + 1, readout.n_folds or 0)


def _alpha(
    readout: Readout,
    components: PrincipalComponents,
    responses: NDArray[np.float64],
    alphas: NDArray[np.float64],
    n_threads: int,
) -> NDArray[np.float64]:
    """The penalty of each neuron, (n_neurons,); NaN where none matters."""
    n_train, n_neurons = responses.shape
    if readout.kind == "linear":
        return np.zeros(n_neurons)
    if components.n_components == 0:
        return np.full(n_neurons, np.nan)
    if len(alphas) == 1:
        return np.where(is_constant(responses), np.nan, alphas)
    if readout.n_folds is None:
        errors = leave_one_out_squared_errors(components, responses, alphas)
    else:
        from sklearn.model_selection import KFold

        folds = KFold(readout.n_folds, shuffle=True, random_state=readout.seed)
        held_out = [fold for _, fold in folds.split(np.arange(n_train))]
        errors = kfold_squared_errors(components, responses, alphas, held_out, n_threads=n_threads)
    choose = alpha_per_neuron if readout.alpha_per_neuron else shared_alpha
    return choose(errors, alphas, responses)


def at_edge(alpha: NDArray[np.float64], alphas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which penalties, (n_neurons,), are the first or last of a grid of several."""
    if len(alphas) < 2:
        return np.zeros(len(alpha), dtype=bool)
    return (alpha == alphas[0]) | (alpha == alphas[-1])


def _check_grid(alphas: tuple[float, ...]) -> None:
    if not alphas:
        raise ReadoutError("alphas are empty; write at least one, e.g. 1, 10, …, 1e8 as a grid")
    if not (np.isfinite(alphas).all() and min(alphas) > 0):
        raise ReadoutError(
            f"alphas {alphas} must be positive and finite; for no penalty write kind: linear"
        )
    if np.any(np.diff(alphas) <= 0):
        raise ReadoutError(f"alphas {alphas} must increase; sort them and leave out repeats")


def _check_enough_images(readout: Readout, n_train: int) -> None:
    if readout.n_components is not None and readout.n_components > n_train - 1:
        raise ReadoutError(
            f"n_components is {readout.n_components}, but {n_train} training images have at most "
            f"{n_train - 1} components; write at most that, or None for all"
        )
    if readout.kind == "ridge" and readout.n_folds is not None and readout.n_folds > n_train:
        raise ReadoutError(
            f"n_folds is {readout.n_folds}, but there are {n_train} training images; write fewer, "
            "or None for leave-one-out"
        )


def _check_gram(gram: NDArray[np.float64]) -> None:
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise FeaturesError(f"the Gram matrix has shape {gram.shape}: it must be square")
    if not np.isfinite(gram).all():
        row, column = np.argwhere(~np.isfinite(gram))[0]
        raise FeaturesError(
            f"the Gram matrix is not finite at row {row}, column {column}: "
            "remove its file and encode the layer again"
        )


def _check_responses(responses: NDArray[np.float64], n_stimuli: int) -> None:
    if responses.ndim != 2 or len(responses) != n_stimuli:
        raise ResponsesError(
            f"responses have shape {responses.shape}, but the Gram matrix is of {n_stimuli} "
            "images: give (n_stimuli, n_neurons)"
        )
    if np.isinf(responses).any():
        row, neuron = np.argwhere(np.isinf(responses))[0]
        raise ResponsesError(
            f"{np.isinf(responses).sum()} response(s) are infinite, the first at image {row}, "
            f"neuron {neuron}: write NaN where a neuron was not recorded"
        )
