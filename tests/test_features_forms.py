"""What is kept of a layer: against plain definitions, and against scikit-learn's projections."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from toolkit.features.forms import FeatureForm, johnson_lindenstrauss_dims, n_prefix_tokens
from toolkit.features.projection import SparseProjection
from toolkit.features.reduction import reducer
from toolkit.models import LayerError, LayerInfo

MAP = LayerInfo("map", (6, 5, 4), 0)
MAP_LAST = LayerInfo("map_last", (7, 7, 3), 1)
TOKENS = LayerInfo("tokens", (2 + 9, 5), 2)
PATCHES = LayerInfo("patches", (9, 5), 3)
VECTOR = LayerInfo("vector", (8,), 4)


def kept(layer: LayerInfo, form: FeatureForm, batch: int = 3) -> tuple[np.ndarray, np.ndarray]:
    output = torch.from_numpy(
        np.random.default_rng(layer.index).standard_normal((batch, *layer.shape), np.float32)
    )
    values = reducer(layer, form)(output)
    assert values.shape == (batch, form.of_layer(layer).n_features)
    return output.numpy(), values.numpy()


@pytest.mark.parametrize("layer", [MAP, MAP_LAST, TOKENS, VECTOR])
def test_full_is_the_output_in_c_order(layer):
    output, values = kept(layer, FeatureForm())
    np.testing.assert_array_equal(values, output.reshape(3, -1))


@pytest.mark.parametrize(
    ("layer", "axes", "first"), [(MAP, (2, 3), 0), (MAP_LAST, (1, 2), 0), (TOKENS, (1,), 2)]
)
def test_pooling_is_over_positions(layer, axes, first):
    for kind, pool in (("average", np.mean), ("max", np.max)):
        output, values = kept(layer, FeatureForm(kind))
        np.testing.assert_allclose(values, pool(output[:, first:], axis=axes), rtol=1e-5, atol=1e-6)


def test_a_vector_has_nothing_to_pool():
    output, values = kept(VECTOR, FeatureForm("average"))
    np.testing.assert_array_equal(values, output)


def test_the_class_token_is_the_first():
    output, values = kept(TOKENS, FeatureForm("cls"))
    np.testing.assert_array_equal(values, output[:, 0])


@pytest.mark.parametrize("layer", [MAP, PATCHES, VECTOR])
def test_a_layer_without_class_token_is_refused(layer):
    with pytest.raises(LayerError, match=f"'{layer.name}' has no class token"):
        FeatureForm("cls").of_layer(layer)


def test_a_layer_without_positions_cannot_be_pooled():
    with pytest.raises(LayerError, match="neither a map, a sequence nor a vector"):
        FeatureForm("max").of_layer(LayerInfo("windows", (4, 4, 4, 3), 0))


@pytest.mark.parametrize(
    ("n_tokens", "n_prefix"), [(197, 1), (198, 2), (201, 5), (196, 0), (577, 1), (50, 1), (120, 0)]
)
def test_prefix_tokens_are_what_exceeds_a_square_grid(n_tokens, n_prefix):
    assert n_prefix_tokens((n_tokens, 8)) == n_prefix


def test_lower_precision_rounds_as_torch_does():
    output, half = kept(VECTOR, FeatureForm(dtype="float16"))
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, output.astype(np.float16))
    output, rounded = kept(VECTOR, FeatureForm(dtype="bfloat16"))
    assert rounded.dtype == np.float32
    np.testing.assert_array_equal(rounded, torch.from_numpy(output).bfloat16().float().numpy())


@given(st.integers(2, 100_000), st.floats(0.05, 0.9))
def test_dimensions_are_those_of_scikit_learn(n_stimuli, eps):
    expected = johnson_lindenstrauss_min_dim(n_stimuli, eps=eps)
    assert johnson_lindenstrauss_dims(n_stimuli, eps) == expected


def test_narrow_layers_are_not_projected():
    form = FeatureForm("projection", n_dims=8)
    output, values = kept(VECTOR, form)
    np.testing.assert_array_equal(values, output)
    assert form.of_layer(MAP).shape == (8,)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense images", "mostly zeros"])
def test_a_projection_keeps_distances_within_the_bound(sparse):
    rng = np.random.default_rng(1)
    images = rng.standard_normal((60, 30_000), np.float32)
    if sparse:
        images *= rng.random(images.shape) < 0.01
    n_dims = johnson_lindenstrauss_dims(60, 0.2)
    projected = SparseProjection(30_000, n_dims, seed=0)(torch.from_numpy(images)).numpy()
    ratio = pdist(projected, "sqeuclidean") / pdist(images, "sqeuclidean")
    assert np.abs(ratio - 1).max() < 0.2
    assert abs(ratio.mean() - 1) < 0.02


def test_a_projection_is_linear_seeded_and_the_same_in_any_batch(monkeypatch):
    monkeypatch.setattr("toolkit.features.projection.BLOCK_FEATURES", 64)
    images = torch.randn(5, 1000, generator=torch.Generator().manual_seed(0))
    one = SparseProjection(1000, 100, seed=3)
    matrix = one(torch.eye(1000)).numpy()
    torch.manual_seed(99)
    np.testing.assert_array_equal(SparseProjection(1000, 100, 3)(torch.eye(1000)).numpy(), matrix)
    np.testing.assert_allclose(one(images).numpy(), images.numpy() @ matrix, rtol=1e-4, atol=1e-5)
    assert (np.count_nonzero(matrix, axis=1) == 4).all()
    np.testing.assert_allclose((matrix**2).sum(axis=1), 1)
    assert (SparseProjection(1000, 100, 4)(torch.eye(1000)).numpy() != matrix).any()


def test_names_tell_forms_apart():
    forms = [
        FeatureForm(),
        FeatureForm(dtype="float16"),
        FeatureForm("projection", n_dims=9),
        FeatureForm("projection", n_dims=9, seed=2),
        FeatureForm("projection", "bfloat16", 9),
        FeatureForm("gram"),
    ]
    assert [form.name for form in forms] == [
        "full",
        "full-float16",
        "projection9",
        "projection9-seed2",
        "projection9-bfloat16",
        "gram",
    ]
