"""Principal components from a Gram matrix, against scikit-learn's full PCA of the features."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from toolkit.encoding import column_slices, gram_matrix, principal_components


def synthetic_features(n, p, rank=None, seed=0):
    rng = np.random.default_rng(seed)
    rank = min(n, p) if rank is None else rank
    latent = rng.standard_normal((n, rank)) * np.arange(1, rank + 1) ** -0.5
    return (latent @ rng.standard_normal((rank, p)) / rank**0.5).astype(np.float32)


def gram_of(X):
    return gram_matrix(lambda s: X[:, s], column_slices(X.shape[1], 64), len(X))


def up_to_sign(ours, theirs):
    return ours * np.sign((ours * theirs).sum(axis=0))


SHAPES = [(120, 2000), (120, 50)]


@pytest.mark.parametrize("n, p", SHAPES)
@pytest.mark.parametrize("shift", [0, 1e4])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_are_those_of_full_pca_for_any_training_subset(n, p, shift, seed):
    X = synthetic_features(n, p) + np.float32(shift)
    order = np.random.default_rng(seed).permutation(n)
    train, test = order[:90], order[90:]
    k = 30
    pca = PCA(k, svd_solver="full").fit(X[train].astype(float))
    gram = gram_of(X)
    ours = principal_components(gram[np.ix_(train, train)]).leading(k)
    expected = pca.transform(X[train].astype(float))

    scale = expected.std(axis=0)
    signed = up_to_sign(ours.scores(), expected)
    assert np.abs((signed - expected) / scale).max() < 1e-4
    signs = np.sign((ours.scores() * expected).sum(axis=0))
    held_out = ours.project(gram[np.ix_(test, train)]) * signs
    assert np.abs((held_out - pca.transform(X[test].astype(float))) / scale).max() < 1e-4
    np.testing.assert_allclose(
        ours.eigenvalues / (len(train) - 1), pca.explained_variance_, rtol=1e-5
    )


@pytest.mark.parametrize("n, p, rank, expected", [(80, 3000, 20, 20), (80, 20, None, 20)])
def test_components_below_numerical_rank_are_dropped(n, p, rank, expected):
    components = principal_components(gram_of(synthetic_features(n, p, rank)))
    assert components.n_components == expected
    assert not components.is_complete


def test_wide_features_have_one_component_less_than_images():
    components = principal_components(gram_of(synthetic_features(80, 3000)))
    assert components.n_components == 79
    assert components.is_complete


def test_repeated_images_lower_the_rank():
    X = synthetic_features(60, 3000)
    X[40:] = X[:20]
    assert principal_components(gram_of(X)).n_components == 39


def test_a_constant_layer_has_no_component():
    assert principal_components(np.zeros((30, 30))).n_components == 0


def test_a_layer_that_is_constant_over_the_training_images_only_has_no_component():
    X = synthetic_features(60, 500)
    X[:40] = X[0]
    gram = gram_of(X)
    assert principal_components(gram[:40, :40]).n_components == 0


def test_vectors_are_orthonormal_and_ignore_the_mean():
    vectors = principal_components(gram_of(synthetic_features(120, 2000))).eigenvectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(119), atol=1e-12)
    np.testing.assert_allclose(vectors.sum(axis=0), 0, atol=1e-10)


def test_the_gram_matrix_given_is_left_as_it_was():
    gram = gram_of(synthetic_features(50, 300))
    before = gram.copy()
    principal_components(gram)
    np.testing.assert_array_equal(gram, before)
