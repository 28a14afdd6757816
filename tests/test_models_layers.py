from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from toolkit.models import (
    LayerError,
    LayerInfo,
    ModelError,
    ModelSpec,
    load_network,
    match_names,
    output_tensor,
    preprocessing_of,
    select_layers,
    trace_layers,
)
from toolkit.models import layers as layers_module

SMALL_NETWORKS = (
    ("pixels", "pixels"),
    ("torchvision", "squeezenet1_1"),
    ("torchvision", "resnet18"),
    ("torchvision", "shufflenet_v2_x0_5"),
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "googlenet"),
    ("torchvision", "regnet_y_400mf"),
    ("torchvision", "swin_t"),
    ("torchvision", "vit_b_32"),
    ("timm", "test_resnet"),
    ("timm", "test_vit"),
    ("timm", "test_convnext"),
    ("timm", "test_maxvit"),
    ("timm", "tnt_s_patch16_224"),
    ("timm", "coat_lite_tiny"),
)


def auto(library: str, name: str) -> list[str]:
    spec = ModelSpec(library, name)
    return [layer.name for layer in select_layers(trace_layers(spec), "auto", spec)]


def outputs_of_a_real_forward(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    network = load_network(spec)
    seen: dict[str, tuple[int, ...]] = {}

    def keep(name):
        def hook(module, inputs, output):
            seen.pop(name, None)
            tensor = output_tensor(output)
            if tensor is not None:
                seen[name] = tuple(tensor.shape)

        return hook

    for name, module in network.module.named_modules():
        module.register_forward_hook(keep(name))
    with torch.inference_mode():
        network.module(torch.zeros(3, 3, *network.preprocessing.input_px))
    del seen[""]
    return seen


@pytest.mark.parametrize("spec", SMALL_NETWORKS, ids=lambda spec: spec[1])
def test_predicted_shapes_and_order_are_those_of_a_real_forward(spec):
    spec = ModelSpec(*spec)
    layers = trace_layers(spec)
    real = outputs_of_a_real_forward(spec)
    assert {layer.name: (3, *layer.shape) for layer in layers}.items() <= real.items()
    traced = {layer.name for layer in layers}
    assert [layer.name for layer in layers] == [name for name in real if name in traced]
    assert [layer.index for layer in layers] == list(range(len(layers)))
    assert all(shape[0] != 3 for name, shape in real.items() if name not in traced)


def test_a_module_called_several_times_counts_with_its_last_call():
    names = [layer.name for layer in trace_layers(ModelSpec("torchvision", "resnet18"))]
    assert names.count("layer1.0.relu") == 1
    assert names.index("layer1.0.relu") == names.index("layer1.0.bn2") + 1
    assert names.index("layer1.0") == names.index("layer1.0.relu") + 1


def test_pixels_are_one_layer():
    assert trace_layers(ModelSpec("pixels", "pixels")) == [
        LayerInfo("pixels", (3, 224, 224), 0, "Image")
    ]


def test_n_features_is_the_flattened_size():
    layers = {layer.name: layer for layer in trace_layers(ModelSpec("torchvision", "resnet50"))}
    assert layers["conv1"].n_features == 802_816
    assert layers["avgpool"].n_features == 2048


def test_output_tensor_is_the_first_floating_tensor():
    first, second = torch.zeros(1), torch.ones(1)
    index = torch.zeros(1, dtype=torch.int64)
    assert output_tensor(first) is first
    assert output_tensor((None, index, [first], second)) is first
    assert output_tensor({"a": index, "b": {"c": second}}) is second
    assert output_tensor([]) is None
    assert output_tensor("logits") is None
    assert output_tensor(index) is None


def peak_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8").split()
    return int(status[status.index("VmHWM:") + 1]) * 1024


def test_tracing_a_huge_network_allocates_none_of_its_weights():
    layers_module._trace.cache_clear()
    spec = ModelSpec("torchvision", "regnet_y_128gf")  # 2.6 GB of float32
    # Sets the peak back to what is in use now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before_bytes = peak_bytes()
    assert len(trace_layers(spec)) > 500
    assert peak_bytes() - before_bytes < 700e6


class CountsValues(TorchDispatchMode):
    """Values that are computed, and not only their shapes."""

    n_values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.n_values += sum(tensor.numel() for tensor in tensors if not tensor.is_meta)
        return result


def test_tracing_computes_next_to_no_values():
    spec = ModelSpec("torchvision", "resnet50")
    layers_module._trace.cache_clear()
    with CountsValues() as traced:
        trace_layers(spec)
    with CountsValues() as run:
        load_network(spec)
    assert traced.n_values < 10_000 < 20e6 < run.n_values


def test_tracing_leaves_the_random_generator_alone():
    layers_module._trace.cache_clear()
    before = torch.get_rng_state()
    trace_layers(ModelSpec("timm", "test_vit"))
    assert torch.equal(torch.get_rng_state(), before)


class ReadsItsInput(nn.Module):
    """Cannot run on the meta device: what it does depends on the values it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.conv(x)
        return self.relu(x) if x.sum().item() > -1e9 else x


class Breaks(nn.Module):
    def forward(self, x):
        raise RuntimeError("no such kernel")


@pytest.fixture
def traced_network(monkeypatch):
    def give(network_class):
        monkeypatch.setattr(layers_module, "build", lambda spec: network_class())
        layers_module._trace.cache_clear()
        return ModelSpec("torchvision", "alexnet")

    yield give
    layers_module._trace.cache_clear()


def test_a_network_that_cannot_run_on_meta_runs_on_the_cpu(traced_network):
    layers = trace_layers(traced_network(ReadsItsInput))
    assert [(layer.name, layer.shape) for layer in layers] == [
        ("conv", (4, 222, 222)),
        ("relu", (4, 222, 222)),
    ]


def test_a_network_that_runs_nowhere_is_named(traced_network):
    with pytest.raises(ModelError, match=r"alexnet.*224 x 224.*no such kernel"):
        trace_layers(traced_network(Breaks))


AUTO = {
    ("pixels", "pixels"): ["pixels"],
    ("torchvision", "alexnet"): ["features.1", "features.4", "features.11", "avgpool"],
    ("torchvision", "vgg16"): [
        "features.3",
        "features.8",
        "features.15",
        "features.22",
        "features.29",
        "avgpool",
    ],
    ("torchvision", "resnet50"): ["relu", "layer1", "layer2", "layer3", "layer4", "avgpool"],
    ("torchvision", "densenet201"): [
        "features.relu0",
        "features.denseblock1",
        "features.denseblock2",
        "features.denseblock3",
        "features.norm5",
    ],
    ("torchvision", "squeezenet1_1"): ["features.1", "features.4", "features.7", "features.12"],
    ("torchvision", "mobilenet_v2"): [
        "features.1",
        "features.3",
        "features.6",
        "features.13",
        "features.18",
    ],
    ("torchvision", "googlenet"): [
        "conv1",
        "conv3",
        "inception3b",
        "inception4e",
        "inception5b",
        "avgpool",
    ],
    ("torchvision", "inception_v3"): [
        "Conv2d_2b_3x3",
        "Conv2d_4a_3x3",
        "Mixed_5d",
        "Mixed_6e",
        "Mixed_7c",
        "avgpool",
    ],
    ("torchvision", "swin_t"): ["features.1", "features.3", "features.5", "norm", "avgpool"],
    ("torchvision", "vit_b_16"): [f"encoder.layers.encoder_layer_{i}" for i in (2, 5, 8, 11)],
    ("timm", "resnet50"): ["act1", "layer1", "layer2", "layer3", "layer4", "global_pool"],
    ("timm", "pnasnet5large"): [
        "conv_0",
        "cell_stem_0",
        "cell_3",
        "cell_7",
        "act",
        "global_pool",
    ],
    ("timm", "convnext_tiny"): [f"stages.{i}" for i in range(4)],
    ("timm", "mixer_b16_224"): [f"blocks.{i}" for i in (2, 5, 8, 11)],
    ("timm", "deit_base_distilled_patch16_224"): [f"blocks.{i}" for i in (2, 5, 8, 11)],
    ("timm", "vit_small_r26_s32_224"): [f"blocks.{i}" for i in (2, 5, 8, 11)],
    ("timm", "tnt_s_patch16_224"): [f"blocks.{i}.mlp" for i in (2, 5, 8, 11)],
    ("timm", "regnety_032"): ["stem", "s1", "s2", "s3", "s4"],
    ("timm", "maxvit_tiny_tf_224"): ["stem", *(f"stages.{i}" for i in range(4))],
    ("timm", "coatnet_0_224"): ["stem", *(f"stages.{i}" for i in range(4))],
}


@pytest.mark.parametrize(("network", "expected"), AUTO.items(), ids=lambda item: item[-1])
def test_auto_gives_the_stages(network, expected):
    assert auto(*network) == expected


def test_all_gives_every_leaf():
    spec = ModelSpec("torchvision", "resnet18")
    chosen = select_layers(trace_layers(spec), "all", spec)
    module = load_network(spec).module
    leaves = {name for name, child in module.named_modules() if not list(child.children())}
    assert {layer.name for layer in chosen} == leaves


def test_a_list_mixes_names_and_patterns_in_execution_order():
    spec = ModelSpec("torchvision", "resnet50")
    request = ["avgpool", "layer[1-4]", "conv1", "layer4"]
    chosen = [layer.name for layer in select_layers(trace_layers(spec), request, spec)]
    assert chosen == ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool"]


def test_a_star_crosses_dots():
    spec = ModelSpec("torchvision", "resnet18")
    chosen = [layer.name for layer in select_layers(trace_layers(spec), ["layer1.*.conv1"], spec)]
    assert chosen == ["layer1.0.conv1", "layer1.1.conv1"]


@pytest.mark.parametrize("request_", [["layer3", "layer33"], ["layer33*"], "layer33"])
def test_unknown_layer_is_answered_with_the_nearest(request_):
    spec = ModelSpec("torchvision", "resnet18")
    with pytest.raises(ModelError, match=r"resnet18.*layer33.*Nearest:.*layer3"):
        select_layers(trace_layers(spec), request_, spec)


def test_input_size_of_every_trace_is_that_of_the_preprocessing():
    for name in match_names("torchvision", "vit_*"):
        spec = ModelSpec("torchvision", name)
        side_px = preprocessing_of(spec).input_px[0]
        patch_px = int(name.split("_")[-1])
        first = next(layer for layer in trace_layers(spec) if layer.name == "conv_proj")
        assert first.shape[1:] == (side_px // patch_px,) * 2


@pytest.mark.parametrize(
    ("library", "name", "pattern", "why", "nearest"),
    [
        ("timm", "test_vit", "blocks.1.attn.attn_drop", "never called", "blocks.1.attn"),
        ("timm", "test_vit", "blocks.*.attn_drop", "never called", "blocks.0.attn"),
        ("torchvision", "swin_t", "features.1.0.attn.qkv", "never called", "features.1.0.attn"),
        ("timm", "tnt_s_patch16_224", "blocks.0.attn_in.qk", "not one row per image", "blocks.0"),
    ],
)
def test_a_module_that_gives_no_features_is_told_from_none(library, name, pattern, why, nearest):
    spec = ModelSpec(library, name)
    with pytest.raises(LayerError) as raised:
        select_layers(trace_layers(spec), [pattern], spec)
    said, _, near = str(raised.value).partition("Nearest: ")
    assert "has a module" in said and why in said
    assert near.startswith(nearest)
    with pytest.raises(LayerError, match=r"has no layer 'nowhere'.*has no layer 'nor here'"):
        select_layers(trace_layers(spec), ["nowhere", nearest, "nor here"], spec)
