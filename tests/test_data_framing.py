"""Images of any size on one canvas, against slices of arrays."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolkit.config import SquareFrame as FrameConfig
from toolkit.data import DataError, load
from toolkit.data.framing import FramedStimuli, SquareFrame, VisualField

BACKGROUND = (10, 200, 30)


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng([width, height]).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def is_background(pixels: np.ndarray) -> np.ndarray:
    return (pixels == BACKGROUND).all(axis=-1)


@settings(max_examples=50, deadline=None)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    extra=st.one_of(st.none(), st.integers(0, 20)),
)
def test_padding_keeps_every_pixel_in_the_middle(width, height, extra) -> None:
    image = picture(width, height)
    side = max(width, height) + (extra or 0)
    frame = SquareFrame("pad", None if extra is None else side, BACKGROUND)
    canvas = np.asarray(frame(image))
    assert canvas.shape == (side, side, 3)
    top, left = round((side - height) / 2), round((side - width) / 2)
    np.testing.assert_array_equal(canvas[top : top + height, left : left + width], image)
    outside = np.ones((side, side), bool)
    outside[top : top + height, left : left + width] = False
    assert is_background(canvas[outside]).all()


@settings(max_examples=50, deadline=None)
@given(width=st.integers(1, 40), height=st.integers(1, 40), data=st.data())
def test_cropping_takes_the_middle(width, height, data) -> None:
    image = picture(width, height)
    size = data.draw(st.one_of(st.none(), st.integers(1, min(width, height))))
    canvas = np.asarray(SquareFrame("crop", size)(image))
    side = size or min(width, height)
    top, left = round((height - side) / 2), round((width - side) / 2)
    np.testing.assert_array_equal(canvas, np.asarray(image)[top : top + side, left : left + side])


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (50, 50), (300, 10), (7, 5)])
def test_letterboxing_shows_all_of_the_image_in_its_shape(size) -> None:
    canvas = np.asarray(
        SquareFrame("letterbox", 30, BACKGROUND)(Image.new("RGB", size, (255, 0, 0)))
    )
    assert canvas.shape == (30, 30, 3)
    shown = ~is_background(canvas)
    height, width = shown.any(axis=1).sum(), shown.any(axis=0).sum()
    assert max(width, height) == 30
    assert (width, height) == tuple(max(1, round(side * 30 / max(size))) for side in size)
    assert (canvas[shown] == (255, 0, 0)).all()


def test_visual_field_of_the_same_width_changes_nothing() -> None:
    image = picture(16, 16)
    np.testing.assert_array_equal(np.asarray(VisualField(8, 8)(image)), np.asarray(image))


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"mode": "stretch"}, "write one of pad, crop, letterbox"),
        ({"mode": "letterbox"}, "needs size_px"),
        ({"mode": "pad", "size_px": 0}, "at least 1"),
        ({"mode": "pad", "background": (0, 0)}, "three numbers from 0 to 255"),
        ({"mode": "pad", "background": (0, 0, 256)}, "three numbers from 0 to 255"),
    ],
)
def test_frames_that_make_no_sense(params, words) -> None:
    with pytest.raises(DataError, match=words):
        SquareFrame(**params)


def test_images_that_do_not_go_on_the_canvas_name_themselves(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture(30, 20).save(tmp_path / "images" / "wide.png")
    np.save(tmp_path / "r.npy", np.zeros((1, 2)))
    params = {"name": "x", "images": tmp_path / "images", "responses": tmp_path / "r.npy"}
    for frame, words in (
        ({"mode": "pad", "size_px": 25}, "'wide': an image of 30 × 20 pixels does not go"),
        ({"mode": "crop", "size_px": 25}, "'wide': no 25 pixels can be cropped"),
    ):
        with pytest.raises(DataError, match=words):
            load("files", **params, frame=frame).stimuli[0]


def test_frames_of_a_config_are_those_of_the_loader(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i, size in enumerate([(30, 20), (11, 40), (25, 25)]):
            buffer = io.BytesIO()
            picture(*size).save(buffer, "png")
            archive.writestr(f"{i}.png", buffer.getvalue())
    np.save(tmp_path / "r.npy", np.zeros((3, 2)))
    params = {"name": "x", "images": tmp_path / "images.zip", "responses": tmp_path / "r.npy"}
    plain = load("files", **params)
    frame = FrameConfig(mode="letterbox", size_px=32).model_dump(mode="json")
    framed = load("files", **params, frame=frame)
    assert not plain.stimuli.framed
    assert framed.stimuli.framed
    assert {framed.stimuli[i].size for i in range(3)} == {(32, 32)}
    other = load("files", **params, frame={**frame, "background": [0, 0, 0]})
    assert len({d.stimuli.digest() for d in (plain, framed, other)}) == 3
    assert framed.stimuli.digest() == load("files", **params, frame=frame).stimuli.digest()


def test_images_stored_as_numbers_cannot_be_framed() -> None:
    class Stored:
        ids = ("a",)

        def __getitem__(self, index: int) -> np.ndarray:
            return np.zeros((2, 2, 3), np.float32)

    with pytest.raises(DataError, match="stored as numbers"):
        FramedStimuli(Stored(), SquareFrame("pad"))[0]  # type: ignore[arg-type]
