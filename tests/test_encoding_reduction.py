"""Reductions that stream: against scikit-learn, the Gram matrix, and one another."""

import threading
import tracemalloc

import dask.array as da
import numpy as np
import pytest
import zarr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold

from toolkit.encoding import (
    FeaturesError,
    LayerEncoder,
    ProtocolError,
    Readout,
    ReadoutError,
    ResponsesError,
    column_slices,
    gram_matrix,
    principal_components,
)
from toolkit.encoding import reduction as reduction_module
from toolkit.encoding import solver as solver_module
from toolkit.encoding.compute import open_compute
from toolkit.encoding.reduced_ridge import fit_ridge
from toolkit.encoding.reduction import reduce_layer
from toolkit.encoding.ridge import kfold_squared_errors
from toolkit.encoding.solver import ReductionError, fitting_threads
from toolkit.metrics import explained_variance

SOLVERS = ("gram", "covariance", "incremental", "randomized")
K = 30
# One BLAS thread, plenty of memory: what is measured here is the result.
EASY = {"memory_bytes": 1e10, "n_threads": 1}
READOUT = Readout("ridge", K, tuple(np.logspace(-2, 8, 11)))


def orthonormal(rng, n, r):
    return np.linalg.qr(rng.standard_normal((n, r)))[0]


def synthetic_layer(n=800, p=500, r=300, decay=1.0, mean=3.0, seed=0):
    """Features of singular values ∝ j^−decay, and responses to their leading 60 directions."""
    rng = np.random.default_rng(seed)
    latent = orthonormal(rng, n, r) * np.arange(1, r + 1) ** -decay * 1000
    features = (latent @ orthonormal(rng, p, r).T + mean).astype(np.float32)
    responses = latent[:, :60] @ rng.standard_normal((min(60, r), 6))
    noise = rng.standard_normal(responses.shape) * 0.7 * responses.std(axis=0)
    return features, responses + noise + 4


def shuffled_split(n=800, n_train=650, seed=1):
    order = np.random.default_rng(seed).permutation(n)
    return order[:n_train], order[n_train:]


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 32 rows and 64 columns, so that small layers have many of them."""
    monkeypatch.setattr(solver_module, "_ROW_BLOCK_BYTES", 1)
    for module in (reduction_module, solver_module):
        monkeypatch.setattr(module, "BLOCK_COLUMNS", 64)


def assert_equal_up_to_sign(ours, theirs, tolerance):
    signs = np.sign((ours * theirs).sum(axis=0))
    assert np.abs(ours * signs - theirs).max() <= tolerance * np.abs(theirs).max()


# Of the approximate solvers about twice what was measured with these data.
@pytest.mark.parametrize(
    ("decay", "solver", "scores_tolerance", "variance_tolerance"),
    [
        (1.0, "gram", 1e-9, 1e-9),
        (1.0, "covariance", 1e-9, 1e-9),
        (1.0, "incremental", 0.05, 2e-3),
        (1.0, "randomized", 0.1, 0.04),
        (0.5, "gram", 1e-9, 1e-9),
        (0.5, "covariance", 1e-9, 1e-9),
        (0.5, "incremental", None, 0.03),
        (0.5, "randomized", None, 0.15),
    ],
)
def test_scores_and_variances_are_those_of_sklearn_pca(
    small_blocks, decay, solver, scores_tolerance, variance_tolerance
):
    features, _ = synthetic_layer(decay=decay)
    train, test = shuffled_split()
    ours = reduce_layer(features, train, test, K, solver=solver, **EASY)
    pca = PCA(K, svd_solver="full").fit(features[train].astype(float))

    assert ours.train_scores.shape == (650, K)
    assert ours.test_scores.shape == (150, K)
    np.testing.assert_allclose(
        ours.explained_variances, pca.explained_variance_, rtol=variance_tolerance
    )
    assert (ours.explained_variances <= pca.explained_variance_ * (1 + 1e-9)).all()
    if scores_tolerance is not None:
        for scores, rows in ((ours.train_scores, train), (ours.test_scores, test)):
            expected = pca.transform(features[rows].astype(float))
            assert_equal_up_to_sign(scores, expected, scores_tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gives_an_orthogonal_projection_about_the_training_mean(small_blocks, solver):
    features, _ = synthetic_layer(decay=0.5)
    train, test = shuffled_split()
    ours = reduce_layer(features, train, test, K, solver=solver, **EASY)
    assert (ours.solver, ours.n_passes) == (solver, 1 if solver == "gram" else 2)
    assert np.abs(ours.train_scores.mean(axis=0)).max() < 1e-9 * ours.train_scores.max()
    covariance = ours.train_scores.T @ ours.train_scores / 649
    np.testing.assert_allclose(covariance, np.diag(ours.explained_variances), atol=1e-7)
    assert (np.diff(ours.explained_variances) <= 0).all()

    # The same linear map must take training and test features to their scores.
    centred = features.astype(float) - features[train].mean(axis=0, dtype=float)
    directions = np.linalg.lstsq(centred[train], ours.train_scores, rcond=1e-6)[0]
    expected = centred[test] @ directions
    np.testing.assert_allclose(ours.test_scores, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_allclose(directions.T @ directions, np.eye(K), atol=1e-4)


@pytest.mark.parametrize(
    ("decay", "tolerance"),
    [
        (1.0, {"gram": 1e-9, "covariance": 1e-9, "incremental": 1e-3, "randomized": 3e-3}),
        (0.5, {"gram": 1e-9, "covariance": 1e-9, "incremental": 0.02, "randomized": 0.04}),
    ],
)
def test_all_solvers_agree_on_how_well_each_neuron_is_predicted(small_blocks, decay, tolerance):
    features, responses = synthetic_layer(decay=decay)
    train, test = shuffled_split()
    gram = gram_matrix(lambda s: features[:, s], column_slices(500), 800)
    expected = LayerEncoder(gram, responses, n_threads=1).score(READOUT, [(train, test)]).ev[0]
    assert expected.min() > 0.2
    for solver in SOLVERS:
        ours = reduce_layer(features, train, test, K, solver=solver, **EASY)
        fit = fit_ridge(ours.train_scores, responses[train], READOUT)
        ev = explained_variance(responses[test], fit.predict(ours.test_scores))
        assert np.abs(ev - expected).max() < tolerance[solver], solver


def test_more_features_than_images_and_the_other_way_round_agree(small_blocks):
    for n, p in ((300, 700), (700, 300)):
        features, _ = synthetic_layer(n=n, p=p, r=250)
        train, test = shuffled_split(n, n - 50)
        gram, covariance = (
            reduce_layer(features, train, test, K, solver=solver, **EASY)
            for solver in ("gram", "covariance")
        )
        assert_equal_up_to_sign(gram.test_scores, covariance.test_scores, 1e-4)
        np.testing.assert_allclose(
            gram.explained_variances, covariance.explained_variances, rtol=1e-4
        )


@pytest.mark.parametrize("solver", SOLVERS)
def test_test_images_have_no_say_in_the_fit(small_blocks, solver):
    features, _ = synthetic_layer(n=300, p=200, r=120)
    train, test = shuffled_split(300, 240)
    before = reduce_layer(features, train, test, 10, solver=solver, **EASY)
    changed = features.copy()
    changed[test[1:]] += 500 * np.random.default_rng(0).standard_normal(200).astype(np.float32)
    after = reduce_layer(changed, train, test, 10, solver=solver, **EASY)
    tolerance = 1e-6 if solver == "gram" else 1e-12
    np.testing.assert_allclose(
        after.explained_variances, before.explained_variances, rtol=tolerance
    )
    assert_equal_up_to_sign(after.train_scores, before.train_scores, tolerance)
    assert_equal_up_to_sign(after.test_scores[:1], before.test_scores[:1], 1e-4)


@pytest.mark.parametrize("solver", ["covariance", "incremental", "randomized"])
def test_a_large_common_mean_costs_no_precision(small_blocks, solver):
    features = synthetic_layer(n=300, p=200, r=120, mean=0)[0].astype(np.float64)
    train, test = shuffled_split(300, 240)
    plain = reduce_layer(features, train, test, 10, solver=solver, **EASY)
    shifted = reduce_layer(features + 1e6, train, test, 10, solver=solver, **EASY)
    np.testing.assert_allclose(plain.explained_variances, shifted.explained_variances, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
def test_a_constant_layer_has_no_components(solver, constant):
    features = np.full((100, 60), constant, dtype=np.float32)
    ours = reduce_layer(features, np.arange(80), np.arange(80, 100), 5, solver=solver, **EASY)
    assert ours.train_scores.shape == (80, 0)
    assert ours.test_scores.shape == (20, 0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_layer_of_lower_rank_gives_what_it_has(small_blocks, solver):
    features, _ = synthetic_layer(n=200, p=150, r=8, decay=0)
    ours = reduce_layer(features, np.arange(150), np.arange(150, 200), 20, solver=solver, **EASY)
    assert len(ours.explained_variances) == 8


@pytest.mark.parametrize("solver", SOLVERS)
def test_zarr_dask_and_numpy_arrays_give_the_same(tmp_path, small_blocks, solver):
    features, _ = synthetic_layer(n=200, p=150, r=100)
    train, test = shuffled_split(200, 160)
    stored = zarr.create_array(tmp_path / "layer.zarr", data=features, chunks=(32, 64))
    lazy = da.from_array(features, chunks=(50, 40))
    ours, theirs, plain = (
        reduce_layer(layer, train, test, 10, solver=solver, **EASY)
        for layer in (stored, lazy, features)
    )
    for other in (theirs, plain):
        assert_equal_up_to_sign(ours.test_scores, other.test_scores, 1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_seed_decides_everything(small_blocks, solver):
    features, _ = synthetic_layer(n=300, p=200, r=120, decay=0.5)
    train, test = shuffled_split(300, 240)
    one, two, other = (
        reduce_layer(features, train, test, 10, solver=solver, seed=seed, **EASY)
        for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(one.test_scores, two.test_scores)
    random = solver in ("incremental", "randomized")
    assert (one.explained_variances[-1] != other.explained_variances[-1]) == random


class WatchedArray:
    """Counts how often each feature is read, and the largest piece."""

    def __init__(self, features):
        self.features, self.lock = features, threading.Lock()
        self.shape, self.dtype, self.ndim = features.shape, features.dtype, 2
        self.n_reads, self.largest = np.zeros(features.shape, dtype=int), 0

    def __getitem__(self, key):
        with self.lock:
            self.n_reads[key] += 1
            self.largest = max(self.largest, self.n_reads[key].size)
        return self.features[key]


@pytest.mark.parametrize("solver", SOLVERS)
def test_features_are_read_in_blocks_as_often_as_is_said(small_blocks, solver):
    features, _ = synthetic_layer()
    watched = WatchedArray(features)
    train, test = np.arange(640), np.arange(640, 800)
    ours = reduce_layer(watched, train, test, K, solver=solver, **EASY)
    n_reads = watched.n_reads[train]
    if solver == "incremental":  # blocks at the border of two batches serve both
        assert ours.n_passes <= n_reads.mean() < ours.n_passes + 0.5
    else:
        np.testing.assert_array_equal(n_reads, ours.n_passes)
    by_rows = solver in ("covariance", "incremental")
    assert watched.largest == (32 * 500 if by_rows else 800 * 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "n", "p", "row_block_bytes"),
    [
        ("covariance", 12_000, 300, 2**19),
        ("incremental", 1_400, 1_500, 2**20),
        ("randomized", 1_000, 10_000, 2**19),
    ],
)
def test_memory_stays_within_what_was_said_and_below_the_layer(
    tmp_path, monkeypatch, solver, n, p, row_block_bytes
):
    monkeypatch.setattr(solver_module, "_ROW_BLOCK_BYTES", row_block_bytes)
    for module in (reduction_module, solver_module):
        monkeypatch.setattr(module, "BLOCK_COLUMNS", 1024)
    layer = zarr.create_array(tmp_path / "layer", shape=(n, p), chunks=(32, 1024), dtype="f4")
    rng = np.random.default_rng(0)
    for start in range(0, n, 320):
        height = min(320, n - start)
        layer[start : start + height] = rng.standard_normal((height, p), dtype=np.float32)
    n_test = n // 10
    train, test = np.arange(n - n_test), np.arange(n - n_test, n)
    needed = solver_module._needed_bytes(n - n_test, n_test, p, 10, 1)[solver]
    tracemalloc.start()
    reduce_layer(layer, train, test, 10, solver=solver, memory_bytes=needed, n_threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    layer_bytes = n * p * 4
    scores_bytes = 3 * 8 * n * 20
    assert peak < needed + scores_bytes
    assert peak < layer_bytes


@pytest.mark.slow
def test_worker_processes_give_what_threads_give(tmp_path):
    features, responses = synthetic_layer(n=300, p=200, r=120)
    train, test = shuffled_split(300, 240)
    stored = zarr.create_array(tmp_path / "layer.zarr", data=features, chunks=(32, 64))

    def reduced_and_fitted():
        for solver in ("covariance", "randomized"):
            scores = reduce_layer(stored, train, test, K, solver=solver, **EASY)
            fit = fit_ridge(scores.train_scores, responses[train], READOUT)
            yield solver, scores.test_scores, fit.weights

    here = list(reduced_and_fitted())
    with open_compute("processes", n_cores=2, memory_bytes=2**31):
        there = list(reduced_and_fitted())
    for (solver, scores, weights), (_, *expected) in zip(there, here, strict=True):
        np.testing.assert_array_equal(scores, expected[0], err_msg=solver)
        np.testing.assert_array_equal(weights, expected[1], err_msg=solver)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("row", [3, 190])
def test_features_that_are_not_finite_are_refused(small_blocks, solver, bad, row):
    features, _ = synthetic_layer(n=200, p=150, r=100)
    features[row, 17] = bad
    with pytest.raises(FeaturesError, match="NaN or infinite"):
        reduce_layer(features, np.arange(170), np.arange(170, 200), 10, solver=solver, **EASY)


def test_a_split_that_shares_images_is_refused():
    features, _ = synthetic_layer(n=50, p=40, r=30)
    with pytest.raises(ProtocolError, match="are in both training and test"):
        reduce_layer(features, np.arange(40), np.arange(39, 50), 5, solver="gram", **EASY)


GB = 1e9


def test_a_solver_is_taken_with_as_many_threads_as_fit_or_refused_with_the_numbers():
    assert fitting_threads("gram", 2_592, 802_816, 1_000, 16 * GB, n_threads=4)[0] == 4
    fewer, reason = fitting_threads("gram", 2_592, 802_816, 1_000, 4 * GB, n_threads=64)
    assert 1 <= fewer < 64
    assert reason.startswith("gram: 2592 training images × 802816 features need ")
    with pytest.raises(
        ReductionError, match=r"solver gram needs .* GB .* than the 16\.00 GB .* \(covariance"
    ):
        fitting_threads("gram", 100_000, 4_096, 100, 16 * GB, n_threads=4)
    with pytest.raises(ReductionError, match="'pca'; write one of gram"):
        fitting_threads("pca", 1_000, 1_000, 10, GB)
    assert ReductionError.error_class == "bad_reduction"


def test_the_threads_that_fit_do_not_change_the_scores(small_blocks):
    features, _ = synthetic_layer(n=200, p=150, r=100)
    train, test = shuffled_split(200, 160)
    for solver in ("covariance", "incremental", "randomized"):
        one, other = (
            reduce_layer(features, train, test, 10, solver=solver, memory_bytes=GB, n_threads=n)
            for n in (1, 3)
        )
        np.testing.assert_allclose(  # up to sign
            np.abs(one.test_scores), np.abs(other.test_scores), rtol=1e-8, atol=1e-8
        )


@pytest.mark.parametrize(("n_train", "n_features"), [(50, 1_000), (1_000, 49)])
def test_more_components_than_there_are_is_refused(n_train, n_features):
    fitting_threads("gram", n_train, n_features, 49, GB)
    with pytest.raises(ReductionError, match="1 to 49 components"):
        fitting_threads("gram", n_train, n_features, 50, GB)


def test_memory_needed_grows_with_the_test_images_and_threads():
    needed = [
        solver_module._needed_bytes(5_000, n_test, 10_000, 100, n_threads)
        for n_test, n_threads in ((0, 1), (5_000, 1), (0, 8))
    ]
    for solver in ("gram", "randomized"):
        assert needed[0][solver] < min(needed[1][solver], needed[2][solver])


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("alpha_per_neuron", [False, True])
@pytest.mark.parametrize(("n_folds", "relative"), [(3, False), (5, False), (5, True)])
def test_ridge_is_that_of_the_layer_encoder(
    small_blocks, streamed, alpha_per_neuron, n_folds, relative
):
    features, responses = synthetic_layer()
    responses[:, 2] = np.pi  # a silent neuron
    train, test = shuffled_split()
    grid = tuple(np.logspace(-6, 4, 21)) if relative else READOUT.alphas
    readout = Readout("ridge", K, grid, alpha_per_neuron, n_folds, 3, alphas_relative=relative)
    gram = gram_matrix(lambda s: features[:, s], column_slices(500), 800)
    expected = LayerEncoder(gram, responses, n_threads=1).score(readout, [(train, test)])
    components = principal_components(gram[np.ix_(train, train)]).leading(K)
    scores = components.scores()

    fit = fit_ridge(
        da.from_array(scores, chunks=(100, -1)) if streamed else scores, responses[train], readout
    )
    folds = [f for _, f in KFold(n_folds, shuffle=True, random_state=3).split(train)]
    errors = kfold_squared_errors(components, responses[train], fit.alphas, folds)
    np.testing.assert_allclose(fit.squared_errors, errors, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(fit.alpha, expected.alpha[0], rtol=1e-9 if relative else 0)
    prediction = fit.predict(components.project(gram[np.ix_(test, train)]))
    ev = explained_variance(responses[test], prediction)
    np.testing.assert_allclose(ev, expected.ev[0], rtol=1e-9)
    assert np.isnan(ev[2])


def test_ridge_is_that_of_refitting_for_scores_of_any_mean():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((120, 7)) * np.arange(1, 8) + 5
    responses = scores @ rng.standard_normal((7, 4)) + 3 * rng.standard_normal((120, 4)) - 9
    readout = Readout("ridge", None, (0.1, 10.0, 1000.0), n_folds=4)
    fit = fit_ridge(scores, responses, readout)
    for row, alpha in zip(fit.squared_errors, readout.alphas, strict=True):
        expected = np.zeros(4)
        for rest, fold in KFold(4, shuffle=True, random_state=0).split(scores):
            model = Ridge(alpha).fit(scores[rest], responses[rest])
            expected += np.square(responses[fold] - model.predict(scores[fold])).sum(axis=0)
        np.testing.assert_allclose(row, expected, rtol=1e-9)
    for neuron, alpha in enumerate(fit.alpha):
        model = Ridge(alpha).fit(scores, responses[:, neuron])
        np.testing.assert_allclose(fit.weights[:, neuron], model.coef_, rtol=1e-9)
        np.testing.assert_allclose(fit.intercept[neuron], model.intercept_, rtol=1e-9)


def test_one_penalty_and_none_are_not_compared():
    features, responses = synthetic_layer(n=200, p=100, r=60)
    rows = np.arange(150), np.arange(150, 200)
    scores = reduce_layer(features, *rows, 20, solver="covariance", **EASY).train_scores
    ridge = fit_ridge(scores, responses[:150], Readout("ridge", 20, (5.0,)))
    np.testing.assert_array_equal(ridge.alpha, 5.0)
    expected = Ridge(5.0).fit(scores, responses[:150]).coef_.T
    np.testing.assert_allclose(ridge.weights, expected, rtol=1e-7)
    linear = fit_ridge(scores, responses[:150], Readout("linear", 20))
    np.testing.assert_array_equal(linear.alpha, 0)
    squares = np.linalg.lstsq(scores, responses[:150] - responses[:150].mean(axis=0))[0]
    np.testing.assert_allclose(linear.weights, squares, rtol=1e-7)
    assert linear.squared_errors.shape == (0, 6)


def test_least_squares_on_repeated_scores_has_minimum_norm():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((50, 3))
    responses = rng.standard_normal((50, 2))
    fit = fit_ridge(np.hstack([scores, scores]), responses, Readout("linear"))
    alone = fit_ridge(scores, responses, Readout("linear"))
    np.testing.assert_allclose(fit.weights, np.vstack([alone.weights] * 2) / 2, rtol=1e-9)


def test_what_ridge_cannot_do_is_refused():
    scores, responses = np.zeros((20, 3)), np.ones((20, 2))
    with pytest.raises(ReadoutError, match="n_folds is None"):
        fit_ridge(scores, responses, Readout("ridge", 3, (1.0, 10.0), n_folds=None))
    with pytest.raises(ReadoutError, match=r"n_folds is 21; .* 2 to 20 folds"):
        fit_ridge(scores, responses, Readout("ridge", 3, (1.0, 10.0), n_folds=21))
    for bad in (responses[:19], np.full((20, 2), np.nan), responses[:, 0]):
        with pytest.raises(ResponsesError, match="must be finite and have the 20 rows"):
            fit_ridge(scores, bad, Readout("linear", 3))


def test_a_layer_without_components_is_predicted_by_the_mean():
    responses = np.random.default_rng(0).standard_normal((20, 2))
    fit = fit_ridge(np.zeros((20, 0)), responses, Readout("ridge", 5, (1.0, 10.0)))
    np.testing.assert_allclose(fit.predict(np.zeros((4, 0))), [responses.mean(axis=0)] * 4)
