"""The whole way from a Gram matrix to scores: what is recovered, reported and refused."""

import dataclasses
import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import explained_variance_score, r2_score
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_info, threadpool_limits

import toolkit.encoding.readouts as readouts_module
from toolkit.encoding import (
    EncodingError,
    FeaturesError,
    LayerEncoder,
    ProtocolError,
    Readout,
    ReadoutError,
    ResponsesError,
    column_slices,
    gram_matrix,
)

ALPHAS = tuple(np.logspace(0, 8, 9))
RIDGE = Readout("ridge", n_components=30, alphas=ALPHAS)
SPLITS = [(np.arange(0, 100), np.arange(100, 140)), (np.arange(40, 140), np.arange(0, 40))]


def synthetic_layer(n=140, p=800, m=6, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 60)) * np.arange(1, 61) ** -0.5
    X = (20 * latent @ rng.standard_normal((60, p))).astype(np.float32)
    Y = latent[:, :10] @ rng.standard_normal((10, m)) + 0.3 * rng.standard_normal((n, m)) + 2
    return X, Y


def gram_of(X):
    return gram_matrix(lambda s: X[:, s], column_slices(X.shape[1], 256), len(X))


@pytest.fixture(scope="module")
def linear_gaussian():
    """Encoders of responses of which 60 % is linear in the features, and of the same shuffled."""
    rng = np.random.default_rng(0)
    n, d, m, explainable = 1500, 20, 40, 0.6
    latent = rng.standard_normal((n, d))
    signal = latent @ rng.standard_normal((d, m))
    signal /= signal.std(axis=0)
    noise = rng.standard_normal((n, m))
    Y = np.sqrt(explainable) * signal + np.sqrt(1 - explainable) * noise
    gram = gram_of((latent @ rng.standard_normal((d, 500))).astype(np.float32))
    shuffled = Y[rng.permutation(n)]
    return LayerEncoder(gram, Y, n_threads=1), LayerEncoder(gram, shuffled, n_threads=1)


@pytest.mark.parametrize("kind", ["ridge", "linear"])
@pytest.mark.parametrize("n_components", [20, None])
def test_explainable_variance_is_recovered_and_shuffled_responses_give_none(
    linear_gaussian, kind, n_components
):
    encoder, control = linear_gaussian
    splits = [(np.arange(1000), np.arange(1000, 1500))]
    readout = Readout(kind, n_components, ALPHAS if kind == "ridge" else ())
    scores = encoder.score(readout, splits)
    assert scores.ev.mean() == pytest.approx(0.6, abs=0.02)
    assert (scores.n_components == 20).all()
    shuffled = control.score(readout, splits)
    assert shuffled.ev.mean() <= 0.01
    assert abs(shuffled.r.mean()) < 0.05


@pytest.mark.parametrize("alpha_per_neuron", [True, False])
def test_scores_are_those_of_pca_and_ridge_by_sklearn(alpha_per_neuron):
    X, Y = synthetic_layer()
    readout = dataclasses.replace(RIDGE, alpha_per_neuron=alpha_per_neuron, seed=7)
    ours = LayerEncoder(gram_of(X), Y).score(readout, SPLITS)
    for split, (train, test) in enumerate(SPLITS):
        pca = PCA(30, svd_solver="full").fit(X[train].astype(float))
        Z, Z_test = pca.transform(X[train].astype(float)), pca.transform(X[test].astype(float))
        errors = np.zeros((len(ALPHAS), Y.shape[1]))
        for rest, fold in KFold(5, shuffle=True, random_state=7).split(Z):
            for index, alpha in enumerate(ALPHAS):
                model = Ridge(alpha).fit(Z[rest], Y[train][rest])
                errors[index] += np.square(Y[train][fold] - model.predict(Z[fold])).sum(axis=0)
        if alpha_per_neuron:
            alpha = np.array(ALPHAS)[errors.argmin(axis=0)]
        else:
            r2 = 1 - errors / (Y[train].var(axis=0) * len(train))
            alpha = np.full(Y.shape[1], ALPHAS[r2.mean(axis=1).argmax()])
        prediction = Ridge(alpha).fit(Z, Y[train]).predict(Z_test)
        raw = {"multioutput": "raw_values"}
        np.testing.assert_array_equal(ours.alpha[split], alpha)
        np.testing.assert_allclose(
            ours.ev[split], explained_variance_score(Y[test], prediction, **raw), atol=1e-5
        )
        np.testing.assert_allclose(ours.r2[split], r2_score(Y[test], prediction, **raw), atol=1e-5)
        r = [np.corrcoef(Y[test][:, j], prediction[:, j])[0, 1] for j in range(Y.shape[1])]
        np.testing.assert_allclose(ours.r[split], r, atol=1e-5)
        np.testing.assert_allclose(
            ours.mse[split], np.square(Y[test] - prediction).mean(axis=0), rtol=1e-4
        )


def test_scores_have_a_row_per_split_and_say_what_was_used():
    X, Y = synthetic_layer()
    splits = [SPLITS[0], (np.arange(0, 50), np.arange(50, 140))]
    scores = LayerEncoder(gram_of(X), Y).score(dataclasses.replace(RIDGE, n_components=49), splits)
    for name in ("ev", "r", "r2", "mse", "alpha", "alpha_at_edge"):
        assert getattr(scores, name).shape == (2, 6)
    assert scores.n_train.tolist() == [100, 50]
    assert scores.n_test.tolist() == [40, 90]
    assert scores.n_components.tolist() == [49, 49]


def test_a_layer_of_lower_rank_gives_the_components_it_has():
    X, Y = synthetic_layer()
    scores = LayerEncoder(gram_of(X), Y).score(Readout("linear", 99), SPLITS)
    assert scores.n_components.tolist() == [60, 60]


def test_leave_one_out_is_a_choice_of_folds():
    X, Y = synthetic_layer()
    encoder = LayerEncoder(gram_of(X), Y)
    loo = encoder.score(dataclasses.replace(RIDGE, n_folds=None), SPLITS)
    as_folds = encoder.score(dataclasses.replace(RIDGE, n_folds=100), SPLITS)
    np.testing.assert_array_equal(loo.alpha, as_folds.alpha)


@pytest.mark.parametrize(
    "alphas, at_edge",
    [((1e7, 1e9), True), ((1e-3, 1e-2), True), (ALPHAS, False), ((1e3,), False)],
)
def test_a_penalty_at_the_edge_of_its_grid_is_flagged(alphas, at_edge):
    X, Y = synthetic_layer()
    readout = Readout("ridge", 30, alphas, alpha_per_neuron=False)
    scores = LayerEncoder(gram_of(X), Y).score(readout, SPLITS)
    assert (scores.alpha_at_edge == at_edge).all()


def test_a_constant_layer_predicts_the_training_mean():
    _, Y = synthetic_layer()
    gram = gram_of(np.full((140, 300), 0.1, dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for readout in (RIDGE, Readout("linear")):
            scores = LayerEncoder(gram, Y).score(readout, SPLITS)
            np.testing.assert_allclose(scores.ev, 0, atol=1e-12)
            assert np.isnan(scores.r).all()
            assert (scores.r2 <= 0).all()
            assert (scores.n_components == 0).all()
            assert not scores.alpha_at_edge.any()


@pytest.mark.parametrize("readout", [RIDGE, Readout("linear", 30)])
def test_a_silent_neuron_has_no_score_and_changes_no_other(readout):
    X, Y = synthetic_layer()
    gram = gram_of(X)
    expected = LayerEncoder(gram, Y).score(readout, SPLITS)
    silent = np.insert(Y, 2, 0.1, axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = LayerEncoder(gram, silent).score(readout, SPLITS)
    for name in ("ev", "r", "r2", "mse"):
        assert np.isnan(getattr(scores, name)[:, 2]).all()
        np.testing.assert_allclose(
            np.delete(getattr(scores, name), 2, axis=1), getattr(expected, name), rtol=1e-9
        )


@pytest.mark.parametrize("rate", [0.1, 1.5, 1e6])
@pytest.mark.parametrize("readout", [RIDGE, Readout("linear", 30)])
def test_a_neuron_silent_in_training_only_is_predicted_by_its_mean(rate, readout):
    X, Y = synthetic_layer()
    Y[:100, 3] = rate
    scores = LayerEncoder(gram_of(X), Y).score(readout, SPLITS[:1])
    assert scores.ev[0, 3] == pytest.approx(0, abs=1e-10)
    assert np.isnan(scores.r[0, 3])
    assert np.isnan(scores.alpha[0, 3]) == (readout.kind == "ridge")


def test_responses_of_held_out_images_play_no_part_in_the_fit():
    X, Y = synthetic_layer()
    gram, (train, test) = gram_of(X), SPLITS[0]
    changed = Y.copy()
    changed[test] = 1e3 * Y[test] - 7
    before, after = (LayerEncoder(gram, y).score(RIDGE, SPLITS[:1]) for y in (Y, changed))
    np.testing.assert_array_equal(before.alpha, after.alpha)
    np.testing.assert_allclose(before.r, after.r, rtol=1e-9)
    assert len(train) == 100


def test_order_of_training_images_does_not_matter_without_folds():
    X, Y = synthetic_layer()
    train, test = SPLITS[0]
    order = np.random.default_rng(0).permutation(100)
    readout = dataclasses.replace(RIDGE, n_folds=None)
    encoder = LayerEncoder(gram_of(X), Y)
    one, two = (encoder.score(readout, [(rows, test)]) for rows in (train, train[order]))
    np.testing.assert_allclose(one.ev, two.ev, atol=1e-9)


def test_repeated_images_are_legal():
    X, Y = synthetic_layer()
    X[50:60] = X[:10]
    scores = LayerEncoder(gram_of(X), Y).score(
        dataclasses.replace(RIDGE, n_components=None), SPLITS
    )
    assert np.isfinite(scores.ev).all()


def test_scores_are_the_same_on_repetition_and_for_any_number_of_threads():
    X, Y = synthetic_layer()
    gram = gram_of(X)
    one, again = (LayerEncoder(gram, Y, n_threads=1).score(RIDGE, SPLITS) for _ in range(2))
    np.testing.assert_array_equal(one.ev, again.ev)
    many = LayerEncoder(gram, Y, n_threads=2).score(RIDGE, SPLITS)
    np.testing.assert_allclose(one.ev, many.ev, rtol=1e-10)


def test_readouts_share_one_decomposition_per_training_set(monkeypatch):
    X, Y = synthetic_layer()
    gram, calls, real = gram_of(X), [], readouts_module.principal_components

    def counted(block):
        calls.append({i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"})
        return real(block)

    monkeypatch.setattr(readouts_module, "principal_components", counted)
    encoder = LayerEncoder(gram, Y, n_threads=1)
    with threadpool_limits(2, user_api="blas"):
        for readout in (RIDGE, Readout("linear", 10), dataclasses.replace(RIDGE, seed=5)):
            encoder.score(readout, SPLITS)
    assert calls == [{1}, {1}]


def test_the_gram_matrix_and_responses_are_left_as_they_were():
    X, Y = synthetic_layer()
    gram = gram_of(X)
    gram_before, Y_before = gram.copy(), Y.copy()
    LayerEncoder(gram, Y).score(RIDGE, SPLITS)
    np.testing.assert_array_equal(gram, gram_before)
    np.testing.assert_array_equal(Y, Y_before)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"kind": "lasso"}, "'ridge', 'linear'"),
        ({"n_components": 0}, "n_components is 0"),
        ({"alphas": ()}, "alphas are empty"),
        ({"alphas": (0.0, 1.0)}, "kind: linear"),
        ({"alphas": (1.0, np.inf)}, "finite"),
        ({"alphas": (10.0, 1.0)}, "must increase"),
        ({"alphas": (1.0, 1.0)}, "must increase"),
        ({"n_folds": 1}, "n_folds is 1"),
        ({"kind": "linear"}, "leave them empty"),
    ],
)
def test_readouts_that_are_not_defined_are_refused(fields, message):
    with pytest.raises(ReadoutError, match=message) as raised:
        dataclasses.replace(RIDGE, **fields)
    assert raised.value.error_class == "bad_readout"


@pytest.mark.parametrize(
    "readout, message",
    [
        (dataclasses.replace(RIDGE, n_components=100), "at most 99 components"),
        (Readout("linear", 100), "at most 99 components"),
        (dataclasses.replace(RIDGE, n_folds=101), "there are 100 training images"),
    ],
)
def test_too_few_training_images_are_refused(readout, message):
    X, Y = synthetic_layer()
    with pytest.raises(ReadoutError, match=message):
        LayerEncoder(gram_of(X), Y).score(readout, SPLITS)


def test_splits_that_leak_or_are_none_are_refused():
    X, Y = synthetic_layer()
    encoder = LayerEncoder(gram_of(X), Y)
    with pytest.raises(ProtocolError, match="both training and test"):
        encoder.score(RIDGE, [(np.arange(100), np.arange(99, 140))])
    with pytest.raises(ProtocolError, match="no split"):
        encoder.score(RIDGE, [])


def test_matrices_that_cannot_be_encoded_are_refused():
    X, Y = synthetic_layer()
    gram = gram_of(X)
    broken = gram.copy()
    broken[3, 4] = np.nan
    with pytest.raises(FeaturesError, match="row 3, column 4"):
        LayerEncoder(broken, Y)
    with pytest.raises(FeaturesError, match="square"):
        LayerEncoder(gram[:, :10], Y)
    with pytest.raises(ResponsesError, match="140 images"):
        LayerEncoder(gram, Y[:100])
    Y[5, 1] = np.inf
    with pytest.raises(ResponsesError, match="image 5, neuron 1") as raised:
        LayerEncoder(gram, Y)
    assert isinstance(raised.value, EncodingError)
    assert raised.value.error_class == "bad_responses"


@pytest.mark.parametrize("scale", [2.0**-20, 2.0**10])
@pytest.mark.parametrize("n_components", [30, None])
def test_relative_penalties_do_not_depend_on_the_units_of_features(scale, n_components):
    X, Y = synthetic_layer()
    readout = Readout("ridge", n_components, tuple(np.logspace(-6, 4, 21)), alphas_relative=True)
    scores = LayerEncoder(gram_of(X), Y, n_threads=1).score(readout, SPLITS)
    scaled = LayerEncoder(gram_of(np.float32(scale) * X), Y, n_threads=1).score(readout, SPLITS)
    np.testing.assert_allclose(scaled.r, scores.r, rtol=1e-9)
    np.testing.assert_allclose(scaled.alpha, scale**2 * scores.alpha, rtol=1e-9)
    np.testing.assert_array_equal(scaled.alpha_at_edge, scores.alpha_at_edge)


def test_relative_penalties_are_multiples_of_the_mean_squared_length():
    X, Y = synthetic_layer()
    train, test = SPLITS[0]
    readout = Readout("ridge", None, (0.5,), alphas_relative=True)
    scores = LayerEncoder(gram_of(X), Y, n_threads=1).score(readout, [(train, test)])
    X = X.astype(float)
    mean_square = np.square(X[train] - X[train].mean(axis=0)).sum(axis=1).mean()
    np.testing.assert_allclose(scores.alpha, 0.5 * mean_square, rtol=1e-6)
    model = Ridge(0.5 * mean_square).fit(X[train], Y[train])
    expected = explained_variance_score(Y[test], model.predict(X[test]), multioutput="raw_values")
    np.testing.assert_allclose(scores.ev[0], expected, rtol=1e-4)
