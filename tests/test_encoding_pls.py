"""PLS on principal components against scikit-learn's PLSRegression of the features themselves."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import PLSRegression
from sklearn.decomposition import PCA

from toolkit.encoding import ReadoutError, principal_components
from toolkit.encoding.pls import pls_weights

N_TEST = 30


def synthetic(n_train, p, n_neurons, *, share_of_rank=1.0, decay=0.5, seed=0):
    """Synthetic features and responses of training and test images."""
    rng = np.random.default_rng(seed)
    rank = int(share_of_rank * min(n_train, p))
    latent = rng.standard_normal((n_train + N_TEST, rank)) * np.arange(1, rank + 1) ** -decay
    mixing = np.linalg.qr(rng.standard_normal((p, rank)))[0].T
    X = latent @ mixing + rng.standard_normal(p)
    Y = X @ rng.standard_normal((p, n_neurons))
    Y = Y / Y.std(axis=0) + rng.standard_normal(Y.shape) + np.arange(n_neurons)
    return X[:n_train], X[n_train:], Y[:n_train]


def gram_of(X_train, X_test):
    """Exact Gram blocks, in float64."""
    centre = X_train.mean(axis=0)
    return (X_train - centre) @ (X_train - centre).T, (X_test - centre) @ (X_train - centre).T


def predict(X_train, X_test, Y, n_components, *, per_neuron=False):
    gram, cross_gram = gram_of(X_train, X_test)
    components = principal_components(gram)
    weights, n_used = pls_weights(components, Y, n_components, per_neuron=per_neuron)
    return components.project(cross_gram) @ weights + Y.mean(axis=0), n_used


def joint_by_sklearn(X_train, X_test, Y, n_components):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not converged
        model = PLSRegression(n_components, scale=False, tol=1e-26, max_iter=100_000)
        return model.fit(X_train, Y).predict(X_test).reshape(len(X_test), -1)


@pytest.mark.parametrize("tolerance", [1e-6, 1e-3])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_tolerance_ends_the_iteration_where_scikit_learn_does(tolerance, seed) -> None:
    X_train, X_test, Y = synthetic(100, 400, 10, decay=0.2, seed=seed)
    gram, cross_gram = gram_of(X_train, X_test)
    components = principal_components(gram)
    peer = PLSRegression(25, scale=False, tol=tolerance).fit(X_train, Y).predict(X_test)
    for accepted, used in ((1e-10, tolerance), (np.inf, None)):
        weights, _ = pls_weights(components, Y, 25, tolerance=used)
        ours = components.project(cross_gram) @ weights + Y.mean(axis=0)
        assert relative_error(ours, peer) < accepted
    assert relative_error(ours, peer) > 1e-4


@pytest.mark.parametrize("seed", range(4))
def test_with_float32_products_it_is_nearer_than_scikit_learn_is_to_its_limit(seed) -> None:
    """Large layers: a step about as long as the tolerance may be counted differently."""
    X_train, X_test, Y = synthetic(120, 2000, 10, decay=0.2, seed=seed)
    X = np.vstack([X_train, X_test]).astype(np.float32)
    X_train, X_test = X[:120].astype(float), X[120:].astype(float)
    centred = X - X.mean(axis=0)
    gram = (centred @ centred.T).astype(float)
    components = principal_components(gram[:120, :120])
    by_default = PLSRegression(25, scale=False).fit(X_train, Y).predict(X_test)
    limit = joint_by_sklearn(X_train, X_test, Y, 25)
    for tolerance, peer, bound in (
        (None, limit, 1e-4),
        (1e-6, by_default, relative_error(by_default, limit)),
    ):
        weights, _ = pls_weights(components, Y, 25, tolerance=tolerance)
        ours = components.project(gram[120:, :120]) @ weights + Y.mean(axis=0)
        assert relative_error(ours, peer) < bound


def per_neuron_by_sklearn(X_train, X_test, Y, n_components):
    return np.column_stack(
        [
            PLSRegression(n_components, scale=False).fit(X_train, y).predict(X_test).ravel()
            for y in Y.T
        ]
    )


def relative_error(ours, theirs):
    """Largest difference of a neuron's predictions, in standard deviations of theirs."""
    return (np.abs(ours - theirs) / theirs.std(axis=0)).max()


SHAPES = [
    pytest.param(100, 400, 10, 5, id="wide"),
    pytest.param(100, 40, 10, 25, id="narrow"),
    pytest.param(120, 1000, 40, 25, id="25 components"),
    pytest.param(100, 60, 1, 25, id="one neuron"),
    pytest.param(60, 20, 50, 8, id="more neurons than features"),
    pytest.param(60, 500, 3, 1, id="one component"),
]
SPECTRA = [
    pytest.param({"decay": 0.2}, id="flat, all dimensions"),
    pytest.param({"decay": 1.0, "share_of_rank": 0.75}, id="steep"),
]


@pytest.mark.parametrize("n_train, p, n_neurons, k", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_joint_predictions_of_unseen_images_are_those_of_sklearn(
    n_train, p, n_neurons, k, spectrum
):
    X_train, X_test, Y = synthetic(n_train, p, n_neurons, **spectrum)
    ours, n_used = predict(X_train, X_test, Y, k)
    assert relative_error(ours, joint_by_sklearn(X_train, X_test, Y, k)) < 1e-8
    np.testing.assert_array_equal(n_used, np.full(n_neurons, k))


@pytest.mark.parametrize("n_train, p, n_neurons, k", SHAPES)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_per_neuron_predictions_are_those_of_sklearn_on_one_target(
    n_train, p, n_neurons, k, spectrum
):
    X_train, X_test, Y = synthetic(n_train, p, n_neurons, **spectrum)
    ours, n_used = predict(X_train, X_test, Y, k, per_neuron=True)
    assert relative_error(ours, per_neuron_by_sklearn(X_train, X_test, Y, k)) < 1e-8
    np.testing.assert_array_equal(n_used, np.full(n_neurons, k))


def test_joint_and_per_neuron_are_different_models_but_the_same_for_one_neuron():
    X_train, X_test, Y = synthetic(80, 200, 4)
    joint, _ = predict(X_train, X_test, Y, 3)
    alone, _ = predict(X_train, X_test, Y, 3, per_neuron=True)
    assert relative_error(joint, alone) > 0.01
    first_joint, _ = predict(X_train, X_test, Y[:, :1], 3)
    np.testing.assert_allclose(first_joint[:, 0], alone[:, 0], rtol=1e-12)


@pytest.mark.parametrize("per_neuron", [False, True])
def test_a_float32_gram_matrix_of_all_images_is_precise_enough(per_neuron):
    X_train, X_test, Y = synthetic(120, 2000, 10)
    X = np.vstack([X_train, X_test]).astype(np.float32)
    centred = X - X.mean(axis=0)
    gram = (centred @ centred.T).astype(float)
    components = principal_components(gram[:120, :120])
    weights, _ = pls_weights(components, Y, 25, per_neuron=per_neuron)
    ours = components.project(gram[120:, :120]) @ weights + Y.mean(axis=0)
    by_sklearn = per_neuron_by_sklearn if per_neuron else joint_by_sklearn
    assert relative_error(ours, by_sklearn(X_train, X_test, Y, 25)) < 1e-4


@pytest.mark.parametrize("per_neuron", [False, True])
def test_components_below_numerical_rank_matter_little(per_neuron):
    X_train, X_test, Y = synthetic(100, 400, 10, decay=1.0)
    assert principal_components(gram_of(X_train, X_test)[0]).n_components < 99
    ours, _ = predict(X_train, X_test, Y, 5, per_neuron=per_neuron)
    by_sklearn = per_neuron_by_sklearn if per_neuron else joint_by_sklearn
    assert relative_error(ours, by_sklearn(X_train, X_test, Y, 5)) < 1e-3


def test_leading_components_give_pls_of_the_pca():
    X_train, X_test, Y = synthetic(100, 300, 6)
    gram, cross_gram = gram_of(X_train, X_test)
    leading = principal_components(gram).leading(40)
    weights, _ = pls_weights(leading, Y, 10)
    pca = PCA(40, svd_solver="full").fit(X_train)
    expected = joint_by_sklearn(pca.transform(X_train), pca.transform(X_test), Y, 10)
    ours = leading.project(cross_gram) @ weights + Y.mean(axis=0)
    assert relative_error(ours, expected) < 1e-8


@pytest.mark.parametrize("per_neuron", [False, True])
def test_collinear_features_of_rank_7_give_7_components_which_are_least_squares(per_neuron):
    X_train, X_test, Y = synthetic(100, 300, 5, share_of_rank=0.07)
    ours, n_used = predict(X_train, X_test, Y, 25, per_neuron=per_neuron)
    np.testing.assert_array_equal(n_used, np.full(5, 7))
    design = X_train - X_train.mean(axis=0)
    coefficients = np.linalg.lstsq(design, Y - Y.mean(axis=0), rcond=1e-10)[0]
    expected = (X_test - X_train.mean(axis=0)) @ coefficients + Y.mean(axis=0)
    assert relative_error(ours, expected) < 1e-8


def test_a_neuron_stops_where_its_own_covariance_with_the_features_runs_out():
    # features of equal variance: one component already gives least squares
    rng = np.random.default_rng(0)
    X = np.linalg.qr(np.column_stack([np.ones(80), rng.standard_normal((80, 13))]))[0][:, 1:]
    Y = X @ rng.standard_normal((13, 3)) + 2
    ours, n_used = predict(X, X, Y, 10, per_neuron=True)
    np.testing.assert_array_equal(n_used, [1, 1, 1])
    np.testing.assert_allclose(ours, Y, atol=1e-10)
    ours, n_used = predict(X, X, Y, 10)
    np.testing.assert_array_equal(n_used, [3, 3, 3])
    np.testing.assert_allclose(ours, Y, atol=1e-10)


@pytest.mark.parametrize("per_neuron", [False, True])
def test_a_constant_layer_predicts_the_training_mean(per_neuron):
    _, _, Y = synthetic(40, 10, 3)
    components = principal_components(np.zeros((40, 40)))
    weights, n_used = pls_weights(components, Y, 25, per_neuron=per_neuron)
    assert weights.shape == (0, 3)
    np.testing.assert_array_equal(n_used, [0, 0, 0])
    predictions = components.project(np.zeros((2, 40))) @ weights + Y.mean(axis=0)
    np.testing.assert_array_equal(predictions, np.tile(Y.mean(axis=0), (2, 1)))


@pytest.mark.parametrize("per_neuron, expected", [(False, [5, 5, 5]), (True, [5, 0, 5])])
def test_a_constant_neuron_is_predicted_by_its_mean_and_spoils_no_other(per_neuron, expected):
    X_train, X_test, Y = synthetic(60, 100, 3)
    Y[:, 1] = 0.1
    ours, n_used = predict(X_train, X_test, Y, 5, per_neuron=per_neuron)
    np.testing.assert_allclose(ours[:, 1], 0.1)
    np.testing.assert_array_equal(n_used, expected)
    varying = [0, 2]
    others, _ = predict(X_train, X_test, Y[:, varying], 5, per_neuron=per_neuron)
    np.testing.assert_allclose(ours[:, varying], others, rtol=1e-10)


def test_only_constant_neurons_leave_nothing_to_fit():
    X_train, X_test, _ = synthetic(60, 100, 3)
    ours, n_used = predict(X_train, X_test, np.full((60, 2), 0.3), 5)
    np.testing.assert_allclose(ours, 0.3)
    np.testing.assert_array_equal(n_used, [0, 0])


@pytest.mark.parametrize("per_neuron", [False, True])
def test_missing_responses_are_refused(per_neuron):
    X_train, X_test, Y = synthetic(40, 60, 3)
    Y[5, 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        predict(X_train, X_test, Y, 5, per_neuron=per_neuron)


def test_no_component_is_refused():
    X_train, X_test, Y = synthetic(40, 60, 3)
    with pytest.raises(ReadoutError, match="n_components is 0"):
        predict(X_train, X_test, Y, 0)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**16),
    order=st.permutations(range(5)),
    response_unit=st.sampled_from([1e-9, 1.0, 1e6]),
    feature_unit=st.sampled_from([1e-6, 1.0, 1e5]),
    per_neuron=st.booleans(),
)
def test_order_of_neurons_and_units_do_not_matter(
    seed, order, response_unit, feature_unit, per_neuron
):
    X_train, X_test, Y = synthetic(40, 60, 5, seed=seed)
    expected, n_expected = predict(X_train, X_test, Y, 4, per_neuron=per_neuron)
    ours, n_used = predict(
        X_train * feature_unit,
        X_test * feature_unit,
        Y[:, order] * response_unit,
        4,
        per_neuron=per_neuron,
    )
    assert relative_error(ours / response_unit, expected[:, order]) < 1e-6
    np.testing.assert_array_equal(n_used, n_expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**16), per_neuron=st.booleans())
def test_each_component_fits_the_training_responses_better(seed, per_neuron):
    X_train, _, Y = synthetic(40, 60, 5, seed=seed)
    errors = [
        np.square(predict(X_train, X_train, Y, k, per_neuron=per_neuron)[0] - Y).sum(axis=0)
        for k in range(1, 8)
    ]
    assert (np.diff(errors, axis=0) <= 1e-10 * errors[0]).all()
