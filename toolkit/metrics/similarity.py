"""How alike two representations of the same images are: RDM correlations and unbiased CKA."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import squareform
from scipy.stats import kendalltau, rankdata

from toolkit.metrics.errors import MetricError
from toolkit.metrics.regression import is_constant, pearson_r

# Root mean square of what U-centring leaves where all should be 0, against the largest entry of the
# Gram matrix; at most 3e-16 was seen (constant and equidistant images, 4 to 3,000 of them).
_HSIC_ROUNDING = 64 * np.finfo(np.float64).eps


def rdm_spearman(rdm_x: ArrayLike, rdm_y: ArrayLike) -> float:
    """Spearman correlation of two RDMs, ties given their average rank.

    As ``scipy.stats.spearmanr`` and rsatoolbox's ``"spearman"``; rsatoolbox's ``"rho-a"`` has no
    correction for ties and is closer to 0 where there are some.

    Parameters
    ----------
    rdm_x, rdm_y
        Representational dissimilarity matrices of the same images, (n, n). Only the strict upper
        triangle is read.

    Returns
    -------
    NaN where an RDM is constant.

    Raises
    ------
    MetricError
        If the RDMs are not square, differ in size, or hold NaN or infinity above the diagonal.
    """
    x, y = _checked_triangles(rdm_x, rdm_y)
    if is_constant(x) or is_constant(y):
        return float("nan")
    return float(pearson_r(rankdata(x), rankdata(y)))


def rdm_pearson(rdm_x: ArrayLike, rdm_y: ArrayLike) -> float:
    """Pearson correlation of two RDMs, rsatoolbox's ``"corr"``.

    Parameters, result and errors are those of :func:`rdm_spearman`.
    """
    return float(pearson_r(*_checked_triangles(rdm_x, rdm_y)))


def rdm_kendall_tau_a(rdm_x: ArrayLike, rdm_y: ArrayLike) -> float:
    """Kendall's τ_a of two RDMs: (concordant − discordant pairs) / all pairs of entries.

    Not corrected for ties, so a model RDM with ties is not favoured: Nili et al. (2014),
    doi:10.1371/journal.pcbi.1003553. From SciPy's τ_b = (C − D) / sqrt((N − T_x)(N − T_y)), T being
    the tied among all N pairs, in O(m log m) for m entries.

    Parameters, result and errors are those of :func:`rdm_spearman`; rsatoolbox's ``"tau-a"`` gives
    0, not NaN, where an RDM is constant.
    """
    x, y = _checked_triangles(rdm_x, rdm_y)
    if is_constant(x) or is_constant(y):
        return float("nan")
    tau_b = kendalltau(x, y, method="asymptotic").statistic
    return float(tau_b * np.sqrt(_untied_share(x)) * np.sqrt(_untied_share(y)))


def rank_percentiles(rdm: ArrayLike) -> NDArray[np.float64]:
    """Entries as percentiles of their rank, for display: 100 (rank − 1) / (entries − 1).

    Parameters
    ----------
    rdm
        (n, n). Only the strict upper triangle is read.

    Returns
    -------
    (n, n) float64, symmetric with zero diagonal; ties have their average rank; undefined (NaN)
    entries stay NaN and are not counted. A constant RDM is 50 throughout.

    Raises
    ------
    MetricError
        If the RDM is not square or has fewer than two images.
    """
    dissimilarities = _triangle(rdm)
    n_defined = int(np.count_nonzero(~np.isnan(dissimilarities)))
    ranks = rankdata(dissimilarities, nan_policy="omit")
    return squareform(100 * (ranks - 1) / max(n_defined - 1, 1), checks=False)


def unbiased_hsic(gram_x: ArrayLike, gram_y: ArrayLike) -> float:
    """Unbiased estimate of the Hilbert-Schmidt independence criterion.

    Song et al. (2012), JMLR 13:1393. It equals Σ_{i≠j} U_ij V_ij / (n (n − 3)) of the
    U-centred Gram matrices (Székely & Rizzo 2014, doi:10.1214/14-AOS1255), which is how it is
    computed: there nothing large cancels, and the origin of the features does not matter.

    Parameters
    ----------
    gram_x, gram_y
        Gram matrices of the same images, (n, n), symmetric, about any origin.

    Returns
    -------
    In the squared units of both; negative values occur where nothing is shared.

    Raises
    ------
    MetricError
        If the matrices are not square, differ in size, hold NaN or infinity, or have fewer than
        four images.
    """
    x, y = _checked_grams(gram_x, gram_y)
    n = len(x)
    return float(np.vdot(_u_centred(x), _u_centred(y)) / (n * (n - 3)))


def linear_cka_unbiased(gram_x: ArrayLike, gram_y: ArrayLike) -> float:
    """Linear CKA with the unbiased estimator, HSIC_xy / sqrt(HSIC_xx HSIC_yy).

    Kornblith et al. (2019), arXiv:1905.00414, with :func:`unbiased_hsic` in place of the biased
    estimator, as Nguyen et al. (2021), arXiv:2010.15327. Invariant to rotations, isotropic scaling
    and shifts of the features; 0 on average, so sometimes negative, for independent ones.

    Parameters and errors are those of :func:`unbiased_hsic`.

    Returns
    -------
    In [−1, 1]; NaN where a representation is constant, or keeps all images equally far apart (as
    one-hot features do).
    """
    x, y = _checked_grams(gram_x, gram_y)
    return float(np.clip(np.vdot(_u_direction(x), _u_direction(y)), -1, 1))


def _untied_share(x: NDArray[np.float64]) -> float:
    """Share of all pairs of entries that differ."""
    n_equal = np.unique(x, return_counts=True)[1].astype(np.float64)
    return float(1 - (n_equal * (n_equal - 1)).sum() / (len(x) * (len(x) - 1)))


def _triangle(rdm: ArrayLike) -> NDArray[np.float64]:
    """Entries above the diagonal, row by row."""
    rdm = np.asarray(rdm, dtype=np.float64)
    if rdm.ndim != 2 or rdm.shape[0] != rdm.shape[1] or len(rdm) < 2:
        raise MetricError(
            f"the RDM has shape {rdm.shape}: give (n, n) with at least two images; "
            "scipy.spatial.distance.squareform makes that of a condensed vector"
        )
    return rdm[np.triu_indices(len(rdm), k=1)]


def _checked_triangles(
    rdm_x: ArrayLike, rdm_y: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = _triangle(rdm_x), _triangle(rdm_y)
    if len(x) != len(y):
        raise MetricError(
            f"RDMs have shapes {np.shape(rdm_x)} and {np.shape(rdm_y)}: "
            "both must be of the same images"
        )
    for which, entries, rdm in (("first", x, rdm_x), ("second", y, rdm_y)):
        bad = np.flatnonzero(~np.isfinite(entries))
        if len(bad):
            row, column = (axis[bad[0]] for axis in np.triu_indices(len(np.asarray(rdm)), k=1))
            raise MetricError(
                f"{len(bad)} of {len(entries)} entries of the {which} RDM are NaN or infinite, the "
                f"first at images {row}, {column}: leave images without a defined dissimilarity "
                "(constant or zero responses) out of both RDMs"
            )
    return x, y


def _checked_grams(
    gram_x: ArrayLike, gram_y: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = np.asarray(gram_x, dtype=np.float64), np.asarray(gram_y, dtype=np.float64)
    if x.ndim != 2 or x.shape[0] != x.shape[1] or x.shape != y.shape:
        raise MetricError(
            f"Gram matrices have shapes {x.shape} and {y.shape}: both must be (n, n), "
            "of the same images"
        )
    if len(x) < 4:
        raise MetricError(f"{len(x)} images: the unbiased estimator needs at least four")
    for which, gram in (("first", x), ("second", y)):
        if not np.isfinite(gram).all():
            row, column = np.argwhere(~np.isfinite(gram))[0]
            raise MetricError(
                f"the {which} Gram matrix is not finite at images {row}, {column}: "
                "compute it again from finite features"
            )
    return x, y


def _u_centred(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """K_ij − Σ_k K_ik/(n−2) − Σ_k K_kj/(n−2) + Σ K/((n−1)(n−2)) off the diagonal, 0 on it."""
    n = len(gram)
    centred = gram - gram.mean()
    np.fill_diagonal(centred, 0)
    offsets = centred.sum(axis=0) / (n - 2)
    offsets -= offsets.sum() / (2 * (n - 1))
    centred -= offsets[:, None] + offsets
    np.fill_diagonal(centred, 0)
    return centred


def _u_direction(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """U-centred Gram matrix of unit norm, NaN where it is nothing but rounding."""
    centred = _u_centred(gram)
    norm = float(np.linalg.norm(centred))
    is_rounding = norm <= _HSIC_ROUNDING * len(gram) * float(np.abs(gram).max())
    return centred / (np.nan if is_rounding else norm)
