"""RDM comparison and unbiased CKA: against SciPy, rsatoolbox and the formulas written out."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import squareform

from toolkit.metrics import MetricError
from toolkit.metrics.similarity import (
    linear_cka_unbiased,
    rank_percentiles,
    rdm_kendall_tau_a,
    rdm_pearson,
    rdm_spearman,
    unbiased_hsic,
)

COMPARISONS = {"corr": rdm_pearson, "spearman": rdm_spearman, "tau-a": rdm_kendall_tau_a}


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def synthetic_rdms(n=25, n_levels=None, seed=0):
    """Two related RDMs; with ``n_levels`` distinct values where that is given."""
    rng = np.random.default_rng(seed)
    x = rng.random(n * (n - 1) // 2)
    y = 0.5 * x + 0.5 * rng.random(len(x))
    if n_levels:
        x, y = np.floor(x * n_levels), np.floor(y * (n_levels + 2))
    return squareform(x), squareform(y)


def synthetic_gram(n=12, p=30, seed=0):
    X = np.random.default_rng(seed).standard_normal((n, p))
    return X @ X.T


def tau_a_by_counting(x, y):
    pairs = list(itertools.combinations(range(len(x)), 2))
    return sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs) / len(pairs)


def hsic_as_published(K, L):
    """Song et al. (2012), their unbiased estimator, term by term."""
    n = len(K)
    K, L = K - np.diag(np.diag(K)), L - np.diag(np.diag(L))
    ones = np.ones(n)
    total = np.trace(K @ L)
    total += (ones @ K @ ones) * (ones @ L @ ones) / ((n - 1) * (n - 2))
    total -= 2 / (n - 2) * (ones @ K @ L @ ones)
    return total / (n * (n - 3))


def hsic_as_u_statistic(K, L):
    """Mean over all ordered quadruples of different images of Song et al.'s kernel."""
    quadruples = itertools.permutations(range(len(K)), 4)
    return np.mean([K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in quadruples])


@pytest.mark.parametrize("n_levels", [None, 4])
@pytest.mark.parametrize("method", COMPARISONS)
def test_comparisons_are_those_of_rsatoolbox(method, n_levels):
    rsatoolbox_rdm = pytest.importorskip("rsatoolbox.rdm")
    x, y = synthetic_rdms(n_levels=n_levels)
    theirs = rsatoolbox_rdm.compare(
        rsatoolbox_rdm.RDMs(x[None]), rsatoolbox_rdm.RDMs(y[None]), method=method
    )
    assert COMPARISONS[method](x, y) == pytest.approx(theirs.item(), abs=1e-13)


@pytest.mark.parametrize("n_levels", [None, 4])
def test_comparisons_are_those_of_scipy_and_of_counting_pairs(n_levels):
    x, y = synthetic_rdms(n=14, n_levels=n_levels)
    a, b = squareform(x), squareform(y)
    assert rdm_pearson(x, y) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-13)
    assert rdm_spearman(x, y) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-13)
    assert rdm_kendall_tau_a(x, y) == pytest.approx(tau_a_by_counting(a, b), abs=1e-14)
    tau_b = stats.kendalltau(a, b).statistic
    assert (abs(rdm_kendall_tau_a(x, y) - tau_b) > 0.01) == (n_levels is not None)


@settings(max_examples=100, deadline=None)
@given(arrays(float, (2, 15), elements=st.integers(-3, 3).map(float)))
def test_comparisons_of_any_rdms_with_ties(entries):
    a, b = entries
    x, y = squareform(a), squareform(b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert all(np.isnan(compare(x, y)) for compare in COMPARISONS.values())
        return
    assert rdm_pearson(x, y) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert rdm_spearman(x, y) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert rdm_kendall_tau_a(x, y) == pytest.approx(tau_a_by_counting(a, b), abs=1e-12)
    for compare in COMPARISONS.values():
        assert compare(x, y) == pytest.approx(compare(y, x), abs=1e-14)
        assert compare(x, -y) == pytest.approx(-compare(x, y), abs=1e-12)


def test_ranks_survive_a_monotone_change_and_pearson_an_affine_one():
    x, y = synthetic_rdms()
    for compare in (rdm_spearman, rdm_kendall_tau_a):
        assert compare(x, y**2) == pytest.approx(compare(x, y), abs=1e-14)
    assert rdm_pearson(x, 3 * y + 7) == pytest.approx(rdm_pearson(x, y), abs=1e-13)


@pytest.mark.parametrize("compare", COMPARISONS.values())
def test_only_the_strict_upper_triangle_is_read(compare):
    x, y = synthetic_rdms()
    expected = compare(x, y)
    x[np.tril_indices(len(x))] = np.nan
    assert compare(x, y) == expected


@pytest.mark.parametrize("compare", COMPARISONS.values())
def test_a_constant_rdm_correlates_with_nothing(compare):
    x, _ = synthetic_rdms()
    assert np.isnan(compare(x, np.full_like(x, 0.1)))
    rounding = np.where(x > 0.5, 0.1 + 0.2, 0.3)
    assert np.ptp(rounding) > 0
    assert np.isnan(compare(rounding, x))


@pytest.mark.parametrize("compare", COMPARISONS.values())
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_undefined_entry_is_named(compare, bad):
    x, y = synthetic_rdms()
    y[3, 7] = y[4, 9] = bad
    with pytest.raises(MetricError, match=r"2 of 300 entries of the second RDM .* images 3, 7"):
        compare(x, y)


def test_rdms_that_do_not_match_are_refused():
    x, y = synthetic_rdms()
    with pytest.raises(MetricError, match=r"\(25, 25\) and \(24, 24\)"):
        rdm_spearman(x, y[:-1, :-1])
    with pytest.raises(MetricError, match="squareform"):
        rdm_spearman(squareform(x), squareform(y))


def test_percentiles_run_from_0_to_100_in_the_order_of_the_entries():
    x, _ = synthetic_rdms()
    percentiles = rank_percentiles(x)
    upper = np.triu_indices(25, 1)
    assert percentiles[upper].min() == 0
    assert percentiles[upper].max() == 100
    np.testing.assert_array_equal(np.argsort(percentiles[upper]), np.argsort(x[upper]))
    np.testing.assert_array_equal(percentiles, percentiles.T)
    assert not percentiles.diagonal().any()


def test_percentiles_of_ties_are_shared_and_undefined_entries_not_counted():
    rdm = squareform(np.array([1.0, 1.0, 5.0, np.nan, 2.0, 9.0]))
    expected = squareform(np.array([12.5, 12.5, 75.0, np.nan, 50.0, 100.0]), checks=False)
    np.testing.assert_array_equal(rank_percentiles(rdm), expected)
    assert (squareform(rank_percentiles(1 - np.eye(4))) == 50).all()


def test_hsic_is_the_published_formula_and_the_u_statistic():
    K, L = synthetic_gram(n=7), synthetic_gram(n=7, p=4, seed=1)
    assert unbiased_hsic(K, L) == pytest.approx(hsic_as_published(K, L), rel=1e-12)
    assert unbiased_hsic(K, L) == pytest.approx(hsic_as_u_statistic(K, L), rel=1e-12)


def test_cka_is_the_published_ratio():
    K, L = synthetic_gram(n=40), synthetic_gram(n=40, p=4, seed=1) + 0.5 * synthetic_gram(n=40)
    ratio = hsic_as_published(K, L) / np.sqrt(hsic_as_published(K, K) * hsic_as_published(L, L))
    assert 0.1 < ratio < 0.9
    assert linear_cka_unbiased(K, L) == pytest.approx(ratio, rel=1e-11)


@settings(max_examples=60, deadline=None)
@given(st.integers(5, 15), st.integers(2, 8), st.floats(1e-3, 1e3), st.integers(0, 2**32 - 1))
def test_cka_does_not_see_rotation_scale_or_shift(n, p, scale, seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, p)), rng.standard_normal((n, p + 1))
    rotation = stats.ortho_group.rvs(p, random_state=rng) if p > 1 else np.eye(1)
    moved = scale * X @ rotation + scale * 5 * rng.standard_normal(p)
    expected = linear_cka_unbiased(X @ X.T, Y @ Y.T)
    assert linear_cka_unbiased(moved @ moved.T, Y @ Y.T) == pytest.approx(expected, abs=1e-9)
    assert linear_cka_unbiased(X @ X.T, moved @ moved.T) == pytest.approx(1, abs=1e-9)
    assert linear_cka_unbiased(Y @ Y.T, X @ X.T) == pytest.approx(expected, abs=1e-12)
    assert -1 <= expected <= 1


def test_hsic_of_independent_features_is_0_on_average():
    rng = np.random.default_rng(0)
    ckas, hsics, biased = [], [], []
    for _ in range(400):
        X, Y = rng.standard_normal((20, 30)), rng.standard_normal((20, 50))
        K, L = X @ X.T, Y @ Y.T
        hsics.append(unbiased_hsic(K, L))
        ckas.append(linear_cka_unbiased(K, L))
        C = np.eye(20) - 1 / 20
        biased.append(np.vdot(C @ K @ C, C @ L @ C) / 19**2)
    for values in (hsics, ckas):
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(400)
        assert 0.3 < np.mean(np.array(values) < 0) < 0.7
    assert np.mean(biased) > 100 * abs(np.mean(hsics))


@pytest.mark.parametrize("n", [4, 50, 400])
@pytest.mark.parametrize(
    "nothing",
    [
        pytest.param(lambda n: np.zeros((n, n)), id="zero"),
        pytest.param(lambda n: np.full((n, n), 0.1), id="constant"),
        pytest.param(lambda n: 0.3 * (np.eye(n) - 1 / n), id="equidistant"),
    ],
)
def test_cka_of_a_representation_without_structure_is_undefined(n, nothing):
    gram = synthetic_gram(n=n)
    assert np.isnan(linear_cka_unbiased(gram, nothing(n)))
    assert np.isnan(linear_cka_unbiased(nothing(n), gram))


def test_a_large_common_mean_costs_hsic_few_digits():
    K, L = synthetic_gram(n=60), synthetic_gram(n=60, seed=1)
    assert unbiased_hsic(K + 1e8, L) == pytest.approx(unbiased_hsic(K, L), rel=1e-5)


def test_gram_matrices_that_cannot_be_compared_are_refused():
    K = synthetic_gram()
    with pytest.raises(MetricError, match=r"\(12, 12\) and \(11, 11\)"):
        linear_cka_unbiased(K, K[1:, 1:])
    with pytest.raises(MetricError, match="at least four"):
        unbiased_hsic(K[:3, :3], K[:3, :3])
    L = K.copy()
    L[2, 5] = np.nan
    with pytest.raises(MetricError, match="second Gram matrix is not finite at images 2, 5"):
        linear_cka_unbiased(K, L)


def test_macaque_and_human_it_agree_as_published(shared_data: Path):
    scipy_io = pytest.importorskip("scipy.io")
    file = shared_data / "it_kriegeskorte92" / "Kriegeskorte_Neuron2008_supplementalData.mat"
    if not file.is_file():
        pytest.skip("the 92-image RDMs are not there")
    macaque, human = (
        squareform(entry["RDM"].ravel().astype(float))
        for entry in scipy_io.loadmat(file)["RDMs_mIT_hIT_fig1"][0]
    )
    assert macaque.shape == (92, 92)
    assert rdm_pearson(macaque, human) == pytest.approx(0.4912, abs=5e-5)
    assert rdm_spearman(macaque, human) == pytest.approx(0.4389, abs=5e-5)
