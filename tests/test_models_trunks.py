import numpy as np
import pytest
import torch

from toolkit.models import LayerError, ModelError, ModelSpec, load_network
from toolkit.models.network_spec import (
    DecoderSpec,
    ModularTrunk,
    NetworkSpec,
    ShallowTrunk,
    SmallModule,
    ZooTrunk,
)
from toolkit.models.trainable import build_network
from toolkit.models.trunks import (
    block_ends,
    build_trunk,
    features_of,
    stage_of_modules,
    trunk_preprocessing,
)

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def zoo(name, library="torchvision", **cut):
    return ZooTrunk(library, name, weights="random", input_px=64, **cut)


@pytest.fixture(scope="module")
def vgg():
    return load_network(ModelSpec("torchvision", "vgg11_bn", "random", 1)).module


def test_vgg_has_eight_blocks(vgg):
    assert block_ends(vgg) == [f"features.{last}" for last in (3, 7, 10, 14, 17, 21, 24, 28)]


@pytest.mark.parametrize(("n_blocks", "last"), [(1, 3), (5, 17)])
def test_vgg_is_cut_after_its_blocks(vgg, n_blocks, last):
    trunk = build_trunk(zoo("vgg11_bn", n_blocks=n_blocks), seed=1).eval()
    expected = vgg.features[: last + 1]
    assert torch.equal(features_of(trunk, IMAGES), expected(IMAGES))
    assert list(trunk.state_dict()) == [f"features.{name}" for name in expected.state_dict()]


def test_blocks_of_other_sequential_trunks():
    def ends(name):
        return block_ends(load_network(ModelSpec("torchvision", name)).module)

    assert ends("resnet18") == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert ends("densenet121")[:3] == [
        "features.pool0",
        "features.denseblock1",
        "features.transition1",
    ]


def test_more_blocks_than_there_are():
    with pytest.raises(ModelError, match=r"n_blocks is 6, but .* has 5 blocks"):
        build_trunk(zoo("resnet18", n_blocks=6), seed=0)
    with pytest.raises(ModelError, match="not a sequence of blocks"):
        build_trunk(ZooTrunk("timm", "vit_tiny_patch16_224", "random", n_blocks=2), seed=0)


def test_a_residual_network_is_cut_after_a_layer_and_keeps_its_names():
    whole = load_network(ModelSpec("torchvision", "resnet18", "random", 4)).module
    trunk = build_trunk(zoo("resnet18", layer="layer2"), seed=4).eval()
    expected = whole.layer2(whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1(IMAGES))))))
    assert torch.equal(features_of(trunk, IMAGES), expected)
    assert set(trunk.state_dict()) == {
        name for name in whole.state_dict() if not name.startswith(("layer3", "layer4", "fc"))
    }


def test_an_unknown_layer_is_refused_with_the_nearest():
    with pytest.raises(LayerError, match="layer2"):
        build_trunk(zoo("resnet18", layer="layr2"), seed=0)


@pytest.mark.parametrize(
    ("library", "name", "n_features"),
    [
        ("torchvision", "resnet18", 512),
        ("torchvision", "alexnet", 4096),
        ("torchvision", "squeezenet1_1", 512),
        ("torchvision", "mobilenet_v3_small", 1024),
        ("timm", "resnet18", 512),
        ("timm", "vit_tiny_patch16_224", 192),
    ],
)
def test_a_network_without_classifier_gives_what_the_classifier_saw(library, name, n_features):
    size = None if "vit" in name else 64
    trunk = ZooTrunk(library, name, "random", input_px=size)
    spec = NetworkSpec(trunk, seed=2)
    network = build_network(spec, n_neurons=3, n_classes={}).eval()
    px = trunk_preprocessing(trunk).input_px[0]
    images = torch.zeros(2, 3, px, px)
    assert features_of(network.trunk, images).shape == (2, n_features)
    assert network(images).responses.shape == (2, 3)


def test_another_input_size_scales_the_preprocessing():
    own = trunk_preprocessing(ZooTrunk("torchvision", "resnet18"))
    small = trunk_preprocessing(ZooTrunk("torchvision", "resnet18", input_px=112))
    assert (own.input_px, own.resize_px) == ((224, 224), (256, 256))
    assert (small.input_px, small.resize_px) == ((112, 112), (128, 128))
    assert (small.mean, small.std) == (own.mean, own.std)


def test_a_trunk_that_does_not_run_at_this_size():
    spec = NetworkSpec(ZooTrunk("torchvision", "alexnet", "random", input_px=16))
    with pytest.raises(ModelError, match="16 x 16 px"):
        build_network(spec, n_neurons=3, n_classes={})


def test_stages_of_a_residual_network():
    spec = zoo("resnet18")
    trunk = build_trunk(spec, seed=0)
    stages = stage_of_modules(spec, trunk)
    assert [stages[name] for name in ("conv1", "bn1", "layer1.0.conv1")] == [0, 0, 1]
    assert [stages[f"layer{k}.1.bn2"] for k in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert stages["layer3.0.downsample.0"] == 3


def trained_names(spec, n_classes=None):
    network = build_network(spec, n_neurons=2, n_classes=n_classes or {})
    return {
        name.removeprefix("trunk.").rsplit(".", 1)[0]
        for name, weight in network.named_parameters()
        if weight.requires_grad and name.startswith("trunk")
    }


@pytest.mark.parametrize(
    ("n_stages", "expected"),
    [(0, set()), (1, {"2.0", "2.1"}), (2, {"1.0", "1.1", "2.0", "2.1"})],
)
def test_the_last_stages_are_trained(n_stages, expected):
    trunk = ShallowTrunk((4, 5, 6), normalised=True, input_px=32)
    assert trained_names(NetworkSpec(trunk, n_trained_stages=n_stages)) == expected


def test_the_last_stage_of_a_zoo_network_is_trained():
    names = trained_names(NetworkSpec(zoo("resnet18"), n_trained_stages=1))
    assert names and all(name.startswith("layer4.") for name in names)


def test_class_tokens_and_positions_are_frozen_with_the_first_stage():
    trunk = ZooTrunk("timm", "vit_tiny_patch16_224", "random")
    names = trained_names(NetworkSpec(trunk, n_trained_stages=1))
    assert "blocks.11.attn.qkv" in names
    assert not names & {"cls_token", "pos_embed", "patch_embed.proj", "blocks.0.attn.qkv"}


def test_the_last_stage_of_a_modular_network_is_trained():
    module = SmallModule((4,), (3,), "max", normalised=True)
    trunk = ModularTrunk((((module,), (module, module)),), input_px=32)
    names = trained_names(NetworkSpec(trunk, n_trained_stages=1))
    assert names and all(name.startswith("stacks.0.1.") for name in names)


def test_more_stages_than_there_are():
    with pytest.raises(ModelError, match="the trunk has 2 stages"):
        build_network(
            NetworkSpec(ShallowTrunk((4, 5), input_px=32), n_trained_stages=3),
            n_neurons=1,
            n_classes={},
        )


def test_frozen_parts_stay_in_evaluation_mode():
    trunk = ShallowTrunk((4, 5), normalised=True, dropout=0.5, input_px=32)
    network = build_network(NetworkSpec(trunk, n_trained_stages=1), n_neurons=1, n_classes={})
    network.train()
    assert [block[1].training for block in network.trunk] == [False, True]
    assert [block[4].training for block in network.trunk] == [False, True]
    network.eval()
    assert not any(module.training for module in network.modules())


def test_a_seed_gives_the_same_weights_whatever_else_there_is():
    spec = NetworkSpec(ShallowTrunk((4,), input_px=32), DecoderSpec(pool_px=1), seed=5)
    before = torch.get_rng_state()
    alone = build_network(spec, n_neurons=3, n_classes={}).state_dict()
    both = build_network(spec, n_neurons=3, n_classes={"object": 4, "category": 2}).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(both[name], value) for name, value in alone.items())
    other = NetworkSpec(spec.trunk, spec.decoder, seed=6)
    changed = build_network(other, n_neurons=3, n_classes={}).state_dict()
    assert not torch.equal(changed["trunk.0.0.weight"], alone["trunk.0.0.weight"])


def test_more_classes_than_logits():
    spec = NetworkSpec(ShallowTrunk((4,), input_px=32), n_logits=10)
    network = build_network(spec, n_neurons=0, n_classes={"object": 7})
    outputs = network(torch.zeros(1, 3, 32, 32))
    assert outputs.responses is None
    assert outputs.logits["object"].shape == (1, 10)
    with pytest.raises(ModelError, match=r"12 classes of object, more than n_logits: 10"):
        build_network(spec, n_neurons=0, n_classes={"object": 12})


def test_rates_are_positive():
    spec = NetworkSpec(ShallowTrunk((4,), input_px=32), seed=1)
    network = build_network(spec, n_neurons=50, n_classes={}, is_rate=True)
    rates = network(10 * torch.randn(8, 3, 32, 32)).responses.detach().numpy()
    assert (rates > 0).all()
    assert np.ptp(rates) > 0
