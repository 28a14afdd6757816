"""What it takes to compute principal components, from sizes alone."""

from __future__ import annotations

import math
from typing import Literal, get_args

from dask.system import CPU_COUNT

from toolkit.encoding.errors import EncodingError
from toolkit.encoding.gram import BLOCK_COLUMNS

Solver = Literal["gram", "covariance", "incremental", "randomized"]

# Columns of a block that are converted to float64 at a time.
SLICE_COLUMNS = 1024

# Components or columns that an approximate solver works with, for each one that is kept.
_OVERSAMPLING = 2

# Per thread, of float64. Blocks of columns are stored width, in float32, and converted by slices.
_ROW_BLOCK_BYTES = 2**27

# Copies of a batch and the components before it that one step of IncrementalPCA holds.
_SVD_COPIES = 7


class ReductionError(EncodingError):
    """A reduction that is impossible for this many images, features and bytes."""

    error_class = "bad_reduction"


def fitting_threads(
    solver: Solver,
    n_train: int,
    n_features: int,
    n_components: int,
    memory_bytes: float,
    *,
    n_test: int = 0,
    n_threads: int = CPU_COUNT,
) -> tuple[int, str]:
    """With how many threads a solver fits into memory, and a sentence with the numbers.

    Parameters
    ----------
    solver
        How principal components are computed.
    n_train, n_test
        Images.
    n_features, n_components
        Of the layer, and to be kept.
    memory_bytes
        Memory that may be used, beside that of the scores themselves.
    n_threads
        Cores that may be used: the most that is returned.

    Raises
    ------
    ReductionError
        If there are more components than training images − 1 or features, or if the solver needs
        more memory even with one thread.
    """
    most = min(n_train - 1, n_features)
    if not 1 <= n_components <= most:
        raise ReductionError(
            f"n_components is {n_components}, but {n_train} training images of {n_features} "
            f"features have 1 to {most} components; write one of these"
        )
    if solver not in get_args(Solver):
        raise ReductionError(f"solver is {solver!r}; write one of {', '.join(get_args(Solver))}")
    memory = f"{memory_bytes / 1e9:.2f} GB"
    size = f"{n_train} training images × {n_features} features"
    for threads in range(n_threads, 0, -1):
        needed = _needed_bytes(n_train, n_test, n_features, n_components, threads)
        if needed[solver] <= memory_bytes:
            return threads, f"{solver}: {size} need {needed[solver] / 1e9:.2f} GB of {memory}."
    needs = {name: f"{count / 1e9:.2f} GB" for name, count in needed.items()}
    others = ", ".join(f"{name} {need}" for name, need in needs.items() if name != solver)
    raise ReductionError(
        f"solver {solver} needs {needs[solver]} for {size} and {n_components} components, more "
        f"than the {memory} there are; give more memory (resources.encode.memory_gb) or fewer "
        f"components, or write pca: {{solver: …}} with one that fits ({others}); gram and "
        "covariance are exact, incremental and randomized are not"
    )


def _needed_bytes(
    n_train: int, n_test: int, n_features: int, n_components: int, n_threads: int
) -> dict[Solver, float]:
    """What each solver holds at once.

    Of results that are summed in a tree, one per thread and one per level wait.
    """
    n = n_train + n_test
    rows, columns = block_rows(n_features), min(n_features, BLOCK_COLUMNS)
    row_blocks_bytes = n_threads * 2.5 * 8 * min(rows, n) * n_features
    column_block_bytes = n_threads * 4 * n * columns
    slice_bytes = n_threads * 2 * 8 * n * min(columns, SLICE_COLUMNS)
    row_sums = n_threads + 2 + math.ceil(math.log2(-(-n_train // rows) + 1))
    column_sums = 2 * n_threads + 3 + math.ceil(math.log2(-(-n_features // columns) + 1))
    width = oversampled(n_components, n_train, n_features)
    return {
        "gram": 8 * max((n_threads + 1) * n**2, n**2 + 5 * n_train**2) + 3 * column_block_bytes,
        "covariance": 8 * max(row_sums, 5) * n_features**2 + row_blocks_bytes,
        "randomized": 8 * column_sums * n * width + 2 * column_block_bytes + slice_bytes,
        "incremental": 8 * _SVD_COPIES * (width + max(width, rows) + 1) * n_features
        + row_blocks_bytes,
    }


def oversampled(n_components: int, n_train: int, n_features: int) -> int:
    """Components or columns that an approximate solver works with."""
    return min(_OVERSAMPLING * n_components, n_train - 1, n_features)


def block_rows(n_features: int) -> int:
    """Rows of a block, a multiple of the 32 rows in which features are stored."""
    return max(1, _ROW_BLOCK_BYTES // (8 * 32 * max(1, n_features))) * 32
