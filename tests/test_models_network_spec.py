import pytest

from toolkit.models import ModelError
from toolkit.models.network_spec import (
    DecoderSpec,
    ModularTrunk,
    NetworkSpec,
    ShallowTrunk,
    SmallModule,
    ZooTrunk,
)

MODULE = SmallModule((16, 32), (3, 5), "soft", normalised=True)
SPECS = [
    NetworkSpec(ZooTrunk("torchvision", "vgg11_bn", n_blocks=5), DecoderSpec(hidden=(70, 70))),
    NetworkSpec(ShallowTrunk((16, 32), dropout=0.5), DecoderSpec("factorised"), seed=3),
    NetworkSpec(ModularTrunk((((MODULE,),), ((MODULE, MODULE),)), 1250), n_trained_stages=1),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.trunk.kind)
def test_json_values_make_the_same_network(spec):
    assert NetworkSpec.from_plain(spec.to_plain()) == spec


def changed(**changes):
    plain = SPECS[1].to_plain()
    for path, value in changes.items():
        *parents, key = path.split("__")
        inner = plain
        for parent in parents:
            inner = inner[parent]
        inner[key] = value
    return plain


@pytest.mark.parametrize(
    ("plain", "complaints"),
    [
        (changed(decoder__hiden=[3]), ["decoder.hiden"]),
        (changed(seed="3"), ["seed", "integer"]),
        (changed(trunk__kind="shalow"), ["trunk", "'zoo', 'shallow', 'modular'"]),
        (changed(trunk__channels=[]), ["trunk.shallow", "channels is ()"]),
        (changed(trunk__kernel_px=4), ["kernel_px is 4", "odd"]),
        (changed(decoder__kind="dense", decoder__dropout=1.0), ["dropout is 1.0"]),
        (changed(decoder__pool_px=1), ["factorised"]),
        (changed(n_trained_stages=-1), ["n_trained_stages is -1"]),
        (changed(n_logits=1), ["n_logits is 1"]),
        ({"decoder": {}}, ["trunk", "required"]),
    ],
)
def test_what_is_wrong_is_named(plain, complaints):
    with pytest.raises(ModelError) as caught:
        NetworkSpec.from_plain(plain)
    for complaint in complaints:
        assert complaint in str(caught.value)


def test_a_trunk_is_cut_in_one_place():
    with pytest.raises(ModelError, match="one of them"):
        ZooTrunk("timm", "resnet18", layer="layer2", n_blocks=2)


@pytest.mark.parametrize("stacks", [(), ((),), (((),),)])
def test_stacks_stages_and_modules_are_not_empty(stacks):
    with pytest.raises(ModelError, match="empty"):
        ModularTrunk(stacks)


def test_each_convolution_has_a_kernel():
    with pytest.raises(ModelError, match="2 odd numbers"):
        SmallModule((16, 16), (3,), "max", normalised=False)
