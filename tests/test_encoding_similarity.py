"""RDMs from one pass over the features: against the features themselves, SciPy and rsatoolbox."""

import operator
import warnings
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from toolkit.encoding import EncodingError, FeaturesError, column_slices, gram_matrix
from toolkit.encoding.similarity import (
    LayerStatistics,
    array_statistics,
    average_over_objects,
    block_statistics,
    correlation_rdm,
    cosine_rdm,
    euclidean_rdm,
    restrict,
)
from toolkit.metrics.similarity import linear_cka_unbiased, rdm_spearman

RDMS = {"correlation": correlation_rdm, "euclidean": euclidean_rdm, "cosine": cosine_rdm}
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def synthetic_features(n=40, p=500, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 15)) * np.arange(1, 16) ** -0.5
    return np.maximum(latent @ rng.standard_normal((15, p)) + rng.standard_normal(p), 0)


def streamed_statistics(X, width=97):
    """The way of a layer: one block of columns after the other."""
    columns = column_slices(X.shape[1], width)
    gram = gram_matrix(lambda s: X[:, s], columns, len(X))
    rows = reduce(operator.add, [block_statistics(X[:, s]) for s in columns])
    return LayerStatistics.from_gram(gram, rows)


def assert_same_statistics(ours, expected):
    largest = expected.gram.diagonal().max()
    np.testing.assert_allclose(ours.gram, expected.gram, atol=1e-12 * largest)
    np.testing.assert_allclose(ours.rows.row_sums, expected.rows.row_sums, atol=1e-10)
    np.testing.assert_allclose(
        ours.rows.mean_products, expected.rows.mean_products, atol=1e-12 * largest
    )
    assert ours.rows.mean_spread == pytest.approx(expected.rows.mean_spread, rel=1e-11)
    assert ours.rows.grand_mean == pytest.approx(expected.rows.grand_mean, rel=1e-12)
    assert ours.rows.n_features == expected.rows.n_features


@pytest.mark.parametrize("name", RDMS)
@pytest.mark.parametrize(("n", "p"), [(40, 500), (40, 12), (2, 3)])
def test_rdms_of_an_array_are_those_of_scipy(name, n, p):
    X = synthetic_features(n, p) + 0.1 * np.random.default_rng(1).random((n, p))
    rdm = RDMS[name](array_statistics(X))
    np.testing.assert_allclose(rdm, squareform(pdist(X, name)), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("name", RDMS)
@pytest.mark.parametrize("width", [1, 97, 500])
def test_rdms_of_a_streamed_layer_are_those_of_scipy(name, width):
    X = synthetic_features().astype(np.float32)
    rdm = RDMS[name](streamed_statistics(X, width))
    expected = squareform(pdist(X.astype(float), name))
    np.testing.assert_allclose(rdm, expected, atol=2e-6 * expected.max())


def test_correlation_rdm_is_one_minus_corrcoef():
    X = synthetic_features()
    np.testing.assert_allclose(correlation_rdm(array_statistics(X)), 1 - np.corrcoef(X), atol=1e-13)


def test_rdms_are_those_of_rsatoolbox_which_squares_and_divides_the_euclidean_one():
    rsatoolbox_rdm = pytest.importorskip("rsatoolbox.rdm")
    rsatoolbox_data = pytest.importorskip("rsatoolbox.data")
    X = synthetic_features()
    dataset, stats = rsatoolbox_data.Dataset(X), array_statistics(X)

    def theirs(method):
        return rsatoolbox_rdm.calc_rdm(dataset, method=method).get_matrices()[0]

    np.testing.assert_allclose(correlation_rdm(stats), theirs("correlation"), atol=1e-12)
    euclidean = euclidean_rdm(stats)
    np.testing.assert_allclose(euclidean**2 / X.shape[1], theirs("euclidean"), atol=1e-12)
    assert rdm_spearman(euclidean, theirs("euclidean")) == pytest.approx(1, abs=1e-12)


def test_object_rdms_are_those_of_rsatoolbox():
    rsatoolbox_rdm = pytest.importorskip("rsatoolbox.rdm")
    rsatoolbox_data = pytest.importorskip("rsatoolbox.data")
    X = synthetic_features()
    labels = [f"object {i % 7}" for i in range(40)]
    dataset = rsatoolbox_data.Dataset(X, obs_descriptors={"object": labels})
    theirs = rsatoolbox_rdm.calc_rdm(dataset, method="correlation", descriptor="object")
    stats, names = average_over_objects(array_statistics(X), labels)
    assert list(names) == list(theirs.pattern_descriptors["object"])
    np.testing.assert_allclose(correlation_rdm(stats), theirs.get_matrices()[0], atol=1e-12)


def test_statistics_of_blocks_add_up_to_those_of_the_whole():
    X = synthetic_features()
    whole = block_statistics(X)
    for width in (1, 7, 250):
        merged = reduce(
            operator.add, [block_statistics(X[:, s]) for s in column_slices(500, width)]
        )
        assert merged.n_features == 500
        assert merged.grand_mean == pytest.approx(whole.grand_mean, rel=1e-13)
        assert merged.mean_spread == pytest.approx(whole.mean_spread, rel=1e-12)
        np.testing.assert_allclose(merged.row_sums, whole.row_sums, atol=1e-11)
        np.testing.assert_allclose(merged.mean_products, whole.mean_products, atol=1e-10)


def test_products_about_0_follow_from_the_statistics():
    X = synthetic_features(n=300)
    mu = X.mean(axis=0)
    stats = array_statistics(X)
    a = stats.rows.mean_products + stats.rows.grand_mean * stats.rows.row_sums
    np.testing.assert_allclose(a, (X - mu) @ mu, atol=1e-9)
    products = stats.gram + a[:, None] + a + mu @ mu
    np.testing.assert_allclose(products, X @ X.T, rtol=1e-12)


@pytest.mark.parametrize("offset", [1e4, -1e6])
def test_a_large_common_mean_costs_no_precision(offset):
    X = np.round(synthetic_features() * 1024) / 1024
    shifted = X + offset
    np.testing.assert_array_equal(shifted - offset, X)
    for stats in (array_statistics(shifted), reduce_blocks(shifted)):
        np.testing.assert_allclose(
            correlation_rdm(stats), correlation_rdm(array_statistics(X)), atol=1e-9
        )
        np.testing.assert_allclose(
            euclidean_rdm(stats), euclidean_rdm(array_statistics(X)), rtol=1e-9
        )
        np.testing.assert_allclose(cosine_rdm(stats), exact_cosine_distance(shifted), rtol=1e-12)
    naive = 1 - (shifted @ shifted.T) / np.outer(*[np.linalg.norm(shifted, axis=1)] * 2)
    upper = np.triu_indices(40, 1)
    exact = exact_cosine_distance(shifted)[upper]
    assert np.abs(naive[upper] / exact - 1).max() > 1e-8


def reduce_blocks(X):
    """float64 Gram matrix with row statistics merged block by block."""
    whole = array_statistics(X)
    rows = reduce(operator.add, [block_statistics(X[:, s]) for s in column_slices(X.shape[1], 60)])
    return LayerStatistics(whole.gram, rows, whole.rounding)


def exact_cosine_distance(X):
    """From the distance of the unit vectors, in extended precision."""
    X = X.astype(np.longdouble)
    X = X / np.sqrt((X**2).sum(axis=1, keepdims=True))
    return (((X[:, None] - X) ** 2).sum(axis=2) / 2).astype(float)


def test_a_streamed_float32_layer_with_a_large_common_mean():
    X = synthetic_features().astype(np.float32) + np.float32(1e4)
    stats = streamed_statistics(X)
    exact = X.astype(float)
    np.testing.assert_allclose(correlation_rdm(stats), 1 - np.corrcoef(exact), atol=1e-5)
    upper = np.triu_indices(40, 1)
    np.testing.assert_allclose(
        cosine_rdm(stats)[upper], exact_cosine_distance(exact)[upper], rtol=1e-3
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(3, 30), st.floats(-50, 50), SEEDS)
def test_rdms_are_symmetric_with_zero_diagonal_and_in_range(n, p, offset, seed):
    X = np.random.default_rng(seed).standard_normal((n, p)) + offset
    stats = array_statistics(X)
    for name, rdm_of in RDMS.items():
        rdm = rdm_of(stats)
        np.testing.assert_array_equal(rdm, rdm.T)
        assert not rdm.diagonal().any()
        assert rdm.min() >= 0
        assert name == "euclidean" or rdm.max() <= 2
        np.testing.assert_allclose(rdm, squareform(pdist(X, name)), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 10), st.integers(3, 20), SEEDS)
def test_correlation_rdm_does_not_see_gain_and_offset_of_an_image(n, p, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p))
    changed = X * rng.uniform(0.1, 10, (n, 1)) + rng.uniform(-100, 100, (n, 1))
    np.testing.assert_allclose(
        correlation_rdm(array_statistics(changed)), correlation_rdm(array_statistics(X)), atol=1e-6
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 12), st.integers(3, 20), st.data())
def test_restricting_is_computing_from_those_rows(n, p, data):
    X = np.random.default_rng(data.draw(SEEDS)).standard_normal((n, p)) + 3
    kept = data.draw(st.lists(st.integers(0, n - 1), min_size=1, unique=True))
    stats = restrict(array_statistics(X), kept)
    assert_same_statistics(stats, array_statistics(X[kept]))


def test_restricting_by_mask_is_restricting_by_row_number():
    stats = array_statistics(synthetic_features())
    mask = np.arange(40) % 3 == 0
    np.testing.assert_array_equal(
        restrict(stats, mask).gram, restrict(stats, np.flatnonzero(mask)).gram
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), st.integers(3, 20), st.data())
def test_averaging_over_objects_is_averaging_the_features_first(n, p, data):
    X = np.random.default_rng(data.draw(SEEDS)).standard_normal((n, p)) - 2
    labels = data.draw(st.lists(st.sampled_from("abcd"), min_size=n, max_size=n))
    stats, names = average_over_objects(array_statistics(X), labels)
    assert list(names) == sorted(set(labels))
    means = np.stack([X[np.array(labels) == name].mean(axis=0) for name in names])
    assert_same_statistics(stats, array_statistics(means))
    np.testing.assert_array_equal(stats.gram, stats.gram.T)


@pytest.mark.parametrize("name", RDMS)
def test_object_rdms_of_some_images_of_a_streamed_layer(name):
    X = synthetic_features(n=60).astype(np.float32)
    labels = np.array([f"object {i % 9:02d}" for i in range(60)])
    kept = np.arange(5, 50)
    stats, names = average_over_objects(restrict(streamed_statistics(X), kept), labels[kept])
    means = np.stack([X[kept][labels[kept] == o].mean(axis=0, dtype=float) for o in names])
    expected = squareform(pdist(means, name))
    np.testing.assert_allclose(RDMS[name](stats), expected, atol=1e-5 * expected.max())


def test_euclidean_distance_needs_the_gram_matrix_only_about_any_origin():
    X = synthetic_features() + 2
    for gram in (X @ X.T, array_statistics(X).gram):
        np.testing.assert_allclose(euclidean_rdm(gram), squareform(pdist(X)), atol=1e-6)


@pytest.mark.parametrize("statistics", [array_statistics, streamed_statistics])
def test_an_image_shown_twice_is_at_no_distance_from_itself(statistics):
    X = synthetic_features().astype(np.float32)
    X[17] = X[4]
    stats = statistics(X)
    precision = 1e-12 if statistics is array_statistics else 1e-6
    for name, rdm_of in RDMS.items():
        rdm = rdm_of(stats)
        tolerance = np.sqrt(precision) if name == "euclidean" else precision
        assert rdm[4, 17] <= tolerance * rdm.max()


@pytest.mark.parametrize("statistics", [array_statistics, streamed_statistics])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_images_without_a_pattern_have_no_correlation(statistics, dtype):
    X = (synthetic_features() + 0.5).astype(dtype)
    X[3], X[8], X[9] = 0, 7.3, -0.1
    correlation, cosine = (rdm_of(statistics(X)) for rdm_of in (correlation_rdm, cosine_rdm))
    for rdm, undefined in ((correlation, [3, 8, 9]), (cosine, [3])):
        assert np.isnan(rdm[undefined]).all()
        assert np.isnan(rdm[:, undefined]).all()
        others = np.delete(np.arange(40), undefined)
        assert np.isfinite(rdm[np.ix_(others, others)]).all()
    assert np.isfinite(euclidean_rdm(statistics(X))).all()


def test_images_without_a_pattern_are_known_among_their_like_and_on_average():
    X = synthetic_features().astype(np.float32)
    X[:18] = np.linspace(0, 7.3, 18)[:, None]
    stats = streamed_statistics(X)
    assert np.isnan(correlation_rdm(restrict(stats, np.arange(18)))).all()
    labels = [f"flat {i % 9}" if i < 18 else f"object {i % 4}" for i in range(40)]
    averaged, names = average_over_objects(stats, labels)
    undefined = np.isnan(correlation_rdm(averaged).diagonal())
    np.testing.assert_array_equal(undefined, [name.startswith("flat") for name in names])
    defined = restrict(stats, np.isfinite(correlation_rdm(stats).diagonal()))
    assert len(defined.gram) == 22
    assert np.isfinite(correlation_rdm(defined)).all()


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
def test_a_constant_layer_has_no_correlation_and_no_distance(constant):
    X = np.full((20, 60), constant, dtype=np.float32)
    for stats in (array_statistics(X), streamed_statistics(X)):
        assert np.isnan(correlation_rdm(stats)).all()
        assert not euclidean_rdm(stats).any()
        assert np.isnan(cosine_rdm(stats)).all() == (constant == 0)


def test_one_feature_has_no_correlation():
    assert np.isnan(correlation_rdm(array_statistics(np.arange(5.0)[:, None]))).all()


def test_cka_of_a_layer_with_itself_rotated():
    rng = np.random.default_rng(0)
    X = synthetic_features(p=30)
    rotated = 4 * X @ np.linalg.qr(rng.standard_normal((30, 30)))[0] + 10
    cka = linear_cka_unbiased(array_statistics(X).gram, array_statistics(rotated).gram)
    assert cka == pytest.approx(1, abs=1e-12)


def test_features_are_left_as_they_were_and_of_any_type():
    X = (synthetic_features() * 20).astype(np.uint8)
    before = X.copy()
    expected = block_statistics(X.astype(float))
    np.testing.assert_allclose(block_statistics(X).mean_products, expected.mean_products)
    stats = array_statistics(X)
    gram = stats.gram.copy()
    restrict(stats, [1, 2, 3])
    average_over_objects(stats, ["a", "b"] * 20)
    for rdm_of in RDMS.values():
        rdm_of(stats)
    np.testing.assert_array_equal(X, before)
    np.testing.assert_array_equal(stats.gram, gram)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(bad):
    X = synthetic_features()
    X[17, 33] = bad
    for statistics in (block_statistics, array_statistics):
        with pytest.raises(FeaturesError, match="row 17, column 33"):
            statistics(X)


def test_what_does_not_belong_together_is_refused():
    X = synthetic_features()
    stats = array_statistics(X)
    with pytest.raises(FeaturesError, match="blocks of 40 and 39 images"):
        block_statistics(X) + block_statistics(X[1:])
    with pytest.raises(FeaturesError, match=r"\(40, 40\).*39 images"):
        LayerStatistics.from_gram(stats.gram, block_statistics(X[1:]))
    with pytest.raises(FeaturesError, match=r"\(40,\)"):
        array_statistics(X[:, 0])
    with pytest.raises(EncodingError, match="39 labels for 40 images"):
        average_over_objects(stats, ["a"] * 39)
    for images in ([40], np.ones(39, dtype=bool), [0.5], []):
        with pytest.raises(EncodingError, match="image"):
            restrict(stats, images)
