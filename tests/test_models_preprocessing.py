import json

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.models import (
    ModelError,
    ModelSpec,
    model_names,
    preprocessing_of,
    share_seen,
)


def synthetic_picture(height_px: int, width_px: int, seed: int = 0) -> Image.Image:
    """Smooth colours with sharp noise on top, so that filters and offsets by a pixel show."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((width_px, height_px), Image.Resampling.BICUBIC), np.float64)
    noisy = smooth + rng.normal(0, 20, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def as_floats(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32) / 255


def timm_transform(name: str):
    from timm.data import create_transform, resolve_data_config
    from timm.models import get_pretrained_cfg

    return create_transform(
        **resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    )


def test_every_torchvision_preset_is_reproduced():
    from torchvision.models import get_model_weights

    presets = {
        name: get_model_weights(name).DEFAULT.transforms() for name in model_names("torchvision")
    }
    different = {str(preset): name for name, preset in presets.items()}
    assert len(different) > 10
    for name in different.values():
        preset = presets[name]
        for size in ((400, 531), (180, 150)):
            picture = synthetic_picture(*size)
            ours = preprocessing_of(ModelSpec("torchvision", name))(picture, framed=False)
            assert ours.dtype == torch.float32
            assert torch.allclose(ours, preset(picture), rtol=0, atol=1e-6), name


# Centre crops at several fractions, squashing, a border, and an input that is not square.
TIMM_NAMES = (
    "resnet50.a1_in1k",
    "vit_base_patch16_224",
    "beit_base_patch16_224",
    "convnext_tiny",
    "inception_v3",
    "pnasnet5large",
    "coat_lite_medium_384",
    "csatv2",
    "vit_base_patch16_siglip_224",
    "deepseek_vit_412m",
    "vit_base_patch16_sapiens2",
)


@pytest.mark.parametrize("name", TIMM_NAMES)
@pytest.mark.parametrize("size", [(400, 531), (640, 320), (90, 120)])
def test_timm_transforms_are_reproduced(name, size):
    picture = synthetic_picture(*size)
    ours = preprocessing_of(ModelSpec("timm", name))(picture, framed=False)
    assert torch.allclose(ours, timm_transform(name)(picture), rtol=0, atol=1e-6)


def test_the_timm_names_cover_every_kind_of_crop():
    modes = {preprocessing_of(ModelSpec("timm", name)).crop for name in TIMM_NAMES}
    sides = {preprocessing_of(ModelSpec("timm", name)).input_px for name in TIMM_NAMES}
    assert modes == {"center", "squash", "border"}
    assert any(height != width for height, width in sides)


@pytest.mark.parametrize("spec", [("torchvision", "resnet50"), ("timm", "beit_base_patch16_224")])
def test_floats_and_pil_agree_up_to_8_bit_rounding(spec):
    preprocessing = preprocessing_of(ModelSpec(*spec))
    # Low contrast: PIL also clips between its two passes, where cubic interpolation overshoots.
    picture = synthetic_picture(300, 260).point(lambda level: 64 + level // 2)
    for framed in (True, False):
        from_pil = preprocessing(picture, framed)
        from_floats = preprocessing(as_floats(picture), framed)
        # Half a grey level per resizing direction, in units of the standard deviation.
        assert (from_pil - from_floats).abs().max() < 1.1 / 255 / min(preprocessing.std)


def test_border_of_floats_is_the_mean():
    preprocessing = preprocessing_of(ModelSpec("timm", "deepseek_vit_412m"))
    seen = preprocessing(np.ones((100, 50, 3), np.float32), framed=False)
    assert torch.allclose(seen[:, :, 0], torch.zeros(()), atol=1e-6)
    middle = seen[:, seen.shape[1] // 2, seen.shape[2] // 2]
    expected = (1 - torch.tensor(preprocessing.mean)) / torch.tensor(preprocessing.std)
    assert torch.allclose(middle, expected, atol=1e-5)


@pytest.mark.parametrize("name", TIMM_NAMES)
@pytest.mark.parametrize("size", [(256, 256), (400, 531), (640, 320)])
@pytest.mark.parametrize("framed", [True, False])
def test_share_seen_is_what_the_transform_leaves_of_a_ramp(name, size, framed):
    """Down and across the image its values go from 0 to 1: the share is how far they still go."""
    preprocessing = preprocessing_of(ModelSpec("timm", name))
    down, across = np.meshgrid(*(np.linspace(0, 1, n) for n in size), indexing="ij")
    ramp = np.stack([down, across, down], axis=-1).astype(np.float32)
    left = preprocessing(ramp, framed)
    ranges = [float(left[i].max() - left[i].min()) * preprocessing.std[i] for i in range(2)]
    seen = share_seen(preprocessing.to_dict(), size, framed)
    assert seen == pytest.approx(ranges[0] * ranges[1], abs=0.025)


def test_default_preprocessing_cuts_a_quarter_of_a_square_away():
    preprocessing = preprocessing_of(ModelSpec("timm", "resnet50.tv_in1k")).to_dict()
    preprocessing.update(input_px=[224, 224], resize_px=[256, 256], crop="center")
    assert share_seen(preprocessing, (500, 500), framed=False) == pytest.approx((224 / 256) ** 2)
    assert share_seen(preprocessing, (500, 500), framed=True) == 1


def test_framed_image_of_the_input_size_is_only_normalised():
    preprocessing = preprocessing_of(ModelSpec("torchvision", "resnet50"))
    values = as_floats(synthetic_picture(224, 224))
    expected = (values - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    seen = preprocessing(values, framed=True).numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_framed_image_keeps_its_edges_where_an_unframed_one_loses_them():
    preprocessing = preprocessing_of(ModelSpec("torchvision", "resnet50"))
    values = np.zeros((256, 256, 3), np.float32)
    values[:3] = values[-3:] = 1
    framed, cropped = (preprocessing(values, framed)[0] for framed in (True, False))
    assert framed[0].min() > framed[112].max()
    assert torch.equal(cropped[0], cropped[112])


def test_clipped_like_pil_where_cubic_interpolation_overshoots():
    preprocessing = preprocessing_of(ModelSpec("timm", "resnet50"))
    assert preprocessing.interpolation == "bicubic"
    values = np.zeros((100, 100, 3), np.float32)
    values[:, 50:] = 1
    seen = preprocessing(values, framed=True)
    mean, std = (torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std))
    back = seen * std + mean
    assert back.min() >= -1e-6
    assert back.max() <= 1 + 1e-6


def test_pixels_are_the_image_in_0_to_1():
    preprocessing = preprocessing_of(ModelSpec("pixels", "pixels"))
    values = as_floats(synthetic_picture(224, 224))
    seen = preprocessing(values, framed=False)
    assert torch.equal(seen, torch.from_numpy(values).permute(2, 0, 1))
    assert preprocessing(synthetic_picture(300, 400), framed=False).shape == (3, 224, 224)


def test_weights_do_not_change_what_the_network_sees():
    specs = [ModelSpec("torchvision", "resnet50", w) for w in ("pretrained", "random", "/a/b.pth")]
    assert len({preprocessing_of(spec) for spec in specs}) == 1


@pytest.mark.parametrize(
    "spec", [("torchvision", "vit_h_14"), ("timm", "swin_tiny_patch4_window7_224")]
)
def test_dict_survives_json(spec):
    described = preprocessing_of(ModelSpec(*spec)).to_dict()
    assert json.loads(json.dumps(described)) == described
    assert set(described) == {"input_px", "resize_px", "crop", "interpolation", "mean", "std"}


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (8, 8)),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((3, 8, 8), np.float32),
        np.zeros((8, 8), np.float32),
        "picture.png",
    ],
)
def test_other_kinds_of_image_are_refused(image):
    preprocessing = preprocessing_of(ModelSpec("pixels", "pixels"))
    with pytest.raises(TypeError, match="PIL RGB or floats"):
        preprocessing(image, framed=True)


def test_unknown_network_is_refused():
    with pytest.raises(ModelError, match="resnet50"):
        preprocessing_of(ModelSpec("torchvision", "resnet05"))
