"""Neurons that were not recorded for every image, and read-outs by PLS."""

import numpy as np
import pytest
from scipy import stats
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


def test_a_neuron_that_has_two_test_images_has_no_score() -> None:
    features, responses = synthetic()
    responses[62:90, 1] = np.nan
    scores = encoder(features, responses).score(RIDGE, [(TRAIN, TEST)])
    for name in ("ev", "r", "r2", "mse"):
        assert np.isnan(getattr(scores, name)[0]).tolist() == [False, True, *[False] * 4]


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
    assert signal.p_value == pytest.approx(1 / 201)
    assert chance.p_value > 0.05


FOLDS = [
    (np.flatnonzero(np.arange(90) % 3 != k), np.flatnonzero(np.arange(90) % 3 == k))
    for k in range(3)
]


@pytest.mark.parametrize("splits", [[(TRAIN, TEST)], FOLDS], ids=["one split", "three folds"])
def test_the_p_value_is_of_all_neurons_whichever_images_each_misses(splits) -> None:
    features, responses = synthetic()
    responses[:, 5] = np.random.default_rng(1).normal(size=90)
    responses[np.arange(6), np.arange(6)] = np.nan  # six groups of one neuron, the last untuned
    scores = encoder(features, responses).score(RIDGE, splits, n_permutations=19)
    assert scores.p_value == pytest.approx(1 / 20)


READOUTS = {
    "ridge": RIDGE,
    "ridge-shared": Readout("ridge", 10, (1.0, 100.0, 1e4), alpha_per_neuron=False),
    "linear": Readout("linear", 5),
    "pls": Readout("pls", n_latent=2),
    "pls-separate": Readout("pls", n_latent=2, pls_per_neuron=True),
}


@pytest.mark.parametrize("readout", READOUTS.values(), ids=READOUTS)
def test_every_split_is_fitted_anew_to_shuffled_images(readout: Readout) -> None:
    """Against shuffling by hand: the share of shuffles whose mean r is at or above."""
    features, responses = synthetic(3)
    responses = 0.05 * responses + np.random.default_rng(2).normal(size=responses.shape)

    def mean_r(responses: np.ndarray) -> float:
        return encoder(features, responses).score(readout, FOLDS).r.mean()

    random = np.random.default_rng(0)
    shuffled = [mean_r(responses[random.permutation(90)]) for _ in range(19)]
    expected = (1 + np.sum(np.array(shuffled) >= mean_r(responses))) / 20
    scores = encoder(features, responses).score(readout, FOLDS, n_permutations=19)
    assert scores.p_value == pytest.approx(expected)


def test_p_values_over_folds_are_uniform_under_the_null() -> None:
    random = np.random.default_rng(3)
    features = random.normal(size=(40, 12)) * np.arange(1, 13) ** -0.5
    readout = Readout("ridge", alphas=(10.0,))
    splits = [(np.flatnonzero(np.arange(40) % 2 != k), np.arange(k, 40, 2)) for k in range(2)]
    p_values = []
    for _ in range(200):
        noise = random.normal(size=(40, 1)) + random.normal(size=(40, 4))
        scores = encoder(features, noise).score(readout, splits, n_permutations=39)
        p_values.append(scores.p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.04)
