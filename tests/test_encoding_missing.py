"""Neurons that were not recorded for every image, and read-outs by PLS."""

import numpy as np
import pytest
from sklearn.cross_decomposition import PLSRegression

from toolkit.encoding import LayerEncoder, Readout, ReadoutError
from toolkit.metrics import pearson_r

RIDGE = Readout("ridge", 10, (1.0, 100.0, 1e4))
TRAIN, TEST = np.arange(60), np.arange(60, 90)


def synthetic(n_neurons: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(90, 40))
    return features, features[:, :n_neurons] + rng.normal(size=(90, n_neurons))


def encoder(features: np.ndarray, responses: np.ndarray) -> LayerEncoder:
    centred = features - features.mean(axis=0)
    return LayerEncoder(centred @ centred.T, responses)


def test_a_neuron_is_scored_on_the_images_it_has() -> None:
    features, responses = synthetic()
    missing = np.r_[3:10, 70:75]
    responses[missing, 2] = np.nan
    scores = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)])

    kept = np.setdiff1d(np.arange(90), missing)
    alone = encoder(features[kept], responses[kept, 2:3]).score(
        RIDGE, [(np.arange(53), np.arange(53, 78))]
    )
    for name in ("ev", "r", "r2", "mse", "alpha"):
        assert getattr(scores, name)[0, 2] == pytest.approx(getattr(alone, name)[0, 0], rel=1e-8)


def test_other_neurons_do_not_notice() -> None:
    features, responses = synthetic()
    complete = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)])
    responses[5, 2] = np.nan
    scores = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)])
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(scores.ev[:, others], complete.ev[:, others])


@pytest.mark.parametrize("n_recorded", [0, 1, 8])
def test_a_neuron_with_too_few_images_has_no_score(n_recorded: int) -> None:
    features, responses = synthetic()
    responses[n_recorded:60, 1] = np.nan
    scores = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)])
    assert np.isnan(scores.ev[0, 1])
    assert np.isfinite(scores.ev[0, [0, 2, 3, 4, 5]]).all()


def test_one_neuron_alone() -> None:
    features, responses = synthetic(1)
    scores = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)])
    assert scores.ev.shape == (1, 1)
    assert np.isfinite(scores.ev).all()


@pytest.mark.parametrize("separate", [False, True])
def test_pls_predicts_as_scikit_learn_does(separate: bool) -> None:
    features, responses = synthetic()
    readout = Readout("pls", n_latent=5, pls_per_neuron=separate)
    scores = encoder(features, responses).score(readout, [(TRAIN, TEST)])
    columns = [[i] for i in range(6)] if separate else [list(range(6))]
    for neurons in columns:
        peer = PLSRegression(5, scale=False, tol=1e-20, max_iter=10_000)
        peer.fit(features[TRAIN], responses[np.ix_(TRAIN, neurons)])
        predicted = peer.predict(features[TEST]).reshape(len(TEST), -1)
        expected = pearson_r(responses[np.ix_(TEST, neurons)], predicted)
        np.testing.assert_allclose(scores.r[0, neurons], expected, rtol=1e-5)
    assert (scores.n_components == 5).all()
    assert np.isnan(scores.alpha).all()


def test_pls_needs_latent_components() -> None:
    with pytest.raises(ReadoutError, match="n_latent is None"):
        Readout("pls")


def test_p_values_tell_signal_from_noise() -> None:
    features, responses = synthetic()
    signal = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)], n_permutations=200)
    noise = np.random.default_rng(1).normal(size=responses.shape)
    chance = encoder(features, noise).score(RIDGE, [(TRAIN, TEST)], n_permutations=200)
    assert signal.p_value[0] == pytest.approx(1 / 201)
    assert chance.p_value[0] > 0.05
