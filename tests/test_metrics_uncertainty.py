"""Errors, intervals and p-values against SciPy and their definitions."""

import warnings
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from toolkit.metrics import MetricError, pearson_r, pearson_r_pairwise, sem, summarise
from toolkit.metrics.uncertainty import bootstrap_interval, permutation_p_value

REDUCE = {"mean": np.mean, "median": np.median}


def recorded(n_images=60, n_neurons=12, signal=0.0, seed=0):
    """Synthetic responses, correlated between neurons, and predictions of them."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n_images, 1))
    y = shared + rng.standard_normal((n_images, n_neurons))
    p = signal * y + rng.standard_normal((n_images, 1)) + rng.standard_normal(y.shape)
    return y, p


# sem


def test_sem_is_the_population_formula_and_that_of_the_summary():
    scores = np.random.default_rng(0).random((10, 30))
    medians = np.median(scores, axis=1)
    assert sem(medians) == pytest.approx(stats.sem(medians, ddof=0), rel=1e-12)
    assert sem(medians) == pytest.approx(summarise(scores).median_sem, rel=1e-12)
    assert sem([0.3, np.nan, 0.5]) == sem([0.3, 0.5])


@pytest.mark.parametrize("values", [[0.3], [0.3, np.nan], [np.nan, np.nan]])
def test_a_single_split_says_nothing_of_its_error(values):
    assert np.isnan(sem(values))


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]], 0.3])
def test_sem_needs_one_value_per_split(values):
    with pytest.raises(MetricError, match="n_splits"):
        sem(values)


# bootstrap


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_interval_of_one_split_is_scipys_percentile_bootstrap(statistic):
    scores = np.random.default_rng(1).beta(2, 3, 80)
    low, high = bootstrap_interval(scores, statistic=statistic, seed=7)
    expected = stats.bootstrap(
        (scores,), REDUCE[statistic], n_resamples=10_000, method="percentile", rng=123
    ).confidence_interval
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.05 * width)
    assert high == pytest.approx(expected.high, abs=0.05 * width)
    assert low < REDUCE[statistic](scores) < high


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_interval_over_splits_resamples_neurons_with_all_their_splits(statistic):
    rng = np.random.default_rng(2)
    scores = rng.random(40) + 0.1 * rng.standard_normal((5, 40))
    resampled = scores[:, rng.integers(40, size=(10_000, 40))]
    by_definition = np.percentile(REDUCE[statistic](resampled, axis=2).mean(axis=0), [2.5, 97.5])
    np.testing.assert_allclose(
        bootstrap_interval(scores, statistic=statistic),
        by_definition,
        atol=0.05 * np.ptp(by_definition),
    )


def test_mean_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        low, high = bootstrap_interval(
            rng.standard_normal(60), statistic="mean", confidence=0.8, n_resamples=400
        )
        covered += low <= 0 <= high
    assert covered / 300 == pytest.approx(0.8, abs=0.08)


def test_undefined_neurons_are_left_out():
    scores = np.random.default_rng(4).random((3, 30))
    with_undefined = np.insert(scores, [0, 10, 30], np.nan, axis=1)
    with_undefined[:2, 0] = 5.0  # undefined in the last split only
    assert bootstrap_interval(with_undefined) == bootstrap_interval(scores)


@pytest.mark.parametrize("scores", [[], [0.5], [0.5, np.nan], [np.nan, np.nan]])
def test_fewer_than_two_neurons_have_no_interval(scores):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(bootstrap_interval(scores)).all()


def test_interval_is_the_same_for_the_same_seed_only():
    scores = np.random.default_rng(5).random(30)
    first, again, other = (
        bootstrap_interval(scores, statistic="mean", seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other


@settings(deadline=None, max_examples=30)
@given(
    scores=st.lists(st.floats(-1, 1), min_size=2, max_size=20),
    shift=st.floats(-10, 10),
    statistic=st.sampled_from(["mean", "median"]),
)
def test_interval_lies_within_the_scores_and_moves_with_them(scores, shift, statistic):
    def interval(values):
        return np.array(bootstrap_interval(values, statistic=statistic, n_resamples=200))

    low, high = interval(scores)
    assert min(scores) - 1e-12 <= low <= high <= max(scores) + 1e-12
    moved = interval(np.add(scores, shift))
    np.testing.assert_allclose(moved, [low + shift, high + shift], atol=1e-300)


def test_intervals_of_higher_confidence_are_wider():
    scores = np.random.default_rng(6).random(50)
    low, high = bootstrap_interval(scores, confidence=0.5)
    wider_low, wider_high = bootstrap_interval(scores, confidence=0.99)
    assert wider_low < low < high < wider_high


# permutation


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_p_value_of_few_images_is_the_share_of_all_permutations(statistic):
    y, p = recorded(n_images=6, n_neurons=4, signal=0.3)
    observed = REDUCE[statistic](pearson_r(y, p))
    shuffled = [REDUCE[statistic](pearson_r(y[list(o)], p)) for o in permutations(range(6))]
    expected = np.mean(np.array(shuffled) >= observed - 1e-12)
    assert 0 < expected < 1
    assert permutation_p_value(y, p, statistic=statistic) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_p_value_of_many_images_is_near_that_of_a_literal_loop(statistic):
    y, p = recorded(signal=0.03, seed=0)
    observed = REDUCE[statistic](pearson_r(y, p))
    rng = np.random.default_rng(99)
    shuffled = [REDUCE[statistic](pearson_r(rng.permutation(y), p)) for _ in range(4000)]
    expected = (1 + np.sum(np.array(shuffled) >= observed)) / 4001
    assert 0.02 < expected < 0.98
    ours = permutation_p_value(y, p, statistic=statistic, n_permutations=4000)
    assert ours == pytest.approx(expected, abs=0.03)


def test_p_value_under_the_null_is_uniform_although_neurons_are_correlated():
    p_values = [
        permutation_p_value(*recorded(n_images=30, n_neurons=5, seed=seed), n_permutations=199)
        for seed in range(300)
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.04)


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("n_permutations", [1, 199, 1_000])
def test_strong_signal_has_the_smallest_p_value_there_can_be(statistic, n_permutations):
    y, p = recorded(signal=3.0)
    p_value = permutation_p_value(y, p, statistic=statistic, n_permutations=n_permutations)
    assert p_value == pytest.approx(1 / (1 + n_permutations), rel=1e-12)


def test_predictions_of_the_opposite_sign_are_not_significant():
    y, p = recorded(signal=3.0)
    assert permutation_p_value(y, -p) == 1


def test_images_with_the_same_responses_are_ties_at_least_as_high():
    y = np.repeat([[0.1], [0.3]], 4, axis=0)  # 8! > n: sampled; 1 in 70 orders is the observed one
    p_value = permutation_p_value(y, y * 0.7, n_permutations=2_000)
    assert p_value == pytest.approx(1 / 70, abs=0.01)
    assert p_value > 5 / 2_001


def test_neurons_without_a_correlation_are_left_out():
    y, p = recorded(signal=0.1)
    expected = permutation_p_value(y, p)
    y = np.insert(y, [0, 5, 12], 1.0, axis=1)
    p = np.insert(p, [0, 5, 12], 1.0, axis=1)
    y[:, 0] = np.arange(60)  # its prediction is constant
    y[3, 6] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert permutation_p_value(y, p) == expected
        assert np.isnan(permutation_p_value(y[:, :1], p[:, :1]))
        assert np.isnan(permutation_p_value(y[:1], p[:1]))


def test_p_value_of_masked_neurons_is_over_all_of_them_on_the_images_that_they_have():
    y, p = recorded(n_images=7, n_neurons=4, signal=0.4, seed=2)
    y[1, 0], y[2:4, 1], y[5, 2] = np.nan, np.nan, np.nan
    observed = pearson_r_pairwise(y, p).mean()
    shuffled = [pearson_r_pairwise(y[list(o)], p).mean() for o in permutations(range(7))]
    expected = np.mean(np.array(shuffled) >= observed - 1e-12)
    assert 0 < expected < 1
    ours = permutation_p_value(y, p, statistic="mean", n_permutations=5040)
    assert ours == pytest.approx(expected, rel=1e-12)


def test_p_value_is_the_same_for_the_same_seed_only():
    y, p = recorded(signal=0.05, seed=4)
    assert permutation_p_value(y, p, seed=1) == permutation_p_value(y, p, seed=1)
    assert len({permutation_p_value(y, p, seed=seed) for seed in range(5)}) > 1


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**16),
    gain=st.sampled_from([1e-3, 2.0, 1e4]),
    offset=st.floats(-10, 10),
)
def test_gain_and_offset_of_predictions_do_not_matter(seed, gain, offset):
    y, p = recorded(n_images=20, n_neurons=3, signal=0.2, seed=seed)
    expected = permutation_p_value(y, p, n_permutations=99)
    assert permutation_p_value(y, gain * p + offset, n_permutations=99) == expected


# arguments


def test_arguments_out_of_range_are_refused_with_what_to_write():
    y, p = recorded()
    with pytest.raises(MetricError, match="mean"):
        permutation_p_value(y, p, statistic="mode")
    with pytest.raises(MetricError, match="median"):
        bootstrap_interval([0.1, 0.2], statistic="mode")
    with pytest.raises(MetricError, match="n_permutations is 0"):
        permutation_p_value(y, p, n_permutations=0)
    with pytest.raises(MetricError, match="n_resamples is 0"):
        bootstrap_interval([0.1, 0.2], n_resamples=0)
    with pytest.raises(MetricError, match=r"0\.95"):
        bootstrap_interval([0.1, 0.2], confidence=95)
    with pytest.raises(MetricError, match="differ"):
        permutation_p_value(y, p[:-1])
    with pytest.raises(MetricError, match="n_neurons"):
        permutation_p_value(y[:, 0], p[:, 0])
    with pytest.raises(MetricError, match="n_neurons"):
        bootstrap_interval(np.zeros((2, 3, 4)))
