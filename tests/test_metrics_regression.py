"""Scores against scikit-learn and SciPy, and what they do where there is no score."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import explained_variance_score, mean_squared_error, r2_score

from toolkit.metrics import (
    MetricError,
    explained_variance,
    is_constant,
    mse,
    pearson_r,
    pearson_r_pairwise,
    r2,
)

METRICS = [explained_variance, r2, mse, pearson_r]


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noisy_pair(n=300, m=7, offset=0.0, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n, m)) * rng.uniform(0.1, 30, m) + offset
    return y, 0.6 * y + rng.standard_normal((n, m)) + 0.3


@pytest.mark.parametrize("offset", [0.0, -1e3, 1e6])
def test_scores_are_those_of_sklearn_and_scipy(offset):
    y, p = noisy_pair(offset=offset)
    # both sides round to offset/sd · eps
    tolerance = 1e-10 if offset < 1e6 else 1e-8
    raw = {"multioutput": "raw_values"}
    np.testing.assert_allclose(
        explained_variance(y, p), explained_variance_score(y, p, **raw), atol=tolerance
    )
    np.testing.assert_allclose(r2(y, p), r2_score(y, p, **raw), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(mse(y, p), mean_squared_error(y, p, **raw), rtol=1e-12)
    np.testing.assert_allclose(
        pearson_r(y, p), stats.pearsonr(y, p, axis=0).statistic, atol=tolerance
    )


values = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda value: round(value, 3))
pairs = st.integers(3, 30).flatmap(
    lambda n: st.tuples(
        arrays(float, (n, 3), elements=values), arrays(float, (n, 3), elements=values)
    )
)


def well_scaled(x):
    """Columns whose spread is not lost in the rounding of their mean."""
    return x.std(axis=0) > 1e-4 * (1 + np.abs(x).max(axis=0))


@settings(max_examples=100, deadline=None)
@given(pairs)
def test_any_arrays_score_as_sklearn_and_scipy_score_them(pair):
    y, p = pair
    for neuron in np.flatnonzero(well_scaled(y) & well_scaled(p)):
        a, b = y[:, neuron], p[:, neuron]
        for ours, theirs in (
            (explained_variance(a, b), explained_variance_score(a, b)),
            (r2(a, b), r2_score(a, b)),
        ):
            assert ours == pytest.approx(theirs, rel=1e-10, abs=1e-10)
        assert pearson_r(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-10)


@settings(max_examples=100, deadline=None)
@given(pairs, st.floats(-100, 100), st.floats(0.01, 100))
def test_an_offset_costs_no_ev_and_a_scale_no_r(pair, offset, scale):
    y, p = pair
    good = well_scaled(y) & well_scaled(p)
    np.testing.assert_allclose(
        explained_variance(y, p + offset)[good],
        explained_variance(y, p)[good],
        rtol=1e-7,
        atol=1e-7,
    )
    np.testing.assert_allclose(
        pearson_r(y, scale * p + offset)[good], pearson_r(y, p)[good], atol=1e-7
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("constant", [0.0, 0.1, -7e5])
def test_a_neuron_of_zero_variance_has_no_score_and_spoils_no_other(metric, constant):
    y, p = noisy_pair()
    expected = metric(y, p)
    y[:, 2] = constant
    scores = metric(y, p)
    assert np.isnan(scores[2])
    np.testing.assert_array_equal(np.delete(scores, 2), np.delete(expected, 2))


def test_a_neuron_constant_up_to_rounding_has_no_score():
    y, p = noisy_pair()
    y[:, 0] = np.where(np.arange(len(y)) % 2, 0.1 + 0.2, 0.3)
    assert np.ptp(y[:, 0]) > 0
    assert all(np.isnan(metric(y, p)[0]) for metric in METRICS)


def test_a_constant_prediction_explains_nothing_and_has_no_correlation():
    y, p = noisy_pair()
    p[:] = y.mean(axis=0)
    np.testing.assert_allclose(explained_variance(y, p), 0, atol=1e-12)
    np.testing.assert_allclose(r2(y, p), 0, atol=1e-12)
    assert np.isnan(pearson_r(y, p)).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_leaves_its_neuron_without_score(metric, bad):
    y, p = noisy_pair()
    expected = metric(y, p)
    p[3, 1] = bad
    scores = metric(y, p)
    assert not np.isfinite(scores[1])
    np.testing.assert_array_equal(np.delete(scores, 1), np.delete(expected, 1))


@pytest.mark.parametrize("scale", [1e-160, 1e150])
def test_squares_neither_overflow_nor_vanish(scale):
    y, p = noisy_pair()
    for metric in (explained_variance, r2, pearson_r):
        np.testing.assert_allclose(metric(y * scale, p * scale), metric(y, p), rtol=1e-12)


def test_a_perfect_prediction_scores_exactly_one():
    y, _ = noisy_pair()
    assert (explained_variance(y, y) == 1).all()
    assert (r2(y, y) == 1).all()
    assert (pearson_r(y, y) <= 1).all()
    np.testing.assert_allclose(pearson_r(y, y), 1, rtol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_shapes_that_would_broadcast_are_refused(metric):
    y, p = noisy_pair(m=1)
    with pytest.raises(MetricError, match=r"\(300, 1\).*\(300,\)"):
        metric(y, p[:, 0])
    with pytest.raises(MetricError, match="no image"):
        metric(np.empty((0, 3)), np.empty((0, 3)))


def test_pairwise_correlation_leaves_out_what_either_side_lacks():
    a, b = noisy_pair(n=60)
    rng = np.random.default_rng(1)
    a[rng.random(a.shape) < 0.3] = np.nan
    b[rng.random(b.shape) < 0.3] = np.nan
    for neuron, r in enumerate(pearson_r_pairwise(a, b)):
        both = ~(np.isnan(a[:, neuron]) | np.isnan(b[:, neuron]))
        assert both.sum() < 50
        expected = stats.pearsonr(a[both, neuron], b[both, neuron]).statistic
        assert r == pytest.approx(expected, abs=1e-12)


def test_pairwise_correlation_of_fewer_than_two_images_is_undefined():
    a, b = noisy_pair(n=10, m=3)
    a[1:, 0] = np.nan
    a[:5, 1], b[5:, 1] = np.nan, np.nan
    assert np.isnan(pearson_r_pairwise(a, b)).tolist() == [True, True, False]


def test_constant_columns_are_told_from_varying_ones():
    x = np.array([[1.0, 5.0, np.nan, 0.0], [1.0, 5.0 + 1e-9, 1.0, 0.0]])
    assert is_constant(x).tolist() == [True, False, False, True]
