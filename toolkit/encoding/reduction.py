"""Principal components of a layer whose Gram matrix does not fit.

The features are streamed in blocks of rows or of columns and never held as a whole. Every solver
ends in an orthogonal projection of the features about their training mean, turned so that the
scores of the training images are uncorrelated: the variances are those of the scores returned.

| solver | streams | passes | result |
|---|---|---|---|
| gram | columns | 1 | exact: eigenvectors of the Gram matrix, n × n |
| covariance | rows | 2 | exact: eigenvectors of the covariance matrix, p × p |
| incremental | rows | 2 | Dask-ML's ``IncrementalPCA`` with 2 k components, of which k are kept |
| randomized | columns | 2 | subspace iteration on a sketch of 2 k columns, of which k are kept |

The approximate ones keep less variance than there is, most of it lacking from the last components.
Of 1,500 × 1,000 synthetic features with variances ∝ 1/j and k = 50, incremental lost .05 % of the
variance that the exact k have and .9 % of the last ones', randomized .9 % and 9 %; with ∝ 1/j²
.0001 % and .03 %, .004 % and 2 %. A randomized single pass lost 14 % and 39 %: hence two. The
explained variance of a neuron moved by up to .01 and .05 with the first spectrum, 2e-4 and .003
with the second (650 training and 150 test images, four seeds).

``IncrementalPCA`` runs batches of rows with ``svd_solver="randomized"`` and two power iterations:
as accurate there as ``"full"``, which from the second batch on makes a p × p matrix. Without power
iterations, ``"auto"``, 2 % and 15 % were lost; with seven, rounding spoilt the steep spectrum.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import dask
import dask.array as da
import numpy as np
import scipy.linalg
import zarr
from dask.delayed import Delayed
from dask.system import CPU_COUNT
from dask_ml.decomposition import IncrementalPCA
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from toolkit.encoding.components import RANK_TOLERANCE, principal_components
from toolkit.encoding.compute import tree_reduced
from toolkit.encoding.errors import FeaturesError
from toolkit.encoding.gram import BLOCK_COLUMNS, column_slices, gram_matrix
from toolkit.encoding.protocols import check_split
from toolkit.encoding.solver import SLICE_COLUMNS, Solver, block_rows, fitting_threads, oversampled

Layer: TypeAlias = da.Array | zarr.Array | NDArray[np.floating]


_POWER_ITERATIONS = 2

# Variation below this share of the mean is rounding of the mean in float64.
_ROUNDING = 1e-14


@dataclass(frozen=True)
class Reduction:
    """Principal component scores of one layer.

    Attributes
    ----------
    train_scores
        (n_train, k) float64: uncorrelated, of mean 0, in descending order of variance; up to sign
        those of scikit-learn's ``PCA``. k is less than asked for where the layer's rank is.
    test_scores
        The test images projected likewise, (n_test, k).
    explained_variances
        Variances of ``train_scores``, with n_train − 1 in the denominator, (k,).
    solver
        How they were found.
    n_passes
        How often each feature of the training images was read.
    """

    train_scores: NDArray[np.float64]
    test_scores: NDArray[np.float64]
    explained_variances: NDArray[np.float64]
    solver: Solver
    n_passes: int


def reduce_layer(
    layer: Layer,
    train: NDArray[np.integer],
    test: NDArray[np.integer],
    n_components: int,
    *,
    memory_bytes: float,
    solver: Solver,
    n_threads: int = CPU_COUNT,
    seed: int = 0,
) -> Reduction:
    """Principal component scores, fitted on the training images only.

    The Dask work is done where :func:`toolkit.encoding.compute.open_compute` says, or in threads
    of this process; gram, and what is between the passes, always in this process.

    Parameters
    ----------
    layer
        (n_stimuli, n_features): a Zarr, Dask or NumPy array.
    train, test
        Rows of the layer.
    n_components
        k.
    memory_bytes, solver, n_threads
        As in :func:`~toolkit.encoding.solver.fitting_threads`: as many threads work as fit.
    seed
        Of incremental and randomized; the same seed gives the same scores.

    Raises
    ------
    ReductionError
        As in :func:`~toolkit.encoding.solver.fitting_threads`.
    FeaturesError
        If a feature is NaN or infinite.
    ProtocolError
        If ``train`` and ``test`` share rows, repeat them, or are not rows of the layer.
    """
    check_split(train, test, layer.shape[0])
    n_threads, _ = fitting_threads(
        solver,
        len(train),
        layer.shape[1],
        n_components,
        memory_bytes,
        n_test=len(test),
        n_threads=n_threads,
    )
    with dask.config.set(num_workers=n_threads), threadpool_limits(n_threads, user_api="blas"):
        if solver == "gram":
            return _by_gram(layer, train, test, n_components, n_threads)
        if solver == "covariance":
            projected, mean_square = _by_covariance(layer, train, test, n_components)
        elif solver == "incremental":
            projected, mean_square = _by_incremental(layer, train, test, n_components, seed)
        else:
            projected, mean_square = _by_sketch(layer, train, test, n_components, seed)
        return _turned(projected, mean_square, len(train), n_components, solver)


def _by_gram(
    layer: Layer,
    train: NDArray[np.integer],
    test: NDArray[np.integer],
    n_components: int,
    n_threads: int,
) -> Reduction:
    rows, n_train = np.concatenate([train, test]), len(train)

    def read(columns: slice) -> NDArray[np.floating]:
        block = layer[:, columns]
        if isinstance(block, da.Array):
            block = block.compute(scheduler="synchronous")
        return block[rows]

    columns = column_slices(layer.shape[1], _block_columns(layer))
    gram = gram_matrix(read, columns, len(rows), n_threads=n_threads)
    components = principal_components(gram[:n_train, :n_train]).leading(n_components)
    return Reduction(
        train_scores=components.scores(),
        test_scores=components.project(gram[n_train:, :n_train]),
        explained_variances=components.eigenvalues / (n_train - 1),
        solver="gram",
        n_passes=1,
    )


def _by_covariance(
    layer: Layer, train: NDArray[np.integer], test: NDArray[np.integer], n_components: int
) -> tuple[NDArray[np.float64], float]:
    moments = dask.delayed(_moments)
    parts = [moments(block, inside) for block, inside, _ in _row_blocks(layer, train)]
    _, mean, scatter = computed(tree_reduced(_merged_moments, parts))[0]
    n_features = len(mean)
    _, directions = scipy.linalg.eigh(
        scatter, subset_by_index=(n_features - n_components, n_features - 1)
    )
    return _projected(layer, np.concatenate([train, test]), mean, directions), mean @ mean


def _by_incremental(
    layer: Layer,
    train: NDArray[np.integer],
    test: NDArray[np.integer],
    n_components: int,
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    kept = oversampled(n_components, len(train), layer.shape[1])
    pca = IncrementalPCA(
        kept, svd_solver="randomized", iterated_power=_POWER_ITERATIONS, random_state=seed
    )
    take = dask.delayed(_as_float64)
    n_batches = len(train) // max(kept, block_rows(layer.shape[1]))
    for batch in np.array_split(np.sort(train), max(1, n_batches)):
        blocks = [take(block, inside) for block, inside, _ in _row_blocks(layer, batch)]
        features = np.concatenate(computed(*blocks))
        with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
            # Its first mean divides by a count of 0.
            warnings.filterwarnings("ignore", "invalid value encountered in divide")
            pca.partial_fit(da.from_array(features, chunks=(-1, -1)), check_input=False)
    rows = np.concatenate([train, test])
    return _projected(layer, rows, pca.mean_, pca.components_.T), pca.mean_ @ pca.mean_


def _by_sketch(
    layer: Layer,
    train: NDArray[np.integer],
    test: NDArray[np.integer],
    n_components: int,
    seed: int,
) -> tuple[NDArray[np.float64], float]:
    """Subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4), a pass per step.

    A pass takes V = orth(XᵀT) for a test matrix T, and X V, from one reading of each block of
    columns: X V = (X XᵀT) R⁻¹, where RᵀR = (XᵀT)ᵀ(XᵀT). T is random first, then an orthonormal
    basis of what the first pass found.
    """
    width = oversampled(n_components, len(train), layer.shape[1])
    test_matrix = np.random.default_rng(seed).standard_normal((len(train), width))
    basis, _, _ = _sketched(layer, train, test_matrix)
    orthonormal, _ = np.linalg.qr(basis)
    rows = np.concatenate([train, test])
    products, square, mean_square = _sketched(layer, rows, orthonormal)
    eigenvalues, vectors = scipy.linalg.eigh(square)
    above = eigenvalues > len(square) * np.finfo(float).eps * eigenvalues[-1]
    return products @ (vectors[:, above] / np.sqrt(eigenvalues[above])), mean_square


def _sketched(
    layer: Layer, rows: NDArray[np.integer], test_matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """X XᵀT, (n_rows, s), TᵀXXᵀT, (s, s), and ‖μ‖², the first rows being those of T."""
    blocks = as_dask(layer, (layer.shape[0], _block_columns(layer))).to_delayed()[0]
    product = dask.delayed(_sketch_products)
    shared_rows, shared_matrix = dask.delayed(rows), dask.delayed(test_matrix)
    parts = [product(block, shared_rows, shared_matrix) for block in blocks]
    return computed(tree_reduced(added, parts))[0]


def _turned(
    projected: NDArray[np.float64],
    mean_square: float,
    n_train: int,
    n_components: int,
    solver: Solver,
) -> Reduction:
    """Scores along the principal axes within the subspace that a solver found."""
    train = projected[:n_train]
    eigenvalues, axes = scipy.linalg.eigh(train.T @ train)
    rounding = _ROUNDING**2 * n_train * mean_square
    above = eigenvalues > max(RANK_TOLERANCE * eigenvalues.max(initial=0), rounding)
    kept = np.flatnonzero(above)[::-1][:n_components]
    scores = projected @ axes[:, kept]
    return Reduction(
        train_scores=scores[:n_train],
        test_scores=scores[n_train:],
        explained_variances=eigenvalues[kept] / (n_train - 1),
        solver=solver,
        n_passes=2,
    )


def as_dask(layer: Layer, chunks: tuple[int, int]) -> da.Array:
    """The layer as a Dask array of these chunks."""
    if isinstance(layer, da.Array):
        return layer.rechunk(chunks)
    return da.from_array(layer, chunks=chunks, inline_array=True)


def _row_blocks(
    layer: Layer, rows: NDArray[np.integer]
) -> list[tuple[Delayed, NDArray[np.intp], NDArray[np.intp]]]:
    """Blocks of rows that hold some of ``rows``: the block, where in it, and where in ``rows``."""
    height = block_rows(layer.shape[1])
    array = as_dask(layer, (height, layer.shape[1]))
    of_block = rows // height
    found = []
    for index in np.unique(of_block):
        at = np.flatnonzero(of_block == index)
        block = array.blocks[int(index)].to_delayed()[0, 0]
        found.append((block, rows[at] - index * height, at))
    return found


def _projected(
    layer: Layer,
    rows: NDArray[np.integer],
    mean: NDArray[np.float64],
    directions: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(X − μ) V of some rows, (n_rows, s)."""
    project = dask.delayed(_projection)
    shared_mean, shared_directions = dask.delayed(mean), dask.delayed(directions)
    blocks = _row_blocks(layer, rows)
    parts = computed(
        *(project(block, inside, shared_mean, shared_directions) for block, inside, _ in blocks)
    )
    projected = np.empty((len(rows), directions.shape[1]))
    for part, (_, _, at) in zip(parts, blocks, strict=True):
        projected[at] = part
    return projected


def computed(*parts: Delayed) -> tuple:
    """The parts, with one BLAS thread for each Dask thread."""
    with threadpool_limits(1, user_api="blas"):
        return dask.compute(*parts)


def _as_float64(block: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
    features = np.asarray(block)[rows].astype(np.float64)
    with np.errstate(invalid="ignore"):
        if not np.isfinite(features.sum()):
            raise FeaturesError(
                f"{(~np.isfinite(features)).sum()} feature value(s) of this layer are NaN or "
                "infinite: extract the layer again in float32, or leave it out"
            )
    return features


def _moments(
    block: NDArray[np.floating], rows: NDArray[np.integer]
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Number, mean (p,) and scatter matrix (p, p) of some rows."""
    features = _as_float64(block, rows)
    mean = features.mean(axis=0)
    features -= mean
    return len(features), mean, features.T @ features


def _merged_moments(
    a: tuple[int, NDArray[np.float64], NDArray[np.float64]],
    b: tuple[int, NDArray[np.float64], NDArray[np.float64]],
) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Chan, Golub & LeVeque 1983: no digits are lost to a large mean."""
    (n_a, mean_a, scatter_a), (n_b, mean_b, scatter_b) = a, b
    n, shift = n_a + n_b, mean_b - mean_a
    scatter = np.multiply.outer(shift, shift * (n_a * n_b / n))
    scatter += scatter_a
    scatter += scatter_b
    return n, mean_a + shift * (n_b / n), scatter


def _projection(
    block: NDArray[np.floating],
    rows: NDArray[np.integer],
    mean: NDArray[np.float64],
    directions: NDArray[np.float64],
) -> NDArray[np.float64]:
    features = _as_float64(block, rows)
    features -= mean
    return features @ directions


def _sketch_products(
    block: NDArray[np.floating], rows: NDArray[np.integer], test_matrix: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """What one block of columns adds to the result of :func:`_sketched`."""
    n_train, width = test_matrix.shape
    product, square, mean_square = np.zeros((len(rows), width)), np.zeros((width, width)), 0.0
    for columns in column_slices(block.shape[1], SLICE_COLUMNS):
        features = _as_float64(block[:, columns], rows)
        mean = features[:n_train].mean(axis=0)
        features -= mean
        sketch = features[:n_train].T @ test_matrix  # (columns, s)
        product += features @ sketch
        square += sketch.T @ sketch
        mean_square += mean @ mean
    return product, square, mean_square


def added(a: Sequence, b: Sequence) -> tuple:
    """Sums of what stands at the same place."""
    return tuple(left + right for left, right in zip(a, b, strict=True))


def _block_columns(layer: Layer) -> int:
    """Columns of a block, where possible whole chunks as they are stored."""
    chunk = getattr(layer, "chunksize", getattr(layer, "chunks", layer.shape))[1]
    return BLOCK_COLUMNS // chunk * chunk or BLOCK_COLUMNS
