"""How principal components are computed, decided from sizes and memory alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from dask.system import CPU_COUNT

from toolkit.encoding.errors import EncodingError
from toolkit.encoding.gram import BLOCK_COLUMNS
from toolkit.encoding.protocols import Split
from toolkit.encoding.readouts import Readout

Solver = Literal["gram", "covariance", "incremental", "randomized"]

# The eigenvectors of a larger matrix take longer than an approximation is worth.
EXACT_MAX_SIDE = 20_000

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


def solver_of(
    readout: Readout,
    splits: Sequence[Split],
    n_features: int,
    *,
    memory_bytes: float,
    wanted: Solver | Literal["auto"] = "auto",
    n_threads: int = CPU_COUNT,
) -> tuple[Solver, str]:
    """How a read-out's components are computed, and why; ``"gram"`` for one without components.

    Raises
    ------
    ReductionError
        If the solver wanted, or every one, needs more memory.
    """
    if readout.kind == "pls" or readout.n_components is None:
        return "gram", "gram: this read-out uses all components."
    train, test = splits[0]
    k = min(readout.n_components, n_features, len(train) - 1)
    return choose_solver(
        len(train), n_features, k, memory_bytes, wanted, n_test=len(test), n_threads=n_threads
    )


def choose_solver(
    n_train: int,
    n_features: int,
    n_components: int,
    memory_bytes: float,
    wanted: Solver | Literal["auto"] = "auto",
    *,
    n_test: int = 0,
    n_threads: int = CPU_COUNT,
) -> tuple[Solver, str]:
    """The solver for a layer of this size, and why, in a sentence with the numbers.

    ``"auto"`` is the first of gram, covariance, randomized and incremental that fits into memory;
    an exact one only if its matrix has at most ``EXACT_MAX_SIDE`` rows.

    Parameters
    ----------
    n_train, n_test
        Images.
    n_features, n_components
        Of the layer, and to be kept.
    memory_bytes
        Memory that may be used, beside that of the scores themselves.
    wanted
        A solver, or ``"auto"``.
    n_threads
        Cores that will be used.

    Raises
    ------
    ReductionError
        If there are more components than training images − 1 or features, or if the solver that is
        wanted, or every one, needs more memory.
    """
    most = min(n_train - 1, n_features)
    if not 1 <= n_components <= most:
        raise ReductionError(
            f"n_components is {n_components}, but {n_train} training images of {n_features} "
            f"features have 1 to {most} components; write one of these"
        )
    if wanted not in ("auto", *get_args(Solver)):
        known = ", ".join(("auto", *get_args(Solver)))
        raise ReductionError(f"solver is {wanted!r}; write one of {known}")
    needed_bytes = _needed_bytes(n_train, n_test, n_features, n_components, n_threads)
    needs = {name: f"{count / 1e9:.2f} GB" for name, count in needed_bytes.items()}
    memory = f"{memory_bytes / 1e9:.2f} GB"
    size = f"{n_train} training images × {n_features} features"
    if wanted != "auto":
        if needed_bytes[wanted] > memory_bytes:
            others = ", ".join(f"{name} {need}" for name, need in needs.items() if name != wanted)
            raise ReductionError(
                f"solver {wanted} needs {needs[wanted]} for {size} and {n_components} components, "
                f"more than the {memory} there are (others: {others}); choose one that fits, fewer "
                "threads or components, or more memory"
            )
        return wanted, f"{wanted}, as asked: {size} need {needs[wanted]} of {memory}."
    sides = {"gram": n_train, "covariance": n_features}
    passed_over: list[str] = []
    for solver in needed_bytes:
        side = sides.get(solver, 0)
        if needed_bytes[solver] <= memory_bytes and side <= EXACT_MAX_SIDE:
            why = f" ({'; '.join(passed_over)})" if passed_over else ""
            return solver, f"{solver}: {size} need {needs[solver]} of {memory}{why}."
        passed_over.append(
            f"{solver} would decompose {side} × {side}, more than {EXACT_MAX_SIDE} squared"
            if side > EXACT_MAX_SIDE
            else f"{solver} would need {needs[solver]}"
        )
    raise ReductionError(
        f"no solver fits {size} and {n_components} components into {memory}: "
        f"{'; '.join(passed_over)}; give more memory, fewer threads or fewer components"
    )


def _needed_bytes(
    n_train: int, n_test: int, n_features: int, n_components: int, n_threads: int
) -> dict[Solver, float]:
    """What each solver holds at once, in the order in which ``"auto"`` prefers them.

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
