"""Dissimilarities between a layer's responses to images, from its one pass over the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from toolkit.encoding.errors import EncodingError, ResponsesError
from toolkit.encoding.gram import double_centred
from toolkit.encoding.statistics import (
    FLOAT64_ROUNDING,
    LayerStatistics,
    RowStatistics,
    block_statistics,
)
from toolkit.metrics.similarity import (
    linear_cka_unbiased,
    rdm_kendall_tau_a,
    rdm_pearson,
    rdm_spearman,
)


def array_statistics(features: ArrayLike) -> LayerStatistics:
    """Statistics of an array that fits in memory, in float64: for example neurons' responses.

    Parameters
    ----------
    features
        (n_images, n_features or n_neurons).

    Raises
    ------
    FeaturesError
        As :func:`block_statistics`.
    """
    features = np.asarray(features, dtype=np.float64)
    rows = block_statistics(features)
    centred = features - features.mean(axis=0)
    gram = double_centred(centred @ centred.T)
    return LayerStatistics(gram, rows, FLOAT64_ROUNDING * gram.diagonal())


def restrict(stats: LayerStatistics, images: ArrayLike) -> LayerStatistics:
    """Statistics of some of the images, about their own mean.

    Parameters
    ----------
    images
        Row numbers, in the order wanted, or a boolean mask (n,).

    Raises
    ------
    EncodingError
        If there is no image left, or a row that does not exist.
    """
    n = len(stats.gram)
    try:
        kept = np.arange(n)[np.asarray(images)]
    except IndexError as error:
        raise EncodingError(
            f"images are neither row numbers below {n} nor a mask of {n} values: {error}"
        ) from error
    if kept.ndim != 1 or len(kept) == 0:
        raise EncodingError("no image is left: give at least one row number")
    return _recentred(
        stats,
        gram=stats.gram[np.ix_(kept, kept)],
        row_sums=stats.rows.row_sums[kept],
        mean_products=stats.rows.mean_products[kept],
        rounding=stats.rounding[kept],
    )


def average_over_objects(
    stats: LayerStatistics, labels: Sequence[str]
) -> tuple[LayerStatistics, tuple[str, ...]]:
    """Statistics of the features averaged over the images of each object.

    Averaging is linear, X → AX, so the Gram matrix becomes A G Aᵀ and is centred anew: objects
    weigh the same, whatever their number of images.

    Parameters
    ----------
    labels
        Object of each image, n of them.

    Returns
    -------
    The statistics and the object names, sorted: row i is of object i.

    Raises
    ------
    EncodingError
        If there is not one label per image.
    """
    if len(labels) != len(stats.gram):
        raise EncodingError(
            f"{len(labels)} labels for {len(stats.gram)} images: give the object of each image"
        )
    names, object_of_image = np.unique(np.asarray(labels), return_inverse=True)
    averaging = (object_of_image == np.arange(len(names))[:, None]).astype(np.float64)
    averaging /= averaging.sum(axis=1, keepdims=True)
    products = averaging @ stats.gram @ averaging.T
    averaged = _recentred(
        stats,
        gram=(products + products.T) / 2,
        row_sums=averaging @ stats.rows.row_sums,
        mean_products=averaging @ stats.rows.mean_products,
        rounding=(averaging @ np.sqrt(stats.rounding)) ** 2,
    )
    return averaged, tuple(str(name) for name in names)


def correlation_rdm(stats: LayerStatistics) -> NDArray[np.float64]:
    """Correlation distance, 1 − Pearson r across features between the responses to two images.

    rsatoolbox's ``"correlation"``, ``1 - np.corrcoef(features)``.

    Returns
    -------
    (n, n) float64 in [0, 2], exactly symmetric, with zero diagonal. An image to which all features
    respond alike (a dead layer's zeros, say) has no correlation: its row and column are NaN, the
    diagonal too.
    """
    rows = stats.rows
    row_centred = stats.gram - np.outer(rows.row_sums, rows.row_sums) / rows.n_features
    return _angular_rdm(row_centred, rows.mean_products, rows.mean_spread, stats.rounding)


def cosine_rdm(stats: LayerStatistics) -> NDArray[np.float64]:
    """Cosine distance, 1 − cos of the angle about 0 between the responses to two images.

    Returns
    -------
    As :func:`correlation_rdm`; the row and column of an image without any response are NaN.
    """
    rows = stats.rows
    mean_products = rows.mean_products + rows.grand_mean * rows.row_sums
    mean_square = rows.mean_spread + rows.n_features * rows.grand_mean**2
    return _angular_rdm(stats.gram, mean_products, mean_square, stats.rounding)


def euclidean_rdm(stats: LayerStatistics | NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distance ‖x_i − x_j‖ between the responses to two images.

    Not squared and not divided by anything, as SciPy's ``pdist``. rsatoolbox's ``"euclidean"`` is
    its square over the number of features: of the same ranks, but of another Pearson correlation.

    Parameters
    ----------
    stats
        Statistics, or a Gram matrix (n, n) about any origin. Where its products were float32,
        distances below about 3e-4 of an image's distance from the mean are rounding.

    Returns
    -------
    (n, n) float64, exactly symmetric, with zero diagonal, in the units of the features.
    """
    gram = stats.gram if isinstance(stats, LayerStatistics) else stats
    return np.sqrt(np.maximum(_squared_distances(gram), 0))


def _squared_distances(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    squares = gram.diagonal()
    return squares[:, None] + squares - 2 * gram


def _angular_rdm(
    gram: NDArray[np.float64],
    mean_products: NDArray[np.float64],
    mean_square: float,
    rounding: NDArray[np.float64],
) -> NDArray[np.float64]:
    """1 − cos of the angle between rows y_i = g_i + m, from g_i·g_j, g_i·m and m·m.

    Computed as (‖y_i − y_j‖² − (‖y_i‖ − ‖y_j‖)²) / (2 ‖y_i‖ ‖y_j‖), in whose numerator m·m does
    not occur: small angles between rows that are close to their mean keep their digits.
    """
    about_mean_square = gram.diagonal() + 2 * mean_products
    squares = about_mean_square + mean_square
    norms = np.sqrt(np.where(squares <= rounding, np.nan, squares))
    norm_differences = (about_mean_square[:, None] - about_mean_square) / (norms[:, None] + norms)
    rdm = _squared_distances(gram) - norm_differences**2
    rdm /= 2 * np.outer(norms, norms)
    return np.clip(rdm, 0, 2, out=rdm)


def _recentred(
    stats: LayerStatistics,
    *,
    gram: NDArray[np.float64],
    row_sums: NDArray[np.float64],
    mean_products: NDArray[np.float64],
    rounding: NDArray[np.float64],
) -> LayerStatistics:
    """Statistics of new rows, given about the old mean μ, about their own mean μ + δ.

    ``gram`` is centred in place. Its column means are the rows' products with δ.
    """
    rows = stats.rows
    shift_products = gram.mean(axis=0)
    shift_square = shift_products.mean()
    shift_sum = row_sums.mean()
    shift_mean = shift_sum / rows.n_features

    products = mean_products + shift_products - shift_mean * row_sums
    spread = rows.mean_spread + 2 * mean_products.mean() + shift_square - shift_sum * shift_mean
    return LayerStatistics(
        gram=double_centred(gram),
        rows=RowStatistics(
            n_features=rows.n_features,
            grand_mean=rows.grand_mean + float(shift_mean),
            mean_spread=max(float(spread), 0.0),
            row_sums=row_sums - shift_sum,
            mean_products=products - products.mean(),
        ),
        rounding=rounding,
    )


_RDMS = {"correlation": correlation_rdm, "euclidean": euclidean_rdm, "cosine": cosine_rdm}
_COMPARISONS = {
    "spearman": rdm_spearman,
    "pearson": rdm_pearson,
    "kendall_tau_a": rdm_kendall_tau_a,
}


def compare_representations(
    layer: LayerStatistics,
    responses: NDArray[np.float64],
    readout: Mapping[str, str],
    *,
    object_names: Sequence[str] | None,
) -> float:
    """Similarity of a layer and the neurons over the same images.

    Parameters
    ----------
    layer
        Statistics of the layer over all images.
    responses
        (n_images, n_neurons), complete.
    readout
        ``{"kind": "cka"}``, or ``{"kind": "rdm", "distance", "comparison", "level"}``: distance
        correlation, euclidean or cosine; comparison spearman, pearson or kendall_tau_a; level
        image or object (responses and features averaged over each object's images first).
    object_names
        Object of each image, for level object.

    Raises
    ------
    ResponsesError
        If a response is missing.
    EncodingError
        If level is object and there are no objects.
    toolkit.metrics.MetricError
        If an image or object has no pattern to compare.
    """
    if not np.isfinite(responses).all():
        raise ResponsesError(
            f"{(~np.isfinite(responses)).sum()} response(s) are missing, and {readout['kind']} "
            "compares images over all neurons: leave out the neurons or images that are incomplete"
        )
    neurons = array_statistics(responses)
    if readout["kind"] == "cka":
        return linear_cka_unbiased(layer.gram, neurons.gram)
    if readout["level"] == "object":
        if object_names is None:
            raise EncodingError("level object needs object names; the data set has none")
        layer, _ = average_over_objects(layer, object_names)
        neurons, _ = average_over_objects(neurons, object_names)
    rdm, compare = _RDMS[readout["distance"]], _COMPARISONS[readout["comparison"]]
    return compare(rdm(layer), rdm(neurons))
