"""What a plan says of the images: which row is which, what is seen of them, what cannot be read."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.models import ModelSpec, preprocessing_of, share_seen
from toolkit.sweep import EXIT_REFUSED, main

CONFIG = """\
name: tiny
dataset: {{kind: files, name: lab, images: {folder}/{images}, responses: {folder}/r.npy}}
protocol: {{kind: kfold, n_splits: 2}}
models:
  - {{library: timm, names: [test_resnet, test_vit], weights: random, layers: auto}}
  - {{library: pixels, names: pixels}}
readouts:
  - {{kind: ridge, folds: 2}}
"""


def noise(seed: int, size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for i in range(8):
        (tmp_path / "images" / f"im{i}.png").write_bytes(noise(i))
    np.save(tmp_path / "r.npy", np.random.default_rng(0).normal(size=(8, 3)))
    return tmp_path


def planned(folder: Path, capsys, *overrides: str, images: str = "images") -> tuple[int, str]:
    (folder / "tiny.yaml").write_text(CONFIG.format(folder=folder, images=images))
    words = [word for override in overrides for word in ("--set", override)]
    status = main(["plan", str(folder / "tiny.yaml"), "--out", str(folder / "run"), *words])
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_pairs_and_shares_are_printed(folder: Path, capsys) -> None:
    status, text = planned(folder, capsys)
    assert status == 0
    pairs = ", ".join(f"{i} → im{i}.png" for i in range(5))
    assert f"row of r.npy → image, by the names: {pairs}, …" in text
    of_model = {
        name: preprocessing_of(ModelSpec("timm", name)).to_dict()
        for name in ("test_resnet", "test_vit")
    }
    lines = [line for line in text.splitlines() if "of each image's area" in line]
    for name, preprocessing in of_model.items():
        percent = round(100 * share_seen(preprocessing, (64, 64), framed=False))
        assert percent < 100
        (line,) = [line for line in lines if name in line]
        assert line.startswith(f"  {percent} %")
        assert "cropped away" in line
    assert any(line.startswith("  100 %") and line.endswith("pixels") for line in lines)


def test_images_of_several_sizes_have_a_range_and_framed_ones_are_seen_whole(
    folder: Path, capsys
) -> None:
    (folder / "images" / "im0.png").write_bytes(noise(0, (64, 128)))
    _, text = planned(folder, capsys)
    assert (
        "  50 to 100 % of each image's area (64 × 64 to 64 × 128 pixels) is seen by pixels" in text
    )
    for key in ("dataset.framed=true", "dataset.frame={mode: pad}"):
        _, text = planned(folder, capsys, key)
        assert "  100 % of each image's area is seen by test_resnet, test_vit, pixels" in text


def test_what_cannot_be_read_is_refused(folder: Path, capsys) -> None:
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(8):
            archive.writestr(f"im{i}.png", noise(i))
    assert planned(folder, capsys, images="images.zip")[0] == 0
    content = bytearray(path.read_bytes())
    content[content.find(noise(3)) + 3000] ^= 0xFF
    path.write_bytes(content)
    (folder / "images" / "im3.png").write_text("no picture")
    for images, words in (
        ("images.zip", "damaged in the archive"),
        ("images", "cannot be read as"),
    ):
        status, text = planned(folder, capsys, images=images)
        assert status == EXIT_REFUSED
        assert "tiny.yaml" in text
        assert "im3.png" in text
        assert words in text


def test_what_a_network_trained_here_sees_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "trained.yaml").write_text(
        """\
name: trained
dataset: {kind: synthetic, n_train: 20, n_val: 10, n_neuroids: 3, image_px: 32}
training:
  small: {network: {library: shallow, channels: [4], input_px: 32}, recipe: {n_epochs: 1}}
models: [{weights: "trained:small"}, {library: pixels}]
readouts: [{kind: ridge, n_components: 3}]
""",
        encoding="utf-8",
    )
    status = main(["plan", str(tmp_path / "trained.yaml"), "--out", str(tmp_path / "run")])
    assert status == 0
    assert "100 % of each image's area is seen by shallow" in capsys.readouterr().out
