"""Closed forms against scikit-learn and against refitting."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, LeaveOneOut

from toolkit.encoding import ReadoutError, column_slices, gram_matrix, principal_components
from toolkit.encoding.ridge import (
    alpha_per_neuron,
    kfold_squared_errors,
    leave_one_out_squared_errors,
    ridge_weights,
    shared_alpha,
)

ALPHAS = np.logspace(0, 8, 9)


def synthetic_problem(n=110, p=900, m=5, feature_scale=30.0, seed=0):
    """Features of the size networks have, so that 1…1e8 spans from no to full shrinkage."""
    rng = np.random.default_rng(seed)
    X = (feature_scale * rng.standard_normal((n, p))).astype(np.float32)
    Y = X[:, :20] @ rng.standard_normal((20, m)) / feature_scale + rng.standard_normal((n, m)) + 4
    return X, Y


def gram_of(X):
    return gram_matrix(lambda s: X[:, s], column_slices(X.shape[1], 128), len(X))


def folds_of(n, n_folds=5, seed=0):
    return [test for _, test in KFold(n_folds, shuffle=True, random_state=seed).split(np.arange(n))]


def refitted_squared_errors(Z, Y, alpha, folds):
    errors = np.zeros(Y.shape[1])
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(Y)), fold)
        model = Ridge(alpha, solver="svd").fit(Z[rest], Y[rest])
        errors += np.square(Y[fold] - model.predict(Z[fold])).sum(axis=0)
    return errors


@pytest.mark.parametrize("n_components", [25, None])
@pytest.mark.parametrize("p", [300, 60])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_predictions_are_those_of_sklearn_ridge(n_components, p, alpha):
    X, Y = synthetic_problem(p=p)
    train, test = np.arange(90), np.arange(90, 110)
    gram = gram_of(X)
    components = principal_components(gram[:90, :90]).leading(n_components)
    weights = ridge_weights(components, Y[train], np.full(Y.shape[1], alpha))
    ours = components.project(gram[np.ix_(test, train)]) @ weights + Y[train].mean(axis=0)

    Z = X.astype(float)
    if n_components is not None:
        pca = PCA(n_components, svd_solver="full").fit(Z[train])
        Z = pca.transform(Z)
    theirs = Ridge(alpha, solver="svd").fit(Z[train], Y[train]).predict(Z[test])
    assert np.abs(ours - theirs).max() < 1e-5 * Y.std()


def test_each_neuron_has_its_own_penalty():
    X, Y = synthetic_problem()
    components = principal_components(gram_of(X))
    together = ridge_weights(components, Y, np.array([1.0, 1e3, 1e5, 1e7, 0.0]))
    for neuron, alpha in enumerate([1.0, 1e3, 1e5, 1e7, 0.0]):
        alone = ridge_weights(components, Y[:, [neuron]], np.array([alpha]))
        np.testing.assert_allclose(together[:, [neuron]], alone, rtol=1e-10)


@pytest.mark.parametrize("n_components", [25, None])
@pytest.mark.parametrize("p", [300, 60])
def test_kfold_errors_are_those_of_refitting(n_components, p):
    X, Y = synthetic_problem(p=p)
    components = principal_components(gram_of(X)).leading(n_components)
    folds = folds_of(len(Y))
    ours = kfold_squared_errors(components, Y, ALPHAS, folds)
    for alpha, errors in zip(ALPHAS, ours, strict=True):
        expected = refitted_squared_errors(components.scores(), Y, alpha, folds)
        np.testing.assert_allclose(errors, expected, rtol=1e-5)


@pytest.mark.parametrize("n_components", [25, None])
@pytest.mark.parametrize("p", [300, 60])
def test_leave_one_out_errors_are_those_of_refitting(n_components, p):
    X, Y = synthetic_problem(n=40, p=p)
    components = principal_components(gram_of(X)).leading(n_components)
    singles = [test for _, test in LeaveOneOut().split(Y)]
    alphas = ALPHAS[::4]
    ours = leave_one_out_squared_errors(components, Y, alphas)
    for alpha, errors in zip(alphas, ours, strict=True):
        expected = refitted_squared_errors(components.scores(), Y, alpha, singles)
        np.testing.assert_allclose(errors, expected, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(6, 30),
    p=st.integers(1, 40),
    n_folds=st.integers(2, 6),
    log_alpha=st.floats(-2, 6),
    repeat=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_closed_form_is_refitting_for_any_shape(n, p, n_folds, log_alpha, repeat, seed):
    X, Y = synthetic_problem(n=n, p=max(p, 20), m=2, feature_scale=3.0, seed=seed)
    X = X[:, :p]
    if repeat:
        X[1] = X[0]
    components = principal_components(gram_of(X))
    folds, alpha = folds_of(n, n_folds, seed), 10.0**log_alpha
    ours = kfold_squared_errors(components, Y, np.array([alpha]), folds)[0]
    expected = refitted_squared_errors(components.scores(), Y, alpha, folds)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-8)


def test_leave_one_out_is_kfold_with_a_fold_per_image():
    X, Y = synthetic_problem()
    components = principal_components(gram_of(X))
    singles = [np.array([row]) for row in range(len(Y))]
    np.testing.assert_allclose(
        leave_one_out_squared_errors(components, Y, ALPHAS),
        kfold_squared_errors(components, Y, ALPHAS, singles),
        rtol=1e-8,
    )


def test_errors_do_not_depend_on_the_number_of_threads():
    X, Y = synthetic_problem()
    components = principal_components(gram_of(X))
    one, many = (
        kfold_squared_errors(components, Y, ALPHAS, folds_of(len(Y)), n_threads=n) for n in (1, 4)
    )
    np.testing.assert_array_equal(one, many)


def brute_force_out_of_fold(Z, Y, folds):
    """Out-of-fold predictions of every penalty, (n_alphas, n, m), by refitting."""
    predictions = np.empty((len(ALPHAS), *Y.shape))
    for fold in folds:
        rest = np.setdiff1d(np.arange(len(Y)), fold)
        for index, alpha in enumerate(ALPHAS):
            model = Ridge(alpha, solver="svd").fit(Z[rest], Y[rest])
            predictions[index, fold] = model.predict(Z[fold])
    return predictions


def test_penalties_are_those_of_brute_force():
    rng = np.random.default_rng(3)
    X, Y = synthetic_problem(m=8, seed=3)
    Y += rng.standard_normal(Y.shape) * np.linspace(0, 60, 8)
    Y[:, -1] *= 100  # its errors outweigh all others, its R² does not
    components = principal_components(gram_of(X))
    folds = folds_of(len(Y))
    squared = kfold_squared_errors(components, Y, ALPHAS, folds)

    predictions = brute_force_out_of_fold(components.scores(), Y, folds)
    errors = np.square(Y - predictions).sum(axis=1)
    per_neuron = ALPHAS[errors.argmin(axis=0)]
    assert len(set(per_neuron)) > 1
    np.testing.assert_array_equal(alpha_per_neuron(squared, ALPHAS, Y), per_neuron)

    r2 = 1 - errors / np.square(Y - Y.mean(axis=0)).sum(axis=0)
    shared = ALPHAS[r2.mean(axis=1).argmax()]
    assert shared != ALPHAS[errors.sum(axis=1).argmin()]
    np.testing.assert_array_equal(shared_alpha(squared, ALPHAS, Y), np.full(8, shared))


def test_a_neuron_of_zero_variance_gets_no_penalty_and_sways_none():
    X, Y = synthetic_problem()
    components = principal_components(gram_of(X))
    folds = folds_of(len(Y))
    silent = np.column_stack([Y, np.full(len(Y), 0.1)])
    squared = kfold_squared_errors(components, silent, ALPHAS, folds)
    for choose in (alpha_per_neuron, shared_alpha):
        chosen = choose(squared, ALPHAS, silent)
        assert np.isnan(chosen[-1])
        np.testing.assert_array_equal(chosen[:-1], choose(squared[:, :-1], ALPHAS, Y))
    assert np.isnan(shared_alpha(squared[:, -1:], ALPHAS, silent[:, -1:])).all()


@pytest.mark.parametrize("n_components", [25, None])
@pytest.mark.parametrize("p", [300, 60])
def test_no_penalty_is_least_squares_of_minimum_norm(n_components, p):
    X, Y = synthetic_problem(p=p)
    train, test = np.arange(90), np.arange(90, 110)
    gram = gram_of(X)
    components = principal_components(gram[:90, :90]).leading(n_components)
    weights = ridge_weights(components, Y[train], np.zeros(Y.shape[1]))
    ours = components.project(gram[np.ix_(test, train)]) @ weights + Y[train].mean(axis=0)

    Z = X.astype(float)
    if n_components is None:
        mean = Z[train].mean(axis=0)  # centred rows have no full rank
        inverse = np.linalg.pinv(Z[train] - mean, rcond=1e-10)
        theirs = (Z[test] - mean) @ inverse @ Y[train] + Y[train].mean(axis=0)
    else:
        pca = PCA(n_components, svd_solver="full").fit(Z[train])
        Z = pca.transform(Z)
        theirs = LinearRegression().fit(Z[train], Y[train]).predict(Z[test])
    assert np.abs(ours - theirs).max() < 1e-5 * Y.std()


def test_a_penalty_is_refused_only_where_its_errors_are_lost_in_rounding():
    X, Y = synthetic_problem(p=100)
    components = principal_components(gram_of(X))
    folds = folds_of(len(Y))
    smallest = 1e-13 * components.eigenvalues[0]
    kfold_squared_errors(components, Y, np.array([2 * smallest]), folds)
    with pytest.raises(ReadoutError, match="is too small: with 100 components and 88 images"):
        kfold_squared_errors(components, Y, np.array([smallest / 2, 1.0]), folds)
    few = components.leading(50)
    ours = kfold_squared_errors(few, Y, np.array([smallest / 2]), folds)[0]
    expected = refitted_squared_errors(few.scores(), Y, smallest / 2, folds)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
