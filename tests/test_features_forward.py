"""How the forward pass may run: forms, precision, compilation, short memory, parts, CUDA."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_features_extract import LAYERS, PX, SyntheticNoise, network, of_size, store_at, whole
from torch import nn

from toolkit.encoding.gram import gram_matrix
from toolkit.encoding.gram_torch import tensor_statistics
from toolkit.features.extract import ForwardOptions, extract, extract_to_memory
from toolkit.features.forms import FeatureForm
from toolkit.features.layout import part_of
from toolkit.features.preparation import fitting_batch_size
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo, ModelSpec, load_network, trace_layers

FORMS = [
    FeatureForm(dtype="float16"),
    FeatureForm(dtype="bfloat16"),
    FeatureForm("average"),
    FeatureForm("max", "float16"),
    FeatureForm("projection", n_dims=20, seed=1),
]


def store_of(path, stimuli, form, layers=LAYERS):
    return FeatureStore.create(
        path,
        layers=[form.of_layer(layer) for layer in layers],
        stimulus_ids=stimuli.ids,
        provenance={},
        dtype=form.stored_dtype,
        shuffle=form.shuffle,
    )


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("batch_size", [8, 32])
def test_a_store_holds_what_the_form_keeps(tmp_path, form, batch_size):
    from toolkit.features.reduction import reducer

    stimuli = SyntheticNoise(70)
    full, kept = (store_of(tmp_path / f.name, stimuli, f) for f in (FeatureForm(), form))
    extract(network(), stimuli, LAYERS, full, options=of_size(batch_size))
    extract(network(), stimuli, LAYERS, kept, form=form, options=of_size(batch_size))
    for layer in LAYERS:
        output = torch.from_numpy(full.read(layer.name, slice(None))).reshape(70, *layer.shape)
        found = kept.read(layer.name, slice(None))
        assert found.dtype == form.stored_dtype
        np.testing.assert_allclose(found, reducer(layer, form)(output), rtol=1e-3, atol=1e-5)


def test_rounding_to_bfloat16_halves_the_bytes(tmp_path):
    stimuli = SyntheticNoise(64)
    sizes = []
    for form in (FeatureForm(), FeatureForm(dtype="bfloat16")):
        store = store_of(tmp_path / form.name, stimuli, form, LAYERS[:1])
        extract(network(), stimuli, LAYERS[:1], store, form=form)
        sizes.append(sum(path.stat().st_size for path in store.path.rglob("c.*")))
    assert sizes[1] < 0.55 * sizes[0]


def test_features_in_memory_are_those_in_the_store(tmp_path):
    stimuli = SyntheticNoise(50)
    store = store_at(tmp_path / "s.zarr", stimuli)
    extract(network(), stimuli, LAYERS, store, options=of_size(16))
    calls = []
    found = extract_to_memory(
        network(), stimuli, LAYERS, options=of_size(16), progress=lambda *n: calls.append(n)
    )
    for name, values in whole(store).items():
        np.testing.assert_array_equal(found[name].numpy(), values)
    assert calls == [(16, 50), (32, 50), (48, 50), (50, 50)]


@pytest.mark.parametrize("shape", [(40, 300), (40, 17)])
def test_the_gram_matrix_of_a_tensor_is_that_of_an_array(shape):
    features = np.random.default_rng(0).standard_normal(shape, np.float32) + 3
    expected = gram_matrix(lambda s: features[:, s], [slice(0, shape[1])], shape[0])
    found = tensor_statistics(torch.from_numpy(features))
    np.testing.assert_allclose(found.gram, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.gram, found.gram.T)
    centred = features - features.mean(axis=0)
    np.testing.assert_allclose(found.rows.row_sums, centred.sum(axis=1), rtol=1e-4, atol=1e-3)


class ShortOfMemory(torch.nn.Module):
    """Refuses batches above a size as a GPU does whose memory they exceed."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.part = torch.nn.Identity()
        self.most = most

    def forward(self, images):
        return self.part(images * 2) + 1


@pytest.mark.parametrize("most", [40, 10])
def test_short_memory_halves_the_batch_and_loses_nothing(tmp_path, most):
    layers = [LayerInfo("part", (3, PX, PX), 0)]
    stimuli = SyntheticNoise(100)
    module = ShortOfMemory(most)
    # The layer is delivered before the memory runs out, so hooks must not end the pass early.
    module.part.register_forward_hook(lambda m, i, o: _refuse(len(o) > module.most))
    store = store_at(tmp_path / "s.zarr", stimuli, layers)
    extract(network(module), stimuli, layers, store, options=of_size(64))
    undisturbed = store_at(tmp_path / "t.zarr", stimuli, layers)
    extract(network(ShortOfMemory(64)), stimuli, layers, undisturbed, options=of_size(64))
    np.testing.assert_array_equal(
        store.read("part", slice(None)), undisturbed.read("part", slice(None))
    )


def _refuse(is_too_large: bool) -> None:
    if is_too_large:
        raise torch.OutOfMemoryError("synthetic: out of memory")


def test_one_image_that_does_not_fit_ends_the_extraction(tmp_path):
    layers = [LayerInfo("part", (3, PX, PX), 0)]
    stimuli = SyntheticNoise(4)
    store = store_at(tmp_path / "s.zarr", stimuli, layers)
    module = ShortOfMemory(most=0)
    module.part.register_forward_hook(lambda m, i, o: _refuse(True))
    with pytest.raises(torch.OutOfMemoryError):
        extract(network(module), stimuli, layers, store)
    assert store.missing_blocks() == [0]


def test_parts_of_the_images_fill_one_store(tmp_path):
    stimuli = SyntheticNoise(150)
    parted = store_at(tmp_path / "parted.zarr", stimuli)
    for part in (2, 0, 1):
        blocks = part_of(part, 3, parted.n_blocks)
        extract(network(), stimuli, LAYERS, FeatureStore.open(parted.path), blocks=blocks)
    alone = store_at(tmp_path / "alone.zarr", stimuli)
    extract(network(), stimuli, LAYERS, alone)
    for name, values in whole(alone).items():
        np.testing.assert_array_equal(parted.read(name, slice(None)), values)


def test_autocast_computes_in_lower_precision(tmp_path):
    stimuli = SyntheticNoise(8)
    exact = extract_to_memory(network(), stimuli, LAYERS)
    rough = extract_to_memory(
        network(), stimuli, LAYERS, options=ForwardOptions(autocast="bfloat16")
    )
    difference = (rough["conv1"] - exact["conv1"]).abs().max()
    assert 1e-5 < difference < 0.05
    assert rough["conv1"].dtype == torch.float32


class Between(nn.Module):
    def forward(self, x):
        return x.sin() * 2


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_features(tmp_path):
    pytest.importorskip("torch._inductor")
    counters = pytest.importorskip("torch._dynamo.utils").counters
    stimuli, net = (
        SyntheticNoise(4),
        network(nn.Sequential(nn.Conv2d(3, 2, 1), Between(), nn.ReLU())),
    )
    layers = [LayerInfo(name, (2, PX, PX), i) for i, name in enumerate(("0", "2"))]
    expected = extract_to_memory(net, stimuli, layers)
    counters.clear()
    found = extract_to_memory(net, stimuli, layers, options=ForwardOptions(compiles=True))
    assert counters["inductor"]
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-4)


def test_the_batch_fits_the_memory():
    layers = [LayerInfo("conv1", (64, 112, 112), 0)]
    cpu = torch.device("cpu")
    assert fitting_batch_size(layers, cpu, 64e9) == 32
    assert fitting_batch_size(layers, cpu, 300e6) == 8
    assert fitting_batch_size(layers, cpu, 1e6) == 1


@pytest.mark.cuda
@pytest.mark.parametrize("form", [FeatureForm(), *FORMS], ids=lambda form: form.name)
def test_a_gpu_gives_the_features_of_the_cpu(tmp_path, form):
    stimuli = SyntheticNoise(150)
    cuda = ForwardOptions(torch.device("cuda"), 64)
    found, expected = (store_of(tmp_path / name, stimuli, form) for name in ("cuda", "cpu"))
    extract(network(), stimuli, LAYERS, found, form=form, options=cuda)
    extract(network(), stimuli, LAYERS, expected, form=form)
    for name, values in whole(expected).items():
        np.testing.assert_allclose(whole(found)[name], values, rtol=1e-2, atol=1e-3)


@pytest.mark.cuda
def test_a_gpu_out_of_memory_goes_on_with_smaller_batches(tmp_path):
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        spec = ModelSpec("torchvision", "resnet18")
        layers = [layer for layer in trace_layers(spec) if layer.name == "avgpool"]
        stimuli = SyntheticNoise(256, px=224)
        options = ForwardOptions(torch.device("cuda"), 256)
        found = extract_to_memory(load_network(spec, "cuda"), stimuli, layers, options=options)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    small = replace(options, batch_size=16)
    expected = extract_to_memory(load_network(spec, "cuda"), stimuli, layers, options=small)
    torch.testing.assert_close(found["avgpool"], expected["avgpool"], rtol=1e-3, atol=1e-3)


@pytest.mark.cuda
def test_gram_matrices_on_a_gpu_are_those_of_the_cpu():
    features = torch.randn(200, 40_000) + 2
    found = tensor_statistics(features.cuda()).gram
    expected = tensor_statistics(features).gram
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-2)
