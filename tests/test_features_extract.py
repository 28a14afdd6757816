import resource
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SERVER
from torch import nn
from torch.nn import functional

from toolkit.data import DataError, Stimuli
from toolkit.features.errors import DamagedChunkError, FeatureError, FeatureStorageError
from toolkit.features.extract import ForwardOptions, extract
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo, ModelSpec, Network, Preprocessing, load_network, trace_layers

PX = 16
LAYERS = (
    LayerInfo("conv1", (6, PX, PX), 0),
    LayerInfo("conv2", (6, PX, PX), 1),
    LayerInfo("relu", (6, PX, PX), 2),
    LayerInfo("pair", (6, PX // 2, PX // 2), 3),
    LayerInfo("head", (10,), 4),
)


class SyntheticNoise(Stimuli):
    """Images of noise, each from its own seed; ``unreadable`` ones raise as a bad file does."""

    framed = True

    def __init__(self, n_stimuli: int, unreadable: int | None = None, px: int = PX) -> None:
        self.ids = tuple(f"synthetic-noise-{i}" for i in range(n_stimuli))
        self.unreadable = unreadable
        self.px = px

    def __getitem__(self, index: int) -> np.ndarray:
        if index == self.unreadable:
            raise DataError(f"image {self.ids[index]} is cut short")
        return np.random.default_rng(index).random((self.px, self.px, 3), np.float32)

    def _content(self) -> Iterator[bytes]:
        yield b""


class Pair(nn.Module):
    def forward(self, x):
        return {
            "label": torch.zeros(len(x), dtype=torch.long),
            "maps": (functional.avg_pool2d(x, 2), x),
        }


class SmallNet(nn.Module):
    """What trips feature hooks: in-place modules, one called twice, outputs in containers."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.pair = Pair()
        self.head = nn.Linear(6 * (PX // 2) ** 2, 10)
        self.n_forwards = 0

    def forward(self, x):
        self.n_forwards += 1
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.head(self.pair(x)["maps"][0].flatten(1)).relu_()


def network(module: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    return Network(
        (module or SmallNet()).eval(),
        Preprocessing((PX, PX), (PX, PX), "center", "bilinear", (0.4,) * 3, (0.2,) * 3),
    )


def of_size(batch_size: int) -> ForwardOptions:
    return ForwardOptions(batch_size=batch_size)


def store_at(path, stimuli, layers=LAYERS) -> FeatureStore:
    return FeatureStore.create(path, layers=layers, stimulus_ids=stimuli.ids, provenance={})


def whole(store: FeatureStore) -> dict[str, np.ndarray]:
    return {name: store.read(name, slice(None)) for name in store.layer_names}


def in_memory(net: SmallNet, stimuli: SyntheticNoise, batch_size: int) -> dict[str, np.ndarray]:
    """The layers' values written out by hand, without hooks or in-place steps."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(stimuli), batch_size):
            rows = range(start, min(start + batch_size, len(stimuli)))
            x = (torch.from_numpy(np.stack([stimuli[i] for i in rows])) - 0.4) / 0.2
            conv1 = functional.conv2d(
                x.permute(0, 3, 1, 2).contiguous(), *net.conv1.parameters(), padding=1
            )
            conv2 = functional.conv2d(functional.relu(conv1), *net.conv2.parameters(), padding=1)
            relu = functional.relu(conv2)
            pair = functional.avg_pool2d(relu, 2)
            head = functional.linear(pair.flatten(1), *net.head.parameters())
            parts.append([part.flatten(1).numpy() for part in (conv1, conv2, relu, pair, head)])
    return {
        x.name: np.concatenate(p) for x, p in zip(LAYERS, zip(*parts, strict=True), strict=True)
    }


@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_the_store_holds_what_the_network_gives(tmp_path, batch_size):
    stimuli, net = SyntheticNoise(70), network()
    store = store_at(tmp_path / "s.zarr", stimuli)
    extract(net, stimuli, LAYERS, store, options=of_size(batch_size))
    assert net.module.n_forwards == -(-70 // batch_size)
    assert (store.read("conv1", slice(None)) < 0).any()
    for name, values in in_memory(net.module, stimuli, batch_size).items():
        np.testing.assert_array_equal(store.read(name, slice(None)), values, err_msg=name)


def test_batch_size_changes_rounding_only(tmp_path):
    stimuli = SyntheticNoise(70)
    found = []
    for batch_size in (1, 5, 32, 50, 200):
        store = store_at(tmp_path / f"{batch_size}.zarr", stimuli)
        extract(network(), stimuli, LAYERS, store, options=of_size(batch_size))
        found.append(whole(store))
    for other in found[1:]:
        for name, values in other.items():
            np.testing.assert_allclose(values, found[0][name], rtol=1e-5, atol=1e-5)


def test_a_finished_store_needs_no_forward_and_no_image(tmp_path):
    stimuli, net = SyntheticNoise(40), network()
    store = store_at(tmp_path / "s.zarr", stimuli)
    extract(net, stimuli, LAYERS, store)
    net.module.n_forwards = 0
    stimuli.unreadable = 0
    extract(net, stimuli, LAYERS, FeatureStore.open(store.path))
    assert net.module.n_forwards == 0


@pytest.mark.parametrize(("batch_size", "n_forwards"), [(8, 4), (32, 1), (64, 1)])
def test_only_a_forgotten_block_is_rebuilt(tmp_path, batch_size, n_forwards):
    stimuli, net = SyntheticNoise(120), network()
    store = store_at(tmp_path / "s.zarr", stimuli)
    extract(net, stimuli, LAYERS, store, options=of_size(batch_size))
    before = whole(store)
    shard = store.path / "conv2" / "c.1.0"
    shard.write_bytes(shard.read_bytes()[:-9])
    untouched = store.path / "conv2" / "c.0.0"
    written_ns = untouched.stat().st_mtime_ns
    with pytest.raises(DamagedChunkError) as caught:
        whole(store)

    for block in caught.value.blocks:
        store.forget_block(block)
    net.module.n_forwards = 0
    extract(net, stimuli, LAYERS, store, options=of_size(batch_size))
    assert net.module.n_forwards == n_forwards
    assert untouched.stat().st_mtime_ns == written_ns
    for name, values in whole(store).items():
        np.testing.assert_array_equal(values, before[name])


def test_progress_counts_images_block_by_block(tmp_path):
    stimuli = SyntheticNoise(70)
    store = store_at(tmp_path / "s.zarr", stimuli)
    calls = []
    extract(
        network(), stimuli, LAYERS, store, options=of_size(64), progress=lambda *n: calls.append(n)
    )
    assert calls == [(32, 70), (64, 70), (70, 70)]
    store.forget_block(0)
    extract(
        network(), stimuli, LAYERS, store, options=of_size(64), progress=lambda *n: calls.append(n)
    )
    assert calls[3:] == [(70, 70)]


def test_what_progress_raises_ends_the_extraction_and_keeps_the_blocks(tmp_path):
    stimuli = SyntheticNoise(320)
    store = store_at(tmp_path / "s.zarr", stimuli)

    def stop(done, total):
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(network(), stimuli, LAYERS, store, progress=stop)
    assert store.missing_blocks() == list(range(2, 10))


def test_the_forward_pass_ends_with_the_last_layer_asked_for(tmp_path):
    stimuli, net = SyntheticNoise(96), network()
    heads = []
    net.module.head.register_forward_hook(lambda *_: heads.append(1))
    store = store_at(tmp_path / "s.zarr", stimuli, LAYERS[:3])
    extract(net, stimuli, LAYERS[:3], store)
    assert (net.module.n_forwards, len(heads)) == (3, 1)
    expected = in_memory(net.module, stimuli, 32)
    for name, values in whole(store).items():
        np.testing.assert_array_equal(values, expected[name])


def test_hooks_are_gone_afterwards(tmp_path):
    stimuli, net = SyntheticNoise(33, unreadable=32), network()
    with pytest.raises(DataError):
        extract(net, stimuli, LAYERS, store_at(tmp_path / "s.zarr", stimuli))
    assert not any(module._forward_hooks for module in net.module.modules())


def test_an_unreadable_image_is_named_and_earlier_blocks_stay(tmp_path):
    stimuli = SyntheticNoise(200, unreadable=150)
    store = store_at(tmp_path / "s.zarr", stimuli)
    with pytest.raises(DataError, match="synthetic-noise-150 is cut short") as caught:
        extract(network(), stimuli, LAYERS, store)
    assert caught.value.__notes__ == ["while loading stimulus 'synthetic-noise-150'"]
    assert store.missing_blocks() == [4, 5, 6]
    stimuli.unreadable = None
    extract(network(), stimuli, LAYERS, store)
    undisturbed = store_at(tmp_path / "t.zarr", stimuli)
    extract(network(), stimuli, LAYERS, undisturbed)
    for name, values in whole(store).items():
        np.testing.assert_array_equal(values, undisturbed.read(name, slice(None)))


class Faulty(nn.Module):
    """Does one thing that features cannot be made of."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.part = nn.Identity()
        self.part.forward = self.part_forward
        self.n_forwards = 0

    def part_forward(self, x):
        if self.fault == "nan":
            x = x.clone()
            x[(x.flatten(1).sum(1) == x.flatten(1).sum(1).max())] = torch.nan
        outputs = {"no tensor": ["text", None], "indices": x.long(), "fewer rows": x[:1]}
        return outputs.get(self.fault, x)

    def forward(self, x):
        self.n_forwards += 1
        if self.fault == "moody" and self.n_forwards == 2:
            return x
        return x if self.fault == "skipped" else self.part(x)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no tensor", "'part' gave no tensor of floats but list"),
        ("indices", "'part' gave no tensor of floats but Tensor"),
        ("fewer rows", r"'part' gave shape \(1, 3, 16, 16\), not \(32, 3, 16, 16\)"),
        ("skipped", "'part' does not run"),
        ("moody", "'part' does not run"),
        ("nan", "'part' gave NaN or infinity for 1 stimuli: synthetic-noise-"),
    ],
)
def test_a_layer_without_features_is_named(tmp_path, fault, message):
    layers = [LayerInfo("part", (3, PX, PX), 0)]
    stimuli = SyntheticNoise(64)
    store = store_at(tmp_path / "s.zarr", stimuli, layers)
    with pytest.raises(FeatureError, match=message):
        extract(network(Faulty(fault)), stimuli, layers, store)
    assert 1 in store.missing_blocks()


def test_a_layer_that_is_not_there_is_named(tmp_path):
    layers = [LayerInfo("layer9", (3,), 0)]
    stimuli = SyntheticNoise(3)
    store = store_at(tmp_path / "s.zarr", stimuli, layers)
    with pytest.raises(FeatureError, match="no layer 'layer9'"):
        extract(network(), stimuli, layers, store)


def test_other_stimuli_and_layers_than_the_stores_are_refused(tmp_path):
    store = store_at(tmp_path / "s.zarr", SyntheticNoise(40))
    with pytest.raises(FeatureError, match="stimuli are not those"):
        extract(network(), SyntheticNoise(41), LAYERS, store)
    with pytest.raises(FeatureError, match=r"layers .* are not those"):
        extract(network(), SyntheticNoise(40), LAYERS[1:], store)


def test_a_full_disk_keeps_what_was_written(tmp_path):
    """The kernel refuses chunks above a size after the second block, then allows them again."""
    stimuli = SyntheticNoise(320)
    store = store_at(tmp_path / "s.zarr", stimuli)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done, total):
        if done == 64:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    try:
        with pytest.raises(FeatureStorageError, match="row block 2 of layer 'conv1'"):
            extract(network(), stimuli, LAYERS, store, progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert FeatureStore.open(store.path).missing_blocks() == list(range(2, 10))

    net = network()
    extract(net, stimuli, LAYERS, store)
    assert net.module.n_forwards == 8
    for name, values in in_memory(net.module, stimuli, 32).items():
        np.testing.assert_array_equal(store.read(name, slice(None)), values)


def test_a_store_that_cannot_fit_is_refused_before_the_first_forward(tmp_path):
    stimuli, net = SyntheticNoise(40), network()
    layers = [LayerInfo("conv1", (10**13,), 0)]
    with pytest.raises(FeatureStorageError, match="are free there"):
        extract(net, stimuli, layers, store_at(tmp_path / "s.zarr", stimuli, layers))
    assert net.module.n_forwards == 0


def test_every_traced_layer_of_a_real_network_is_delivered(tmp_path):
    spec = ModelSpec("torchvision", "resnet18", "random", 1)
    layers, net = trace_layers(spec), load_network(spec)
    stimuli = SyntheticNoise(3, px=224)
    store = store_at(tmp_path / "s.zarr", stimuli, layers)
    extract(net, stimuli, layers, store)
    found = whole(store)
    assert {"conv1", "bn1", "layer1.0.relu", "layer4", "avgpool", "fc"} <= set(found)
    # The shared in-place ReLU runs last at the block's end; batch norm is kept as it was before.
    np.testing.assert_array_equal(found["layer1.0.relu"], found["layer1.0"])
    np.testing.assert_array_equal(found["relu"], np.maximum(found["bn1"], 0))
    assert (found["bn1"] < 0).any()
    np.testing.assert_allclose(
        found["fc"],
        found["avgpool"] @ net.module.fc.weight.numpy().T + net.module.fc.bias.numpy(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_pixels_are_a_network(tmp_path):
    spec = ModelSpec("pixels", "pixels")
    layers, net = trace_layers(spec), load_network(spec)
    stimuli = SyntheticNoise(5, px=224)
    store = store_at(tmp_path / "s.zarr", stimuli, layers)
    extract(net, stimuli, layers, store)
    pixels = store.read("pixels", slice(None)).reshape(5, 3, 224, 224)
    np.testing.assert_allclose(pixels[4], stimuli[4].transpose(2, 0, 1), rtol=1e-6)


def extracted_at(path: str, n_stimuli: int, peak_bytes: Connection) -> None:
    """In a process of its own: the most memory that it ever had."""
    stimuli = SyntheticNoise(n_stimuli)
    extract(network(), stimuli, LAYERS, store_at(path, stimuli))
    status = Path("/proc/self/status").read_text(encoding="utf-8").split()
    peak_bytes.send(int(status[status.index("VmHWM:") + 1]) * 1024)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks_bytes = []
    for n_stimuli in (96, 1920):
        peak, sender = SERVER.Pipe(duplex=False)
        path = f"{tmp_path}/{n_stimuli}.zarr"
        process = SERVER.Process(target=extracted_at, args=(path, n_stimuli, sender))
        process.start()
        peaks_bytes.append(peak.recv())
        process.join()
    more_features_bytes = (1920 - 96) * 4 * sum(layer.n_features for layer in LAYERS)
    assert more_features_bytes > 35e6
    assert peaks_bytes[1] - peaks_bytes[0] < more_features_bytes / 2
