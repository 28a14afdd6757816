"""Partial least squares on principal components: all neurons jointly, or each neuron on its own.

With U and λ the components of the training images, Uᵀ turns the centred features into the diagonal
matrix S = diag(sqrt(λ)) and the centred responses into L = UᵀY. PLS regression is not changed by
turning the rows of both, and responses outside the span of U have no covariance with the features,
so PLS of (S, L) is PLS of the features themselves. Each latent score is

    t ∝ (I − TTᵀ) S Sᵀ R q,    R = (I − TTᵀ) L,

with T the earlier scores and q the dominant eigenvector of Rᵀ S Sᵀ R, or what a power iteration
that ends early makes of it: deflating R and keeping the scores orthogonal is the same as deflating
S (Dayal & MacGregor 1997, J. Chemometrics 11:73-85,
doi:10.1002/(SICI)1099-128X(199701)11:1<73::AID-CEM435>3.0.CO;2-#). The fit is TTᵀL, and since S is
diagonal, the weights on the component scores are S⁻¹TTᵀL. Kernel PLS (Rosipal & Trejo 2001, JMLR
2:97-123) is the same algorithm with Gram products where S Sᵀ is a product by λ here.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from toolkit.encoding.components import PrincipalComponents
from toolkit.encoding.errors import ReadoutError
from toolkit.metrics import is_constant

# Covariance, against the most there could be, at which the responses hold nothing more to predict.
# Rounding leaves 1e-15; with λ above 1e-7 of the largest, what is left unfitted is below 1e-8.
_EXHAUSTED = 1e-12
# Default of scikit-learn's PLSRegression.
_MOST_ITERATIONS = 500


def pls_weights(
    components: PrincipalComponents,
    responses: NDArray[np.float64],
    n_components: int,
    *,
    per_neuron: bool = False,
    tolerance: float | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Weights on the component scores, and latent components used.

    Equal to scikit-learn's ``PLSRegression(n_components, scale=False)`` in the limit of a small
    ``tol``, or with the given one, but for components below numerical rank, which are not there.
    The default ``tol`` of PLSRegression, 1e-6, ends the power iteration for q early, so that its
    result depends on which neuron comes first: joint predictions of synthetic responses were
    measured to differ by up to 1.4 % of their norm. One neuron needs no iteration.

    With a tolerance, a step about as long as it ends the iteration or not by its last digits. A
    Gram matrix of float64 products has enough of them to end where PLSRegression does; with float32
    products (:func:`~toolkit.encoding.gram.product_dtype`) predictions are no further from
    PLSRegression's than those are from their own limit.

    Parameters
    ----------
    components
        Of the training images, k of them. All of them give PLS of the features; the leading ones
        give PLS of their PCA.
    responses
        Training responses, (n_train, n_neurons), finite.
    n_components
        Latent components. Fewer are used where they run out: where the residual responses have no
        covariance with the features beyond rounding (1e-12 of the largest possible), which is
        after k at the latest.
    per_neuron
        Fit every neuron on its own (PLS1) instead of all of them in one model (PLS2).
    tolerance
        PLSRegression's ``tol``: squared length of the step at which the power iteration ends. None
        for the limit.

    Returns
    -------
    weights
        (k, n_neurons). A prediction is ``scores @ weights + responses.mean(axis=0)``; weights are 0
        for a neuron of zero variance.
    n_used
        (n_neurons,) int, all equal unless ``per_neuron``; 0 where there is nothing to fit (a
        constant layer or neuron), and every prediction is the training mean.

    Raises
    ------
    ReadoutError
        If ``n_components`` is below 1.
    ValueError
        If the responses hold NaN or infinity and there is a component to fit.
    """
    if n_components < 1:
        raise ReadoutError(f"n_components is {n_components}; PLS needs 1 or more")
    if not np.isfinite(responses).all():
        raise ValueError("responses hold NaN or infinity")
    centred = np.where(is_constant(responses), 0, responses - responses.mean(axis=0))
    loadings = components.eigenvectors.T @ centred
    singular_values = np.sqrt(components.eigenvalues)

    weights = np.empty_like(loadings)
    n_used = np.empty(loadings.shape[1], dtype=np.intp)
    width = 1 if per_neuron else loadings.shape[1]
    for start in range(0, loadings.shape[1], width):
        neurons = slice(start, start + width)
        scores = _latent_scores(singular_values, loadings[:, neurons], n_components, tolerance)
        fitted = scores @ (scores.T @ loadings[:, neurons])
        weights[:, neurons] = fitted / singular_values[:, None]
        n_used[neurons] = scores.shape[1]
    return weights, n_used


def _latent_scores(
    singular_values: NDArray[np.float64],
    loadings: NDArray[np.float64],
    n_components: int,
    tolerance: float | None,
) -> NDArray[np.float64]:
    """T, (k, n_used), orthonormal.

    Directions are orthogonal, and λ is above 1e-7 of the largest, so at most 3.5 digits of a score
    cancel when the earlier ones are taken out: once is enough.
    """
    most = min(n_components, len(loadings))
    scores = np.empty((len(loadings), most), order="F")
    residual = loadings.copy()
    negligible = _EXHAUSTED * singular_values.max(initial=0) * np.linalg.norm(loadings)
    for used in range(most):
        covariance = singular_values[:, None] * residual  # (k, m)
        direction = covariance @ _dominant_eigenvector(covariance, tolerance)  # (k,)
        if np.linalg.norm(direction) <= negligible:
            return scores[:, :used]
        score, earlier = singular_values * direction, scores[:, :used]
        score -= earlier @ (earlier.T @ score)
        score /= np.linalg.norm(score)
        residual -= np.outer(score, score @ residual)
        scores[:, used] = score
    return scores


def _dominant_eigenvector(
    covariance: NDArray[np.float64], tolerance: float | None
) -> NDArray[np.float64]:
    """Unit eigenvector of CᵀC of the largest eigenvalue, (m,), or as near as the tolerance asks."""
    if tolerance is not None:
        return _power_iteration(covariance, tolerance)
    last = covariance.shape[1] - 1
    _, vectors = scipy.linalg.eigh(covariance.T @ covariance, subset_by_index=[last, last])
    return vectors[:, 0]


def _power_iteration(covariance: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """PLSRegression's: from the first neuron that has any covariance, until a step is short."""
    neuron = np.zeros(covariance.shape[1])
    neuron[np.argmax(covariance.any(axis=0))] = 1
    direction = _unit(covariance @ neuron)
    for _ in range(_MOST_ITERATIONS - 1):
        neuron = _unit(covariance.T @ direction)
        previous, direction = direction, _unit(covariance @ neuron)
        if np.sum((direction - previous) ** 2) < tolerance:
            break
    return neuron


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return vector / (np.linalg.norm(vector) or 1)
