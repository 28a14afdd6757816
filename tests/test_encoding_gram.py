"""The streamed Gram matrix: against NumPy in float64, and how it goes about its work."""

import threading
import time
from functools import partial

import numpy as np
import pytest
import zarr
from threadpoolctl import threadpool_info, threadpool_limits

from toolkit.encoding import FeaturesError, column_slices, double_centred, gram_matrix
from toolkit.encoding.gram import product_dtype


def synthetic_features(n=60, p=700, seed=0):
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((n, 40)) * np.arange(1, 41) ** -0.5
    return np.maximum(latent @ rng.standard_normal((40, p)), 0).astype(np.float32)


def reference_gram(X):
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    return centred @ centred.T


def gram_of(X, width=97, **options):
    return gram_matrix(lambda s: X[:, s], column_slices(X.shape[1], width), X.shape[0], **options)


def assert_gram_close(ours, expected, tolerance):
    assert np.abs(ours - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture
def float32_products(monkeypatch):
    """As in layers whose float64 products would take too long."""
    monkeypatch.setattr("toolkit.encoding.gram._FLOAT64_MULTIPLICATIONS", 0)


@pytest.mark.parametrize("width", [1, 97, 700, 16_384])
def test_gram_is_that_of_the_centred_features_whatever_the_blocks(width):
    X = synthetic_features()
    assert_gram_close(gram_of(X, width), reference_gram(X), 1e-14)


@pytest.mark.parametrize("width", [1, 97, 700, 16_384])
def test_products_of_a_large_layer_have_the_digits_of_float32(width, float32_products):
    X = synthetic_features()
    assert_gram_close(gram_of(X, width), reference_gram(X), 1e-6)


def test_a_layer_narrower_than_its_images_is_multiplied_in_float64(float32_products):
    X = synthetic_features(n=90, p=50)
    assert_gram_close(gram_of(X, 16), reference_gram(X), 1e-14)


def test_the_benchmark_of_brain_score_is_multiplied_in_float64_and_wide_layers_are_not():
    assert product_dtype(3_200, 9_216) is np.float64  # AlexNet's features.12
    assert product_dtype(2_880, 50_176) is np.float32


def test_a_large_common_mean_costs_no_precision(float32_products):
    shifted = synthetic_features() + np.float32(1e4)
    assert_gram_close(gram_of(shifted), reference_gram(shifted), 1e-6)
    without_centring = shifted @ shifted.T
    error = np.abs(double_centred(without_centring.astype(float)) - reference_gram(shifted)).max()
    assert error > 1e-3 * reference_gram(shifted).max()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8])
def test_features_of_other_types_are_taken(dtype):
    X = (synthetic_features() * 10).astype(dtype)
    assert_gram_close(gram_of(X), reference_gram(X.astype(np.float64)), 1e-6)


def test_gram_is_exactly_symmetric_and_centred():
    gram = gram_of(synthetic_features())
    np.testing.assert_array_equal(gram, gram.T)
    assert np.abs(gram.sum(axis=0)).max() < 1e-9 * gram.max()


def test_gram_is_bit_identical_on_repetition_and_for_any_number_of_threads():
    X = synthetic_features(n=150, p=4000)
    lock, rng = threading.Lock(), np.random.default_rng(0)

    def read(columns):
        with lock:
            delay_s = rng.uniform(0, 0.01)
        time.sleep(delay_s)
        return X[:, columns]

    grams = [gram_matrix(read, column_slices(4000, 250), 150, n_threads=n) for n in (1, 1, 2, 3, 8)]
    for gram in grams[1:]:
        np.testing.assert_array_equal(gram, grams[0])


def test_a_zarr_array_and_a_numpy_array_give_the_same(tmp_path):
    X = synthetic_features()
    stored = zarr.create_array(tmp_path / "layer.zarr", data=X, chunks=(32, 100))
    np.testing.assert_array_equal(gram_of(stored), gram_of(X))


def test_features_are_read_once_and_left_as_they_were():
    X = synthetic_features()
    before, seen = X.copy(), []
    columns = column_slices(700, 64)
    gram_matrix(lambda s: seen.append(s) or X[:, s], columns, 60, n_threads=4)
    assert sorted(s.start for s in seen) == [s.start for s in columns]
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_workers_times_blas_threads_stay_within_the_cores_given(n_threads):
    X = synthetic_features()
    lock, busy, loads, blas = threading.Lock(), [0], [], []
    meeting, one_more = threading.Barrier(n_threads), threading.Event()

    def read(columns):
        with lock:
            busy[0] += 1
            loads.append(busy[0])
            blas.extend(i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas")
            is_first = len(loads) <= n_threads
        if is_first:
            meeting.wait(60)
            one_more.wait(0.2)
        one_more.set()
        with lock:
            busy[0] -= 1
        return X[:, columns]

    with threadpool_limits(2, user_api="blas"):
        gram_matrix(read, column_slices(700, 20), 60, n_threads=n_threads)
        after = {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}
    assert max(loads) == n_threads
    assert set(blas) == {1}
    assert after == {2}


def test_blocks_in_flight_are_bounded_while_one_is_slow():
    X = synthetic_features(p=2000)
    release, started, change = threading.Event(), [], threading.Condition()

    def read(columns):
        with change:
            started.append(columns.start)
            change.notify()
        if columns.start == 0:
            release.wait(60)
        return X[:, columns]

    compute = threading.Thread(
        target=gram_matrix, args=(read, column_slices(2000, 20), 60), kwargs={"n_threads": 3}
    )
    compute.start()
    with change:
        assert change.wait_for(lambda: len(started) >= 3, 60)
        change.wait_for(lambda: len(started) > 6, 0.3)
        started_before_release = len(started)
    release.set()
    compute.join(60)
    assert not compute.is_alive()
    assert 3 <= started_before_release <= 6
    assert len(started) == 100


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(bad):
    X = synthetic_features()
    X[17, 333] = bad
    with pytest.raises(FeaturesError, match=r"row 17, column 333") as raised:
        gram_of(X)
    assert raised.value.error_class == "bad_features"


def test_infinities_that_cancel_are_found():
    X = synthetic_features()
    X[3, 5], X[4, 5] = np.inf, -np.inf
    with pytest.raises(FeaturesError, match="2 feature value"):
        gram_of(X)


@pytest.mark.parametrize("scale", [1e25, 1e36])
def test_features_too_large_for_float32_products_are_refused(scale, recwarn, float32_products):
    with pytest.raises(FeaturesError, match="overflow"):
        gram_of(synthetic_features() * np.float32(scale))
    assert not recwarn.list


def test_a_reader_that_gives_too_few_rows_is_refused():
    X = synthetic_features()
    with pytest.raises(FeaturesError, match=r"columns 0:97 have shape \(59, 97\), not \(60, 97\)"):
        gram_matrix(lambda s: X[1:, s], column_slices(700, 97), 60)
    with pytest.raises(FeaturesError, match="no columns"):
        gram_matrix(lambda s: X[:, s], [], 60)


def test_what_the_reader_raises_is_raised():
    class SyntheticDamageError(RuntimeError):
        pass

    def read(columns):
        if columns.start >= 300:
            raise SyntheticDamageError
        return synthetic_features()[:, columns]

    with pytest.raises(SyntheticDamageError):
        gram_matrix(read, column_slices(700, 100), 60, n_threads=2)


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
@pytest.mark.parametrize("p", [40, 700])
@pytest.mark.parametrize("most", [0, 2**37])
def test_a_constant_layer_has_a_gram_of_zeros(constant, p, most, monkeypatch):
    monkeypatch.setattr("toolkit.encoding.gram._FLOAT64_MULTIPLICATIONS", most)
    products = gram_of(np.full((60, p), constant, dtype=np.float32))
    np.testing.assert_array_equal(products, 0)


def test_a_feature_store_is_read_by_its_own_blocks(tmp_path):
    models = pytest.importorskip("toolkit.models")
    features = pytest.importorskip("toolkit.features.store")
    X = synthetic_features(n=40, p=300)
    store = features.FeatureStore.create(
        tmp_path / "synthetic.zarr",
        layers=[models.LayerInfo("layer", (300,), 0)],
        stimulus_ids=[f"synthetic-{i}" for i in range(40)],
        provenance={},
    )
    for block in store.missing_blocks():
        rows = slice(block * store.block_rows, (block + 1) * store.block_rows)
        store.write_block(block, {"layer": X[rows]})
    gram = gram_matrix(partial(store.read, "layer"), store.column_blocks("layer", 2**14), 40)
    assert_gram_close(gram, reference_gram(X), 1e-6)


def test_double_centring_moves_the_origin_to_the_mean_of_the_rows():
    X = synthetic_features().astype(float) + 3
    np.testing.assert_allclose(double_centred(X @ X.T), reference_gram(X), atol=1e-8)
