"""Every family of networks on the meta device: built, traced, sized and delivered."""

import math
from dataclasses import replace

import pytest

from benchmarks import coverage
from benchmarks.coverage import NotCoveredError, check, require_stages
from toolkit.features import layout
from toolkit.features.errors import FeatureError
from toolkit.models import LayerInfo, ModelSpec, model_names, trace_layers

TIMM = (
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "coat_tiny",
    "coatnet_0_rw_224",
    "convmixer_768_32",
    "convnext_base",
    "crossvit_9_240",
    "densenet201",
    "dla34",
    "dpn68",
    "efficientformer_l1",
    "efficientnet_b0",
    "eva02_tiny_patch14_224",
    "fastvit_t8",
    "halonet26t",
    "hiera_tiny_224",
    "hrnet_w18",
    "hrnet_w18_small",
    "inception_v4",
    "levit_128",
    "mambaout_femto",
    "mixer_b16_224",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobilevit_s",
    "naflexvit_base_patch16_gap",
    "nf_resnet50",
    "nfnet_f0",
    "pnasnet5large",
    "poolformer_s12",
    "pvt_v2_b0",
    "regnety_032",
    "res2net50_26w_4s",
    "resmlp_12_224",
    "samvit_base_patch16_224",
    "swin_base_patch4_window7_224",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "tf_efficientnet_b5",
    "tf_efficientnet_b6",
    "tnt_s_patch16_224",
    "vgg16_bn",
    "vit_base_patch16_224",
    "vit_base_r50_s16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_18x2_224",
    "volo_d1_224",
    "xcit_nano_12_p16_224",
    "xcit_small_12_p16_224",
)
NETWORKS = [("torchvision", name) for name in model_names("torchvision")] + [
    ("timm", name) for name in TIMM
]


@pytest.mark.parametrize("network", NETWORKS, ids="/".join)
def test_layers_are_found_sized_and_delivered(network):
    spec = ModelSpec(*network)
    auto, layers = check(spec), trace_layers(spec)
    assert (layers[0].depth, layers[-1].depth) == (0, 1)
    assert [layer.index for layer in layers] == list(range(len(layers)))
    assert set(auto) <= set(layers)
    features_bytes = 3000 * 4 * sum(math.prod(layer.shape) for layer in auto)
    assert features_bytes <= layout.predicted_bytes(auto, 3000) < 1.05 * features_bytes


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        # A CNN of more residual blocks than the transformer on top of it has.
        ("vit_base_r50_s16_224", [2, 5, 8, 11]),
        # Two feed-forward parts in each block.
        ("vit_small_patch16_18x2_224", [3, 8, 12, 17]),
    ],
)
def test_auto_takes_blocks_and_not_what_is_in_them(name, blocks):
    assert [layer.name for layer in check(ModelSpec("timm", name))] == [
        f"blocks.{block}" for block in blocks
    ]


def stage(index: int, depth: float, shape: tuple[int, ...] = (8, 4, 4)) -> LayerInfo:
    return LayerInfo(f"layer{index}", shape, index, "Sequential", depth)


@pytest.mark.parametrize(
    ("auto", "message"),
    [
        ([stage(9, 1.0)], "gives 1 layers"),
        ([stage(i, i / 12) for i in range(13)], "gives 13 layers"),
        ([stage(3, 0.6), stage(1, 0.2)], "'layer3' before 'layer1'"),
        ([stage(3, 0.6), stage(4, 0.6)], "'layer3' before 'layer4'"),
        ([stage(3, 0.6), stage(4, 1.2)], "'layer3' before 'layer4'"),
        ([stage(1, 0.2), stage(2, 0.4)], "ends at relative depth 0.40"),
        ([stage(3, 0.6), stage(4, 1.0, (1000,))], r"the classifier: \['layer4'\]"),
        ([stage(3, 0.6), stage(4, 1.0, (1000, 1, 1))], r"the classifier: \['layer4'\]"),
    ],
)
def test_what_is_no_list_of_stages_is_not_covered(auto, message):
    with pytest.raises(NotCoveredError, match=message):
        require_stages(auto, 1000)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda layer: replace(layer, shape=(layer.shape[0] + 1, *layer.shape[1:])),
        lambda layer: replace(layer, name="features.99"),
    ],
    ids=["shape", "name"],
)
def test_a_layer_that_is_not_delivered_as_predicted_is_not_covered(monkeypatch, wrong):
    spec = ModelSpec("torchvision", "alexnet")
    layers = trace_layers(spec)
    monkeypatch.setattr(coverage, "trace_layers", lambda _: [*layers[:-1], wrong(layers[-1])])
    with pytest.raises(FeatureError, match=r"'classifier' gave shape|'features\.99'"):
        check(spec)
    assert "FeatureError" in coverage.cover(spec).problem


def test_the_benchmark_counts_what_works_and_says_what_does_not(monkeypatch):
    known = [ModelSpec("torchvision", "alexnet"), ModelSpec("timm", "test_resnet")]
    unknown = ModelSpec("timm", "no_such_network")
    monkeypatch.setattr(coverage, "families", lambda: {"a": known[:1], "b": [known[1], unknown]})
    alexnet, small, torchvision_total, timm_total = coverage.coverage(quick=False)
    assert (alexnet.case, alexnet.status, small.case, small.status) == ("a", "ok", "b", "failed")
    assert alexnet.note == "1 of 1 networks; auto: 4 layers, 1.5 MB per image"
    assert small.note.startswith("1 of 2 networks; auto: ")
    assert "no_such_network: ModelError: " in small.note
    assert torchvision_total.note == "1 of 1 networks"
    assert timm_total.note == "1 of 2 networks"


def test_families_hold_every_network_once():
    found = [spec for specs in coverage.families().values() for spec in specs]
    assert len(found) == len(set(found))
    for library in ("torchvision", "timm"):
        assert {s.name for s in found if s.library == library} == set(model_names(library))
