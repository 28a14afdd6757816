"""Disks that fill up or are taken away, strange images, networks that refuse them."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_features_extract import LAYERS, PX, SyntheticNoise, in_memory, network, store_at
from torch import nn

from toolkit.data import DataError
from toolkit.data.images import ImageFiles, source_at
from toolkit.features.errors import FeatureStorageError
from toolkit.features.extract import extract, extract_to_memory
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 4 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, bytes_left: int) -> Path:
    ballast = folder / "ballast"
    free = os.statvfs(folder)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - bytes_left))
    return ballast


def test_a_disk_that_fills_up_midway_keeps_what_was_written(small_disk):
    stimuli = SyntheticNoise(160)
    store = store_at(small_disk / "s.zarr", stimuli)
    ballast = []

    def fill_up(done, total):
        if done == 64:
            ballast.append(fill(small_disk, 50_000))

    with pytest.raises(FeatureStorageError, match="No space left on device"):
        extract(network(), stimuli, LAYERS, store, progress=fill_up)
    assert store.missing_blocks() == [2, 3, 4]
    with pytest.raises(FeatureStorageError, match="are free there; make room"):
        extract(network(), stimuli, LAYERS, store)
    ballast[0].unlink()
    net = network()
    extract(net, stimuli, LAYERS, store)
    for name, values in in_memory(net.module, stimuli, 32).items():
        np.testing.assert_array_equal(store.read(name, slice(None)), values)


def test_a_disk_that_becomes_read_only_is_named(small_disk):
    stimuli = SyntheticNoise(160)
    store = store_at(small_disk / "s.zarr", stimuli)

    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    def take_away(done, total):
        if done == 32:
            remount("ro")

    with pytest.raises(FeatureStorageError, match="Read-only file system"):
        extract(network(), stimuli, LAYERS, store, progress=take_away)
    assert store.missing_blocks() == [1, 2, 3, 4]
    remount("rw")
    extract(network(), stimuli, LAYERS, FeatureStore.open(store.path))
    assert store.missing_blocks() == []


def images_in(folder: Path, **pictures: Image.Image) -> ImageFiles:
    folder.mkdir()
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.{'jpg' if picture.mode == 'CMYK' else 'png'}")
    names = tuple(sorted(path.name for path in folder.iterdir()))
    return ImageFiles(source_at(folder), names, ids=names, framed=True)


def test_pictures_of_any_mode_and_size_are_features_of_their_own(tmp_path):
    grey = Image.fromarray(np.full((20, 20), 100, np.uint8))
    stimuli = images_in(
        tmp_path / "images",
        grey=grey,
        rgb=grey.convert("RGB"),
        alpha=grey.convert("RGBA"),
        cmyk=grey.convert("RGB").convert("CMYK"),
        deep=Image.fromarray(np.full((20, 20), 100 * 257, np.uint16)),
        palette=grey.convert("P"),
        huge=grey.convert("RGB").resize((2000, 2000)),
    )
    features = extract_to_memory(network(), stimuli, LAYERS)["conv1"]
    expected = features[stimuli.ids.index("rgb.png")].expand_as(features)
    torch.testing.assert_close(features, expected, rtol=0, atol=0.05)


def test_a_picture_beyond_any_screen_is_refused_by_name(tmp_path):
    small = Image.new("1", (20, 20))
    stimuli = images_in(tmp_path / "images", a=small, bomb=Image.new("1", (20_000, 10_000)))
    store = store_at(tmp_path / "s.zarr", stimuli)
    with pytest.raises(DataError, match=r"bomb\.png"):
        extract(network(), stimuli, LAYERS, store)
    assert store.missing_blocks() == [0]


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] == 224, "Input height doesn't match model"
        return self.part(images)


def test_a_network_of_another_input_size_says_what_it_got(tmp_path):
    layers = [LayerInfo("part", (3, PX, PX), 0)]
    with pytest.raises(AssertionError, match="doesn't match") as caught:
        extract_to_memory(network(Picky()), SyntheticNoise(3), layers)
    assert caught.value.__notes__ == ["in the forward pass over images of 16x16 px"]
