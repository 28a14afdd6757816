"""A laboratory's own files, and what is said of those that do not fit.

``pytest_plugins = ("own_files",)`` gives its fixtures.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from toolkit.data import DataError, load, size_of

N_IMAGES, N_NEUROIDS = 6, 4
IDS = tuple(f"im{i}" for i in range(N_IMAGES))


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for i in range(N_IMAGES):
        picture(i).save(path / f"im{i}.png")
    (path / "notes.txt").write_text("no image")
    (path / ".hidden.png").write_text("no image either")
    return path


@pytest.fixture
def responses() -> np.ndarray:
    return np.random.default_rng(9).normal(size=(N_IMAGES, N_NEUROIDS))


@pytest.fixture
def params(tmp_path: Path, folder: Path, responses: np.ndarray) -> dict:
    np.save(tmp_path / "responses.npy", responses)
    return {"name": "lab", "images": folder, "responses": tmp_path / "responses.npy"}


def table(path: Path, **columns: list) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def assert_refused(params: dict, *words: str, function=load) -> None:
    with pytest.raises(DataError) as caught:
        function("files", **params)
    for word in words:
        assert word in str(caught.value)


def assert_refused_by_both(params: dict, *words: str) -> None:
    """Config-time validation finds it too."""
    assert_refused(params, *words)
    assert_refused(params, *words, function=size_of)
