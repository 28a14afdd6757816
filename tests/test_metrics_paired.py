import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.metrics import MetricError
from toolkit.metrics.paired import paired_difference


def every_sign_flip(differences: np.ndarray) -> float:
    """Two-sided p-value by definition: as far from 0 on either side, over all sign patterns."""
    means = [
        np.mean(differences * signs)
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    observed = abs(differences.mean())
    return float(np.mean([abs(mean) >= observed - 1e-12 for mean in means]))


@given(st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8))
@settings(max_examples=30, deadline=None)
def test_few_neurons_are_tested_exactly(differences: list[float]) -> None:
    first = np.linspace(0.1, 0.6, len(differences))
    found = paired_difference(first, first + differences)
    exact = every_sign_flip(np.round((first + differences) - first, 12))
    assert found.p_value == pytest.approx(exact, abs=1e-9)
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-12)


def test_a_shift_of_all_neurons_is_seen_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    first = random.uniform(0, 0.8, 100)
    shifted = paired_difference(first, first + 0.05 + random.normal(0, 0.05, 100))
    assert shifted.p_value < 0.001
    assert shifted.low > 0.03
    assert shifted.high < 0.07
    noise = [
        paired_difference(first, first + random.normal(0, 0.05, 100), n_resamples=199).p_value
        for _ in range(100)
    ]
    assert np.mean(np.array(noise) < 0.05) < 0.15


def test_neurons_without_both_scores_are_left_out() -> None:
    first, second = np.array([0.1, np.nan, 0.3, 0.2]), np.array([0.2, 0.5, np.nan, 0.5])
    assert paired_difference(first, second).n_neurons == 2
    assert paired_difference(first, second).mean == pytest.approx(0.2)
    one = paired_difference(first[:2], second[:2])
    assert one.n_neurons == 1
    assert np.isnan(one.p_value)


def test_scores_that_do_not_match_are_refused() -> None:
    with pytest.raises(MetricError, match=r"\(3,\) and \(2,\)"):
        paired_difference(np.zeros(3), np.zeros(2))
