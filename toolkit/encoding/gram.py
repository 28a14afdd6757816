"""The Gram matrix of a layer, from one streamed pass over blocks of its columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import dask.threaded
import numpy as np
from dask.system import CPU_COUNT
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

from toolkit.encoding.errors import FeaturesError
from toolkit.encoding.statistics import LayerStatistics, RowStatistics, centred_statistics

BLOCK_COLUMNS = 16_384

# Products that may be under way or waiting to be added, per worker: one more than is being
# computed lets a worker go on while an earlier block is still being read.
_PRODUCTS_PER_WORKER = 2

# Multiplications of a product that float64 makes in one or two seconds more than float32. PLS whose
# power iteration ends early needs its digits: where a step is as long as the tolerance, float32
# takes one more or one less than scikit-learn, which moved the r of one split by 4e-5.
_FLOAT64_MULTIPLICATIONS = 2**37


def column_slices(n_columns: int, width: int = BLOCK_COLUMNS) -> list[slice]:
    """Consecutive slices of at most ``width`` that cover ``n_columns`` columns."""
    return [slice(start, min(start + width, n_columns)) for start in range(0, n_columns, width)]


def layer_statistics(
    read: Callable[[slice], NDArray],
    columns: Sequence[slice],
    n_rows: int,
    *,
    n_threads: int = CPU_COUNT,
) -> LayerStatistics:
    """Gram matrix of column-centred features, G = (X − μ)(X − μ)ᵀ, with the sums of its rows.

    Each block of columns is read once, by one of ``n_threads`` Dask threads; its columns are
    centred, because a large common mean would cost float32 its digits; and its product, which
    NumPy computes with BLAS ``syrk``, is added to one float64 sum. Blocks are added in the order of
    ``columns`` whichever finishes first, and every product runs on one BLAS thread, so the result
    is bit-identical for any number of threads.

    Products are float64 or float32, see :func:`product_dtype`.

    Parameters
    ----------
    read
        Gives all rows of a slice of columns, (n_rows, width): for example ``lambda s: array[:, s]``
        of a NumPy or Zarr array, or ``functools.partial(store.read, layer)``. Called from several
        threads at once. What it raises is raised here.
    columns
        The blocks, covering each column once. Blocks of about 16,384 columns keep BLAS busy.
    n_rows
        Number of images.
    n_threads
        Cores that may be used; by default those this process may run on. Memory at any moment is
        at most ``8 n_rows² + n_threads · (12 n_rows · width + 16 n_rows²)`` bytes beyond what
        ``read`` uses itself: the sum, and per thread a block, a copy of it, and two products.

    Returns
    -------
    The Gram matrix, (n_rows, n_rows) float64, is exactly symmetric, its rows and columns sum to 0,
    and it is 0 for a constant layer.

    Raises
    ------
    FeaturesError
        If a block has the wrong shape, holds NaN or infinity, or values so large that their
        float32 products overflow, or if there is no block.
    """
    if not columns:
        raise FeaturesError("the layer has no columns: give at least one slice of columns")
    n_columns = sum(block.stop - block.start for block in columns)
    dtype = product_dtype(n_rows, n_columns)
    n_workers = min(n_threads, len(columns))
    window = _PRODUCTS_PER_WORKER * n_workers

    graph: dict[tuple[str, int], tuple] = {("sum", 0): (no_sum, n_rows)}
    for index, block in enumerate(columns):
        earlier_sum = ("sum", max(0, index + 1 - window))  # there, a place in the window is free
        graph["product", index] = (block_sums, read, block, n_rows, dtype, earlier_sum)
        graph["sum", index + 1] = (add_in_place, ("sum", index), ("product", index))

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_workers) as pool:
        gram, rows = dask.threaded.get(graph, ("sum", len(columns)), pool=pool)
    return finished(gram, rows)


def product_dtype(n_rows: int, n_columns: int) -> type[np.float32 | np.float64]:
    """What a layer of this size is multiplied in: float64 where it costs little, else float32.

    That is for up to 2³⁷ multiplications, n_rows² · n_columns (3,200 images of 13,000 features),
    and where there are no more columns than rows: there the smallest eigenvalues are not noise.
    """
    costs_little = n_rows**2 * n_columns <= _FLOAT64_MULTIPLICATIONS
    return np.float64 if costs_little or n_columns <= n_rows else np.float32


def finished(gram: NDArray[np.float64], rows: RowStatistics) -> LayerStatistics:
    """Statistics from the sums over all blocks; ``gram`` is centred in place.

    Raises
    ------
    FeaturesError
        If the products overflowed.
    """
    if not np.isfinite(gram.diagonal()).all():
        raise FeaturesError(
            "the products of this layer's features overflow float32 (values beyond about 1e18): "
            "the network's activations have diverged; check its weights and preprocessing"
        )
    return LayerStatistics.from_gram(double_centred(gram), rows)


def gram_matrix(
    read: Callable[[slice], NDArray],
    columns: Sequence[slice],
    n_rows: int,
    *,
    n_threads: int = CPU_COUNT,
) -> NDArray[np.float64]:
    """Gram matrix of column-centred features, (n_rows, n_rows); see :func:`layer_statistics`."""
    return layer_statistics(read, columns, n_rows, n_threads=n_threads).gram


def double_centred(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gram matrix of the same rows about their own mean, (I − 11ᵀ/n) G (I − 11ᵀ/n).

    Parameters
    ----------
    gram
        (n, n), symmetric. It is centred in place.

    Returns
    -------
    The same array, exactly symmetric if it was.
    """
    offsets = gram.mean(axis=0)
    offsets -= offsets.mean() / 2
    gram -= offsets[:, None] + offsets
    return gram


Sums = tuple[NDArray[np.floating], RowStatistics]
Total = tuple[NDArray[np.float64], RowStatistics | None]


def no_sum(n_rows: int) -> Total:
    """The total of no block."""
    return np.zeros((n_rows, n_rows)), None


def block_sums(
    read: Callable[[slice], NDArray],
    block: slice,
    n_rows: int,
    dtype: DTypeLike,
    earlier_sum: object,
) -> Sums:
    """One block's product, (n_rows, n_rows) of ``dtype``, and the sums of its rows.

    ``earlier_sum`` only orders the graph.
    """
    features = np.asarray(read(block))
    width = block.stop - block.start
    if features.shape != (n_rows, width):
        raise FeaturesError(
            f"columns {block.start}:{block.stop} have shape {features.shape}, "
            f"not {(n_rows, width)}: every block needs all rows of its columns"
        )
    features = features.astype(np.promote_types(features.dtype, dtype))
    with np.errstate(invalid="ignore", over="ignore"):
        mean = features.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        raise FeaturesError(_where_not_finite(features, block))
    with np.errstate(invalid="ignore", over="ignore"):
        features -= mean.astype(features.dtype)
        centred = features.astype(dtype, copy=False)
        return centred @ centred.T, centred_statistics(centred, mean)


def _where_not_finite(features: NDArray[np.floating], block: slice) -> str:
    rows, columns = np.nonzero(~np.isfinite(features))
    return (
        f"{len(rows)} feature value(s) in columns {block.start}:{block.stop} are NaN or infinite, "
        f"the first at row {rows[0]}, column {block.start + columns[0]}: "
        "extract the layer again in float32, or leave it out"
    )


def add_in_place(total: Total, block: Sums) -> Total:
    """The total, to whose matrix the block's product has been added."""
    gram, rows = total
    with np.errstate(invalid="ignore", over="ignore"):
        gram += block[0]
        return gram, block[1] if rows is None else rows + block[1]
