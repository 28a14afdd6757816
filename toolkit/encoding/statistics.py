"""Sums over a layer's features: its Gram matrix, and what dissimilarities need beyond it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.encoding.errors import DamagedGramError, FeaturesError

# Rows held in float64 at a time: 17 MB of a block of 16,384 columns.
_SLAB_ROWS = 128

# What products leave of a squared norm that is truly 0, against the image's squared distance from
# the mean. Seen on constant and zero images among synthetic ones, 20 to 640 images, 30 to 60,000
# features, common means up to 1e3: at most 2e-7 for float32 and 2e-15 for float64.
_FLOAT32_ROUNDING = 1e-6
FLOAT64_ROUNDING = 1e-13


@dataclass(frozen=True)
class RowStatistics:
    """What the Gram matrix of column-centred features leaves out, over some of the columns.

    With μ the column means, their mean μ̄ over these columns, and X_c = X − 1μᵀ. Statistics of
    disjoint columns of the same images are merged by ``+`` (Chan et al. 1979), which subtracts no
    large numbers: a mean common to all features costs no digits.

    Attributes
    ----------
    n_features
        Number of columns, p.
    grand_mean
        μ̄.
    mean_spread
        Σ_j (μ_j − μ̄)².
    row_sums
        X_c 1, (n,).
    mean_products
        X_c (μ − μ̄1), (n,).
    """

    n_features: int
    grand_mean: float
    mean_spread: float
    row_sums: NDArray[np.float64]
    mean_products: NDArray[np.float64]

    def __add__(self, other: RowStatistics) -> RowStatistics:
        if len(self.row_sums) != len(other.row_sums):
            raise FeaturesError(
                f"blocks of {len(self.row_sums)} and {len(other.row_sums)} images: "
                "every block needs all rows of its columns"
            )
        n_features = self.n_features + other.n_features
        share = other.n_features / n_features
        difference = other.grand_mean - self.grand_mean
        return RowStatistics(
            n_features=n_features,
            grand_mean=self.grand_mean + share * difference,
            mean_spread=self.mean_spread
            + other.mean_spread
            + difference**2 * self.n_features * share,
            row_sums=self.row_sums + other.row_sums,
            mean_products=self.mean_products
            + other.mean_products
            + difference * ((1 - share) * other.row_sums - share * self.row_sums),
        )


@dataclass(frozen=True)
class LayerStatistics:
    """Inner products of all images' features, about their mean and about 0.

    The products about 0 are X Xᵀ = G + a1ᵀ + 1aᵀ + μ·μ with a = X_c μ.

    Attributes
    ----------
    gram
        G = X_c X_cᵀ, (n, n), of the column-centred features.
    rows
        The rest, over all columns.
    rounding
        Squared norm that may be rounding, (n,): an image of a smaller one is taken for constant.
    """

    gram: NDArray[np.float64]
    rows: RowStatistics
    rounding: NDArray[np.float64]

    @classmethod
    def from_gram(cls, gram: NDArray[np.float64], rows: RowStatistics) -> LayerStatistics:
        """Statistics from :func:`toolkit.encoding.gram_matrix` and :func:`block_statistics`.

        Parameters
        ----------
        gram
            (n, n), of column-centred features; its products may have been float32.
        rows
            Sum of the row statistics of the same blocks of columns.

        Raises
        ------
        FeaturesError
            If they are not of the same number of images.
        """
        if gram.shape != (len(rows.row_sums),) * 2:
            raise FeaturesError(
                f"the Gram matrix has shape {gram.shape}, but the row statistics are of "
                f"{len(rows.row_sums)} images: both must come from the same features"
            )
        return cls(gram, rows, _FLOAT32_ROUNDING * gram.diagonal())


def block_statistics(features: NDArray) -> RowStatistics:
    """Row statistics of a block of columns, accumulated in float64.

    Parameters
    ----------
    features
        (n, width), any real dtype. At most 128 rows at a time are held in float64.

    Raises
    ------
    FeaturesError
        If the block has not two axes, is empty, or holds NaN or infinity.
    """
    if features.ndim != 2 or features.size == 0:
        raise FeaturesError(f"features have shape {features.shape}: give (n_images, n_features)")
    with np.errstate(invalid="ignore", over="ignore"):
        mean = features.mean(axis=0, dtype=np.float64)
    if not np.isfinite(mean).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise FeaturesError(
            f"features are NaN or infinite, the first at row {row}, column {column} of the block: "
            "extract the layer again in float32, or leave it out"
        )
    totals = _column_totals(mean)
    slabs = [features[start : start + _SLAB_ROWS] for start in range(0, len(features), _SLAB_ROWS)]
    return _row_statistics(np.concatenate([(slab - mean) @ totals for slab in slabs]), mean)


def centred_statistics(centred: NDArray[np.floating], mean: NDArray[np.float64]) -> RowStatistics:
    """Row statistics of a block whose columns are centred already, in the block's own precision.

    Parameters
    ----------
    centred
        (n, width), float32 or float64, columns summing to 0.
    mean
        What was subtracted, (width,).
    """
    totals = _column_totals(mean).astype(centred.dtype)
    return _row_statistics((centred @ totals).astype(np.float64), mean)


def _column_totals(mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights of the columns in the two sums over a row, (width, 2)."""
    return np.stack([np.ones_like(mean), mean - mean.mean()], axis=1)


def _row_statistics(sums: NDArray[np.float64], mean: NDArray[np.float64]) -> RowStatistics:
    spread = mean - mean.mean()
    return RowStatistics(
        n_features=len(mean),
        grand_mean=float(mean.mean()),
        mean_spread=float(spread @ spread),
        row_sums=sums[:, 0],
        mean_products=sums[:, 1],
    )


def save_statistics(
    path: Path, statistics: LayerStatistics, *, features_id: str, layer: str
) -> None:
    """Write statistics as a NumPy ``.npz`` that says whose they are.

    Parameters
    ----------
    path
        Where; :func:`load_statistics` reads it.
    statistics
        Of all images.
    features_id, layer
        Whose they are.
    """
    rows = statistics.rows
    arrays: dict[str, Any] = {
        "gram": statistics.gram,
        "row_sums": rows.row_sums,
        "mean_products": rows.mean_products,
        "scalars": np.array([rows.n_features, rows.grand_mean, rows.mean_spread]),
    }
    with path.open("wb") as file:
        np.savez(file, of=_owner(features_id, layer), sha256=_digest(arrays), **arrays)


def load_statistics(path: Path, *, features_id: str, layer: str, n_stimuli: int) -> LayerStatistics:
    """Read what :func:`save_statistics` wrote.

    Parameters
    ----------
    path
        Of the file.
    features_id, layer
        Whose statistics are wanted.
    n_stimuli
        How many images they are of.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    DamagedGramError
        If the file is damaged, holds other numbers than were written, is something else, or is of
        another layer or number of images.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        of, sha256 = arrays.pop("of").tobytes(), arrays.pop("sha256").tobytes()
        if sha256 != _digest(arrays).tobytes():
            raise ValueError("its numbers are not those that were written")
        n_features, grand_mean, mean_spread = arrays.pop("scalars")
        gram = arrays.pop("gram")
        rows = RowStatistics(int(n_features), float(grand_mean), float(mean_spread), **arrays)
        statistics = LayerStatistics.from_gram(gram, rows)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception:  # NumPy's own words would advise to unpickle the file
        raise DamagedGramError(f"{path} is damaged: it is no whole Gram matrix") from None
    if of != _owner(features_id, layer).tobytes():
        raise DamagedGramError(f"{path} is the Gram matrix of another layer or other features")
    if len(gram) != n_stimuli:
        raise DamagedGramError(f"{path} is of {len(gram)} images, not of {n_stimuli}")
    return statistics


def _digest(arrays: Mapping[str, NDArray[np.float64]]) -> NDArray[np.uint8]:
    """SHA-256 over arrays by their names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape} ".encode())
        sha.update(np.ascontiguousarray(arrays[name]).data)
    return np.frombuffer(sha.digest(), np.uint8)


def _owner(features_id: str, layer: str) -> NDArray[np.uint8]:
    """Whose statistics are, as bytes: text in NumPy's own form loses zeros at its end."""
    return np.frombuffer(json.dumps([features_id, layer]).encode(), np.uint8)
