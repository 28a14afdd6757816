"""Exact principal components of a layer, from its Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from toolkit.encoding.gram import double_centred

# Rank of a Gram matrix of float32 products. Its rounding moved eigenvalues that are truly 0 to at
# most 2e-8 of the largest one (pixels and SqueezeNet layers of 640 photographs, synthetic low-rank
# features of 1,000 to 2,880 rows), and shifted the matrix by at most 9e-8 in spectral norm.
RANK_TOLERANCE = 1e-7


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of the features of some training images.

    With X the centred training features, X Xᵀ = U diag(λ) Uᵀ; the component scores are U sqrt(λ).

    Attributes
    ----------
    eigenvalues
        λ, (k,), descending, all above numerical rank.
    eigenvectors
        U, (n_train, k), orthonormal and orthogonal to the constant vector.
    gram_mean
        Mean over training rows of their Gram matrix before centring, (n_train,).
    """

    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    gram_mean: NDArray[np.float64]

    @property
    def n_components(self) -> int:
        """Number of components."""
        return len(self.eigenvalues)

    @property
    def is_complete(self) -> bool:
        """Whether the components span everything a centred response can be, n_train − 1."""
        return self.n_components == len(self.eigenvectors) - 1

    def leading(self, n_components: int | None) -> PrincipalComponents:
        """The components of largest variance: ``n_components`` of them, or all for None."""
        return PrincipalComponents(
            self.eigenvalues[:n_components], self.eigenvectors[:, :n_components], self.gram_mean
        )

    def scores(self) -> NDArray[np.float64]:
        """Component scores of the training images, (n_train, k): scikit-learn's, up to sign."""
        return self.eigenvectors * np.sqrt(self.eigenvalues)

    def project(self, cross_gram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Component scores of other images, (n_images, k).

        Parameters
        ----------
        cross_gram
            Gram matrix between these images and the training images, (n_images, n_train), cut from
            the same matrix as the training block.
        """
        about_training_mean = cross_gram - self.gram_mean
        about_training_mean -= about_training_mean.mean(axis=1, keepdims=True)
        return about_training_mean @ self.eigenvectors / np.sqrt(self.eigenvalues)


def principal_components(gram: NDArray[np.float64]) -> PrincipalComponents:
    """All principal components of the images whose Gram matrix is given.

    Components with λ ≤ ``RANK_TOLERANCE`` · λ_max are rounding and are dropped. The diagonal before
    centring takes the place of λ_max where it is larger, because the products were rounded at that
    size: so a layer that is constant over these images has no component.

    LAPACK ``syevd`` gives all of them: asking for the 1,000 leading ones of 2,592 (``syevr``,
    ``syevx``) was measured to take longer.

    Parameters
    ----------
    gram
        (n_train, n_train), symmetric, about any origin: the training rows and columns of a
        larger Gram matrix need no other centring than the one done here.
    """
    largest_before_centring = gram.diagonal().max()
    gram_mean = gram.mean(axis=0)
    eigenvalues, eigenvectors = scipy.linalg.eigh(
        double_centred(gram.copy()), driver="evd", overwrite_a=True, check_finite=False
    )
    above = eigenvalues > RANK_TOLERANCE * max(eigenvalues[-1], largest_before_centring)
    kept = np.flatnonzero(above)[::-1][: len(gram) - 1]
    return PrincipalComponents(
        eigenvalues[kept], np.ascontiguousarray(eigenvectors[:, kept]), gram_mean
    )
