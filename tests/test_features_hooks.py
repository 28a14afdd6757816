"""What trips feature hooks, for real on the CPU: each network writes down what its layers give."""

import math
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from toolkit.features.errors import FeatureError
from toolkit.features.hooks import LayerHooks
from toolkit.models import LayerInfo, ModelSpec, trace_layers
from toolkit.models import layers as layers_module


class Stem(nn.Module):
    """(n, 3, 224, 224) to (n, 5, 7, 7), with negative values."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 32, stride=32)


class ChangedInPlace(Stem):
    """What follows a layer writes into its output: arithmetic, a function, a module, an index."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(5)
        self.same = nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.stem(x)
        x *= 2
        x = self.norm(x)
        functional.relu_(x)
        x = self.same(x)
        x[:, 0] = 7
        return self.relu(x.sub_(1)).zero_()

    def by_hand(self, x):
        stem = functional.conv2d(x, self.stem.weight, self.stem.bias, 32)
        norm = 2 * stem / math.sqrt(1 + self.norm.eps)
        same = norm.clamp(min=0)
        shifted = torch.cat([torch.full_like(same[:, :1], 7), same[:, 1:]], 1) - 1
        return {"stem": stem, "norm": norm, "same": same, "relu": shifted.clamp(min=0)}


class Maps(NamedTuple):
    label: torch.Tensor
    coarse: torch.Tensor
    fine: torch.Tensor


class Pyramid(nn.Module):
    def forward(self, x):
        return Maps(torch.arange(len(x)), functional.avg_pool2d(x, 7), x)


class Wrapped(nn.Module):
    def forward(self, x):
        return OrderedDict(loss=None, states=[x.sin(), x], pooled=x.mean((2, 3)))


class Containers(Stem):
    """Named tuples and mappings that hold more than the features."""

    def __init__(self):
        super().__init__()
        self.pyramid = Pyramid()
        self.wrapped = Wrapped()

    def forward(self, x):
        return self.wrapped(self.pyramid(self.stem(x)).fine)["pooled"]

    def by_hand(self, x):
        stem = functional.conv2d(x, self.stem.weight, self.stem.bias, 32)
        return {"pyramid": stem.mean((2, 3), keepdim=True), "wrapped": stem.sin()}


class Tokens(Stem):
    """A class token and patches through PyTorch's encoder, which runs fused where it can."""

    def __init__(self):
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, 5))
        block = nn.TransformerEncoderLayer(5, 1, 6, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)

    def forward(self, x):
        patches = self.stem(x).flatten(2).mT
        return self.encoder(torch.cat([self.cls.expand(len(x), -1, -1), patches], 1))[:, 0]

    def by_hand(self, x):
        patches = functional.conv2d(x, self.stem.weight, self.stem.bias, 32).flatten(2).mT
        x = torch.cat([self.cls.expand(len(x), -1, -1), patches], 1)
        found = {}
        for i, block in enumerate(self.encoder.layers):
            attention = block.self_attn
            normed = functional.layer_norm(x, (5,))
            query, key, value = (
                normed @ attention.in_proj_weight.mT + attention.in_proj_bias
            ).chunk(3, -1)
            mixed = (query @ key.mT / math.sqrt(5)).softmax(-1) @ value
            attended = mixed @ attention.out_proj.weight.mT + attention.out_proj.bias
            x = x + attended
            hidden = block.linear1(functional.layer_norm(x, (5,)))
            x = x + block.linear2(hidden.relu())
            name = f"encoder.layers.{i}"
            found |= {f"{name}.self_attn": attended, f"{name}.linear1": hidden, name: x}
        return found | {"encoder": x}


class Shared(Stem):
    """One module under two names, called three times: its last call counts."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(5, 5, 1)
        self.again = self.first
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.pool(self.again(self.first(self.again(self.stem(x))).relu_())).flatten(1)

    def by_hand(self, x):
        def mix(x):
            return functional.conv2d(x, self.first.weight, self.first.bias)

        stem = functional.conv2d(x, self.stem.weight, self.stem.bias, 32)
        last = mix(mix(mix(stem)).relu())
        return {"first": last, "pool": last.mean((2, 3), keepdim=True)}


class Parametrised(Stem):
    """Weights that are computed whenever they are used."""

    def __init__(self):
        super().__init__()
        self.stem = weight_norm(self.stem)
        self.head = spectral_norm(nn.Linear(245, 6), n_power_iterations=300)

    def forward(self, x):
        return self.head(self.stem(x).flatten(1))

    def by_hand(self, x):
        length, direction = self.stem.parametrizations.weight.parameters()
        weight = length * direction / direction.square().sum((1, 2, 3), keepdim=True).sqrt()
        stem = functional.conv2d(x, weight, self.stem.bias, 32)
        matrix = self.head.parametrizations.weight.original
        norm = torch.linalg.matrix_norm(matrix, 2)
        return {"stem": stem, "head": stem.flatten(1) @ (matrix / norm).mT + self.head.bias}


class Scripted(Stem):
    """TorchScript modules, by script and by trace, among Python ones; they too work in place."""

    def __init__(self):
        super().__init__()
        self.stem = torch.jit.script(self.stem)
        self.act = torch.jit.trace(nn.ReLU(inplace=True), torch.ones(1))
        self.body = torch.jit.script(nn.Sequential(nn.Conv2d(5, 4, 3), nn.Flatten()))

    def forward(self, x):
        return self.body(self.act(self.stem(x))).exp_()

    def by_hand(self, x):
        stem = functional.conv2d(x, self.stem.weight, self.stem.bias, 32)
        conv = dict(self.body.named_parameters())
        body = functional.conv2d(stem.relu(), conv["0.weight"], conv["0.bias"])
        return {"stem": stem, "act": stem.relu(), "body": body.flatten(1)}


class Checkpointed(Stem):
    """Segments that training would run twice, and parts that forbid gradients by themselves."""

    def __init__(self, use_reentrant):
        super().__init__()
        self.use_reentrant = use_reentrant
        self.mix = nn.Conv2d(5, 5, 1)
        self.relu = nn.ReLU(inplace=True)
        self.frozen = Frozen()
        self.head = nn.Linear(5, 3)

    def segment(self, x):
        return self.relu(self.mix(x))

    def forward(self, x):
        x = checkpoint(self.segment, self.stem(x), use_reentrant=self.use_reentrant)
        x = checkpoint(self.segment, x, use_reentrant=self.use_reentrant)
        return self.head(self.frozen(x))

    def by_hand(self, x):
        def mix(x):
            return functional.conv2d(x, self.mix.weight, self.mix.bias)

        stem = functional.conv2d(x, self.stem.weight, self.stem.bias, 32)
        last = mix(mix(stem).relu())
        frozen = last.relu().amax((2, 3))
        return {
            "mix": last,
            "relu": last.relu(),
            "frozen.part": frozen,
            "frozen": frozen,
            "head": frozen @ self.head.weight.mT + self.head.bias,
        }


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Identity()

    @torch.no_grad()
    def forward(self, x):
        return self.part(x.amax((2, 3)))


HARD_CASES = {
    "changed in place": ChangedInPlace,
    "containers": Containers,
    "tokens": Tokens,
    "shared": Shared,
    "parametrised": Parametrised,
    "scripted": Scripted,
    "checkpointed": lambda: Checkpointed(use_reentrant=False),
    "checkpointed, reentrant": lambda: Checkpointed(use_reentrant=True),
}


@pytest.fixture
def traced(monkeypatch):
    """Layers of a network of one's own, traced as a library's are: on meta, without the CPU."""
    real = layers_module._trace_on

    def on_meta(spec, input_shape, device):
        assert device == "meta"
        return real(spec, input_shape, device)

    def trace(make):
        monkeypatch.setattr(layers_module, "_trace_on", on_meta)
        monkeypatch.setattr(layers_module, "build", lambda spec: make())
        layers_module._trace.cache_clear()
        return {layer.name: layer for layer in trace_layers(ModelSpec("torchvision", "alexnet"))}

    yield trace
    layers_module._trace.cache_clear()


def delivered(network, layers, batches):
    """What hooks give for each batch, on the CPU."""
    found = [{} for _ in batches]
    with torch.inference_mode(), LayerHooks(network, layers) as hooks:
        for images, outputs in zip(batches, found, strict=True):
            hooks.forward(images, lambda layer, x, to=outputs: to.update({layer.name: x.clone()}))
    return found


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("make", HARD_CASES.values(), ids=HARD_CASES.keys())
@pytest.mark.parametrize("alone", [False, True], ids=["together", "alone"])
def test_hard_cases_are_traced_and_delivered(make, alone, traced):
    torch.manual_seed(0)
    network = make().eval().requires_grad_(False)
    batches = torch.randn(5, 3, 224, 224).split([2, 3])
    expected = [network.by_hand(images) for images in batches]
    layers = traced(make)
    wanted = [layers[name] for name in expected[0]]
    for some in [[layer] for layer in wanted] if alone else [wanted]:
        for found, by_hand in zip(delivered(network, some, batches), expected, strict=True):
            one_by_one = {layer.name: by_hand[layer.name] for layer in some}
            torch.testing.assert_close(found, one_by_one, rtol=1e-4, atol=1e-5)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_module_answers_to_each_of_its_names():
    network, images = Shared().eval(), torch.randn(2, 3, 224, 224)
    names = [LayerInfo(name, (5, 7, 7), 0) for name in ("first", "again")]
    found = delivered(network, names, [images])[0]
    assert torch.equal(found["first"], found["again"])


@pytest.mark.parametrize(
    ("whole", "layer", "message"),
    [
        (False, "body.0", r"'body\.0' is part of a module 'body' compiled by TorchScript"),
        (True, "0", "'0' is part of a network compiled by TorchScript"),
    ],
)
def test_what_torchscript_hides_is_said(whole, layer, message):
    network = torch.jit.script(nn.Sequential(nn.ReLU(), nn.Flatten())) if whole else Scripted()
    wanted = [LayerInfo(layer, (3, 224, 224), 0)]
    with pytest.raises(FeatureError, match=message):
        delivered(network.eval(), wanted, [torch.zeros(2, 3, 224, 224)])


def test_what_torchscript_hides_is_not_traced(traced):
    assert list(traced(Scripted)) == ["stem", "act", "body"]
