"""Aggregates and ceiled scores, by hand."""

import warnings

import numpy as np
import pytest

from toolkit.metrics import (
    MetricError,
    ceiled_2018,
    ceiled_2026,
    mean_over_neurons,
    mean_over_splits,
    median_over_neurons,
    summarise,
)

SCORES = np.array([[0.1, 0.2, 0.6, np.nan], [0.3, 0.4, 0.8, 0.5]])


def test_neurons_are_aggregated_before_splits():
    summary = summarise(SCORES)
    assert summary.mean == pytest.approx((0.3 + 0.5) / 2)
    assert summary.median == pytest.approx((0.2 + 0.45) / 2)
    assert summary.median_sem == pytest.approx(np.std([0.2, 0.45]) / np.sqrt(2))
    assert (summary.n_neurons, summary.n_undefined) == (4, 1)
    assert median_over_neurons(SCORES) == summary.median


def test_a_split_without_scores_gives_nan_and_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summary = summarise(np.full((2, 3), np.nan))
    assert np.isnan([summary.mean, summary.median, summary.median_sem]).all()
    assert summary.n_undefined == 3


def test_a_neuron_that_is_silent_in_one_split_keeps_its_score_in_the_others():
    scores = np.array([[0.2, np.nan, np.nan], [0.4, 0.5, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(mean_over_splits(scores), [0.3, 0.5, np.nan], rtol=1e-15)
        np.testing.assert_allclose(mean_over_neurons(scores), [0.2, 0.45], rtol=1e-15)


def test_a_split_that_scores_no_neuron_is_left_out():
    summary = summarise(np.vstack([SCORES, np.full(4, np.nan)]))
    with_it = summarise(SCORES)
    assert (summary.mean, summary.median) == (with_it.mean, with_it.median)
    assert summary.median_sem == with_it.median_sem
    assert np.isnan(summarise(SCORES[:1]).median_sem)


def test_ceiled_scores_by_hand():
    r, ceiling = np.array([[0.5, 0.6, 0.9]]), np.array([[0.7, 0.8, 0.9], [0.7, 0.8, 0.9]])
    assert ceiled_2026(r, ceiling) == pytest.approx(0.6**2 / 0.8)
    assert ceiled_2018(r, ceiling) == pytest.approx((0.6 / 0.8) ** 2)


@pytest.mark.parametrize("ceiling", [-0.2, 0.0, np.nan])
def test_a_ceiling_that_is_not_positive_gives_no_ceiled_score(ceiling):
    r = np.array([[0.5, 0.6]])
    assert np.isnan(ceiled_2026(r, np.full((1, 2), ceiling)))
    assert np.isnan(ceiled_2018(r, np.full((1, 2), ceiling)))


def test_scores_without_an_axis_of_splits_are_refused():
    with pytest.raises(MetricError, match=r"scores\[None\]"):
        summarise(SCORES[0])
