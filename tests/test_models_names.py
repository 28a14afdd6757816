import subprocess
import sys

import commands
import pytest

from toolkit.models import ModelError, ModelSpec, match_names, model_names


def test_importing_the_room_imports_no_heavy_library():
    heavy = "('torch', 'torchvision', 'timm')"
    code = f"import sys, toolkit.models; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_torchvision_lists_classifiers_only():
    names = model_names("torchvision")
    assert {"resnet50", "vgg19", "pnasnet5large"} & set(names) == {"resnet50", "vgg19"}
    assert names == sorted(names)
    unwanted = ("rcnn", "deeplab", "raft", "r3d", "quantized", "ssd", "fcn")
    assert not [name for name in names if any(part in name for part in unwanted)]


def test_every_listed_torchvision_name_has_default_weights():
    from toolkit.models.architecture import torchvision_weights

    assert all(torchvision_weights(name).url for name in model_names("torchvision"))


def test_timm_and_pixels_are_listed():
    assert len(model_names("timm")) > 1000
    assert "pnasnet5large" in model_names("timm")
    assert model_names("pixels") == ["pixels"]


def test_exact_name_stands_for_itself_only():
    assert match_names("torchvision", "resnet50") == ["resnet50"]


def test_pattern_gives_every_match_in_order():
    assert match_names("torchvision", "densenet*") == [
        "densenet121",
        "densenet161",
        "densenet169",
        "densenet201",
    ]


def test_timm_tags_are_matched_only_by_patterns_with_a_dot():
    assert match_names("timm", "resnet18.a1_in1k") == ["resnet18.a1_in1k"]
    assert all("." in name for name in match_names("timm", "resnet18.*"))
    assert not any("." in name for name in match_names("timm", "resnet18*"))


@pytest.mark.parametrize(
    ("library", "name", "hint"),
    [
        ("torchvision", "resnet5O", "resnet50"),
        ("torchvision", "pnasnet5large", "library: timm"),
        ("timm", "shufflenet_v2_x1_0", "library: torchvision"),
        ("timm", "vit_base_patch16_244", "vit_base_patch16_224"),
        ("torchvision", "pixels", "library: pixels"),
    ],
)
def test_unknown_name_is_answered_with_what_may_have_been_meant(library, name, hint):
    with pytest.raises(ModelError, match=hint) as raised:
        match_names(library, name)
    assert library in str(raised.value)
    assert repr(name) in str(raised.value)


def test_unknown_library_lists_the_known_ones():
    with pytest.raises(ModelError, match="torchvision, timm, pixels"):
        ModelSpec("keras", "resnet50")


def test_a_pattern_is_not_a_network():
    from toolkit.models import trace_layers

    with pytest.raises(ModelError, match="is a pattern"):
        trace_layers(ModelSpec("torchvision", "resnet*"))


REGISTERING = """
import sys
from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import test_resnet

from toolkit.sweep import main

default_cfgs = generate_default_cfgs({"labnet": {"input_size": (3, 32, 32)}})

@register_model
def labnet(pretrained=False, **given):
    return test_resnet(pretrained, **given)

sys.exit(main(["plan", "sweep.yaml", "--executor", sys.argv[1]]))
"""
SWEEP = """
name: tiny
dataset: {kind: synthetic, n_train: 20, n_val: 10, n_neuroids: 2, image_px: 32}
models: [{library: timm, names: labnet, layers: [layer1]}]
readouts: [{kind: ridge}]
"""


@pytest.mark.parametrize(("executor", "status"), [("local", 2), ("inprocess", 0)])
def test_a_network_that_a_script_registers_is_refused_where_jobs_do_not_know_it(
    tmp_path, executor, status
):
    (tmp_path / "mine.py").write_text(REGISTERING, encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    output = commands.python("mine.py", executor, expect=status, cwd=tmp_path)
    assert ("names.py" in output) == (status == 2)
