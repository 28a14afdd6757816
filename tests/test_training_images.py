import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from training_problem import PX, SPEC, bank_of, synthetic

from toolkit.data import DataError, Stimuli
from toolkit.models.network_spec import ShallowTrunk, ZooTrunk
from toolkit.models.trunks import trunk_preprocessing
from toolkit.training import Augmentation, ImageBank, Recipe, RecipeError
from toolkit.training.feeding import augmented, epoch_batches
from toolkit.training.preparation import carve_validation

PREPROCESSING = trunk_preprocessing(SPEC.trunk)


class Pictures(Stimuli):
    """Noise of odd sizes that counts how often it was decoded."""

    framed = False

    def __init__(self, n, broken=None):
        self.ids = tuple(f"picture-{row}" for row in range(n))
        self.broken = broken
        self.n_decoded = 0

    def __getitem__(self, index):
        if index == self.broken:
            raise DataError("cannot be read")
        self.n_decoded += 1
        rng = np.random.default_rng(index)
        return Image.fromarray(rng.integers(256, size=(40 + index, 50, 3), dtype=np.uint8))

    def _content(self):
        for index in range(len(self)):
            yield str(index).encode()


class Floats(Pictures):
    def __getitem__(self, index):
        return np.random.default_rng(index).random((PX, PX, 3), dtype=np.float32)


@pytest.mark.parametrize("trunk", [SPEC.trunk, ZooTrunk("timm", "resnet18", input_px=48)])
def test_pictures_keep_what_the_network_would_see(tmp_path, trunk):
    pictures, preprocessing = Pictures(9), trunk_preprocessing(trunk)
    bank = ImageBank.of(tmp_path, pictures, preprocessing)
    expected = torch.stack([preprocessing(pictures[row], framed=False) for row in range(9)])
    assert torch.allclose(bank.normalised(bank.batch(np.arange(9))), expected, atol=1e-5)
    assert len(bank) == 9 and bank.pixels.dtype == np.uint8


def test_floats_are_rounded_to_256_levels(tmp_path):
    floats = Floats(4)
    bank = ImageBank.of(tmp_path, floats, PREPROCESSING)
    expected = torch.stack([PREPROCESSING(floats[row], framed=True) for row in range(4)])
    error = (bank.normalised(bank.batch(np.arange(4))) - expected).abs().amax(dim=(0, 2, 3))
    assert (error <= 0.501 / 255 / torch.tensor(PREPROCESSING.std)).all()


def test_images_are_decoded_once(tmp_path):
    pictures = Pictures(20)
    first = ImageBank.of(tmp_path, pictures, PREPROCESSING)
    again = ImageBank.of(tmp_path, Pictures(20), PREPROCESSING)
    assert pictures.n_decoded == 20
    assert again.path == first.path
    assert np.array_equal(again.pixels, first.pixels)


@pytest.mark.parametrize("damage", ["another's", "a bit", "cut", "empty", "zeros"])
def test_a_file_that_is_damaged_or_another_ones_is_written_anew(tmp_path, damage):
    bank = ImageBank.of(tmp_path, Pictures(6), PREPROCESSING)
    expected, whole = bank.pixels.copy(), bank.path.read_bytes()
    del bank
    other = ImageBank.of(tmp_path / "other", Pictures(5), PREPROCESSING).path
    changed = bytearray(whole)
    changed[-1000] ^= 1
    content = {
        "another's": other.read_bytes(),
        "a bit": bytes(changed),
        "cut": whole[:-1000],
        "empty": b"",
        "zeros": bytes(len(whole)),
    }
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(content[damage])
    again = Pictures(6)
    np.testing.assert_array_equal(ImageBank.of(tmp_path, again, PREPROCESSING).pixels, expected)
    assert again.n_decoded == 6
    assert path.read_bytes() == whole


def test_other_images_or_sizes_have_another_file(tmp_path):
    other_size = trunk_preprocessing(ShallowTrunk((4,), input_px=24))
    banks = [
        ImageBank.of(tmp_path, Pictures(3), PREPROCESSING),
        ImageBank.of(tmp_path, Pictures(4), PREPROCESSING),
        ImageBank.of(tmp_path, Pictures(3), other_size),
    ]
    assert len({bank.key for bank in banks}) == 3


def test_a_broken_image_is_named_and_leaves_no_file(tmp_path):
    with pytest.raises(DataError) as caught:
        ImageBank.of(tmp_path, Pictures(30, broken=17), PREPROCESSING)
    assert "picture-17" in "".join(caught.value.__notes__)
    assert list(tmp_path.iterdir()) == []


def test_channels_last_holds_the_same_numbers(tmp_path):
    bank = bank_of(synthetic(8, 2), tmp_path)
    pixels = bank.batch(np.array([5, 1]))
    last = bank.normalised(pixels, channels_last=True)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, bank.normalised(pixels))


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 5))
def test_an_epoch_meets_every_image_once_in_batches_of_about_one_size(n, batch_size, epoch):
    rows = 3 * np.arange(n)
    batches = epoch_batches(rows, batch_size, seed=1, epoch=epoch)
    sizes = [len(batch) for batch in batches]
    assert np.array_equal(np.sort(np.concatenate(batches)), rows)
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1


def test_the_order_depends_on_seed_and_epoch_only():
    def order(**given):
        return np.concatenate(epoch_batches(np.arange(50), 8, **given)).tolist()

    assert order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert order(seed=1, epoch=2) != order(seed=1, epoch=3)
    assert order(seed=1, epoch=2) != order(seed=2, epoch=2)


@settings(deadline=None)
@given(st.integers(4, 300), st.floats(0.1, 0.7), st.integers(0, 3))
def test_validation_images_are_carved_from_the_training_images(n, share, seed):
    rows = np.random.default_rng(seed).choice(1000, n, replace=False)
    recipe = Recipe(1, validation_share=share, seed=seed)
    try:
        fitted, validation = carve_validation(rows, recipe)
    except RecipeError:
        assert round(share * n) == 0 or n - round(share * n) < 2
        return
    assert len(validation) == round(share * n)
    assert np.array_equal(np.sort(np.concatenate([fitted, validation])), np.sort(rows))


def test_zero_validation_images():
    with pytest.raises(RecipeError, match=r"0.01 of 30 .* zero validation images.* at least 0.033"):
        carve_validation(np.arange(30), Recipe(1, validation_share=0.01))
    fitted, validation = carve_validation(np.arange(30), Recipe(1, validation_share=0))
    assert len(fitted) == 30 and len(validation) == 0


def test_augmentation_flips_and_shifts_whole_images():
    ramp = torch.arange(12, dtype=torch.uint8).expand(40, 3, 12, 12).contiguous()
    torch.manual_seed(0)
    found = augmented(ramp, Augmentation(flip=True, shift_px=2))
    assert found.shape == ramp.shape and found.dtype == torch.uint8
    steps = found[:, 0, 0].int().diff(dim=1)
    assert set(steps[:, 5].tolist()) == {-1, 1}
    assert len({tuple(row) for row in found[:, 0, 0].tolist()}) > 5
    assert torch.equal(augmented(ramp, Augmentation()), ramp)
