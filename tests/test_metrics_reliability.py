"""The split-half ceiling against its definition, written out with loops."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.model_selection import ShuffleSplit

from toolkit.metrics import MetricError, median_over_neurons, spearman_brown, split_half_ceiling


def recording(n_images=80, n_neurons=5, n_repetitions=7, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((n_images, n_neurons, 1))
    return signal + noise * rng.standard_normal((n_images, n_neurons, n_repetitions))


def ceiling_by_definition(repetitions, n_splits=10, random_state=1):
    """Literal, slow: one split, one neuron, one image at a time."""
    n_images, n_neurons, n_repetitions = repetitions.shape
    repetition_ids = np.unique(np.arange(n_repetitions))
    ceilings = np.empty((n_splits, n_neurons))
    halvings = ShuffleSplit(n_splits=n_splits, test_size=0.5, random_state=random_state)
    for split, (half1, half2) in enumerate(halvings.split(repetition_ids)):
        for neuron in range(n_neurons):
            means1, means2 = [], []
            for image in range(n_images):
                values1 = [v for v in repetitions[image, neuron, half1] if v == v]
                values2 = [v for v in repetitions[image, neuron, half2] if v == v]
                if values1 and values2:
                    means1.append(sum(values1) / len(values1))
                    means2.append(sum(values2) / len(values2))
            r = stats.pearsonr(means1, means2).statistic
            ceilings[split, neuron] = 2 * r / (1 + r)
    return ceilings


@pytest.mark.parametrize("n_repetitions", [2, 5, 8])
def test_ceiling_is_its_definition(n_repetitions):
    repetitions = recording(n_repetitions=n_repetitions)
    np.testing.assert_allclose(
        split_half_ceiling(repetitions), ceiling_by_definition(repetitions), atol=1e-12
    )


def test_ceiling_is_its_definition_with_images_shown_unequally_often():
    repetitions = recording(n_repetitions=6)
    rng = np.random.default_rng(2)
    for image in range(len(repetitions)):
        repetitions[image, :, rng.integers(1, 7) :] = np.nan
    repetitions[rng.random(repetitions.shape) < 0.1] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ceilings = split_half_ceiling(repetitions.astype(np.float32))
    expected = ceiling_by_definition(repetitions.astype(np.float32).astype(float))
    np.testing.assert_allclose(ceilings, expected, atol=1e-12)


def test_repetitions_that_never_took_place_are_not_halved():
    repetitions = recording(n_repetitions=4)
    padded = np.insert(repetitions, [0, 2, 2, 4], np.nan, axis=2)
    np.testing.assert_array_equal(split_half_ceiling(padded), split_half_ceiling(repetitions))


def test_ceiling_recovers_the_reliability_of_the_average():
    # reliability of a mean of R repetitions: signal / (signal + noise² / R)
    repetitions = recording(n_images=4000, n_neurons=3, n_repetitions=10, noise=3.0)
    assert median_over_neurons(split_half_ceiling(repetitions)) == pytest.approx(
        1 / (1 + 9 / 10), abs=0.03
    )


def test_a_silent_neuron_has_no_ceiling_and_spoils_no_other():
    repetitions = recording()
    expected = split_half_ceiling(repetitions)
    repetitions[:, 1] = 0.0
    repetitions[:, 3] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ceilings = split_half_ceiling(repetitions)
    assert np.isnan(ceilings[:, [1, 3]]).all()
    np.testing.assert_array_equal(ceilings[:, [0, 2, 4]], expected[:, [0, 2, 4]])


def test_one_repetition_has_no_halves():
    with pytest.raises(MetricError, match="at least two"):
        split_half_ceiling(recording(n_repetitions=1))
    with pytest.raises(MetricError, match="n_repetitions"):
        split_half_ceiling(recording()[:, :, 0])


def test_spearman_brown_by_hand():
    np.testing.assert_allclose(spearman_brown([0.0, 0.5, 1.0]), [0.0, 2 / 3, 1.0])
    assert np.isnan(spearman_brown(-1.0))
