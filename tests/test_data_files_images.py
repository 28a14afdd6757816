"""A laboratory's own images and tables of them: every layout, every way they can be wrong."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from own_files import (
    IDS,
    N_IMAGES,
    N_NEUROIDS,
    assert_refused_by_both,
    picture,
    table,
)
from PIL import Image

from toolkit.data import DataError, load, size_of

pytest_plugins = ("own_files",)


def encoded(image: Image.Image, file_format: str = "png") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format)
    return buffer.getvalue()


# ---- images


def test_folder_in_the_order_of_names(params: dict, responses: np.ndarray) -> None:
    dataset = load("files", **params, region="V4")
    assert dataset.stimuli.ids == IDS
    assert not dataset.stimuli.framed
    for i in range(N_IMAGES):
        assert dataset.stimuli[i].mode == "RGB"
        np.testing.assert_array_equal(np.asarray(dataset.stimuli[i]), np.asarray(picture(i)))
    np.testing.assert_array_equal(dataset.responses, responses)
    assert dataset.regions == ("V4",) * N_NEUROIDS
    assert dataset.splits == {}
    assert load("files", **params, framed=True).stimuli.framed
    size = size_of("files", **params)
    assert (size.n_stimuli, size.n_neuroids, size.split_sizes) == (N_IMAGES, N_NEUROIDS, {})


def zip_of(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/im0.png", b"resource fork")
        for file in sorted(folder.glob("im*.png"), reverse=True):
            archive.write(file, file.name)
    return path


def test_zip_is_the_folder(params: dict, tmp_path: Path) -> None:
    zipped = {**params, "images": zip_of(params["images"], tmp_path / "images.zip")}
    from_zip, from_folder = load("files", **zipped), load("files", **params)
    assert from_zip.stimuli.ids == IDS
    np.testing.assert_array_equal(np.asarray(from_zip.stimuli[2]), np.asarray(picture(2)))
    assert from_zip.stimuli.digest() == from_folder.stimuli.digest()
    copy = pickle.loads(pickle.dumps(from_zip.stimuli))
    np.testing.assert_array_equal(np.asarray(copy[5]), np.asarray(picture(5)))


def test_subfolders_are_part_of_the_id(params: dict, folder: Path) -> None:
    (folder / "faces").mkdir()
    (folder / "im3.png").rename(folder / "faces" / "im0.png")
    assert load("files", **params).stimuli.ids == ("faces/im0", "im0", "im1", "im2", "im4", "im5")


def test_digest_follows_content_and_not_the_path(params: dict, folder: Path) -> None:
    before = load("files", **params).stimuli.digest()
    assert load("files", **params, framed=True).stimuli.digest() != before
    moved = folder.rename(folder.parent / "moved")
    params["images"] = moved
    assert load("files", **params).stimuli.digest() == before
    changed = picture(4)
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save(moved / "im4.png")
    assert load("files", **params).stimuli.digest() != before


def test_a_damaged_image_loads_and_names_itself_at_access(params: dict, folder: Path) -> None:
    (folder / "im2.png").write_bytes(encoded(picture(2))[:90])
    (folder / "im3.png").write_bytes(encoded(picture(3))[:20])
    (folder / "im4.png").write_text("this is not a picture")
    stimuli = load("files", **params).stimuli
    stimuli[1]
    for i in (2, 3, 4):
        with pytest.raises(DataError, match=rf"im{i}\.png: cannot be read as an image"):
            stimuli[i]
    (folder / "im5.png").unlink()
    with pytest.raises(DataError, match=r"im5\.png: no such file"):
        stimuli[5]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damage_anywhere_in_a_file_is_a_data_error(params: dict, folder: Path) -> None:
    """Whatever Pillow raises on flipped bytes, only DataError comes out."""
    rng = np.random.default_rng(0)
    stimuli = load("files", **params).stimuli
    n_refused = 0
    for file_format in ("png", "jpeg", "tiff", "gif", "bmp", "webp"):
        intact = encoded(picture(0), file_format)
        for _ in range(60):
            damaged = bytearray(intact)
            for position in rng.integers(0, len(damaged), 4):
                damaged[position] = rng.integers(256)
            (folder / "im0.png").write_bytes(bytes(damaged))
            try:
                stimuli[0]
            except DataError:
                n_refused += 1
    assert n_refused > 60


def test_damage_inside_a_zip_is_noticed(params: dict, tmp_path: Path) -> None:
    folder = params["images"]
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(
        folder / "im3.png"
    )
    path = zip_of(folder, tmp_path / "images.zip")
    content = bytearray(path.read_bytes())
    content[content.find((folder / "im3.png").read_bytes()) + 2000] ^= 0xFF
    path.write_bytes(bytes(content))
    stimuli = load("files", **{**params, "images": path}).stimuli
    stimuli[2]
    for read in (lambda: stimuli[3], stimuli.digest):
        with pytest.raises(DataError, match=r"images\.zip: im3\.png: damaged"):
            read()


def save_as(folder: Path, image: Image.Image, name: str = "im0.png") -> None:
    (folder / "im0.png").unlink()
    image.save(folder / name)


def test_grey_and_palette_become_rgb(params: dict, folder: Path) -> None:
    grey = picture(0).convert("L")
    save_as(folder, grey)
    got = np.asarray(load("files", **params).stimuli[0])
    np.testing.assert_array_equal(got, np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))
    palette = picture(0).quantize(16)
    save_as(folder, palette)
    got = np.asarray(load("files", **params).stimuli[0])
    np.testing.assert_array_equal(got, np.asarray(palette.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_range(params: dict, folder: Path) -> None:
    ramp = np.linspace(0, 65535, 99).astype(np.uint16).reshape(9, 11)
    save_as(folder, Image.fromarray(ramp))
    got = np.asarray(load("files", **params).stimuli[0])
    assert got.min() == 0
    assert got.max() == 255
    np.testing.assert_allclose(got[:, :, 1], ramp / 257, atol=0.51)


def test_transparent_pixels_show_mid_grey(params: dict, folder: Path) -> None:
    image = picture(0).convert("RGBA")
    image.putpixel((3, 4), (255, 0, 0, 0))
    image.putpixel((5, 6), (255, 0, 0, 128))
    save_as(folder, image)
    got = load("files", **params).stimuli[0]
    assert got.getpixel((3, 4)) == (128, 128, 128)
    assert got.getpixel((0, 0)) == picture(0).getpixel((0, 0))
    np.testing.assert_allclose(got.getpixel((5, 6)), (192, 64, 64), atol=1)


def test_cmyk_becomes_rgb(params: dict, folder: Path) -> None:
    flat = Image.new("RGB", (32, 32), (200, 30, 60))
    save_as(folder, flat.convert("CMYK"), "im0.jpg")
    got = np.asarray(load("files", **params).stimuli[0])
    np.testing.assert_allclose(got, np.asarray(flat), atol=4)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4), np.float32), np.full((4, 4), 70000, np.int32)])
def test_pixels_whose_white_nobody_knows_are_refused(params: dict, folder: Path, pixels) -> None:
    save_as(folder, Image.fromarray(pixels), "im0.tif")
    with pytest.raises(DataError, match=r"im0\.tif.*save it as 8-bit"):
        load("files", **params).stimuli[0]


def test_images_that_cannot_be_listed(params: dict, tmp_path: Path) -> None:
    assert_refused_by_both({**params, "images": tmp_path / "absent"}, "absent", "no such file")
    (tmp_path / "empty").mkdir()
    assert_refused_by_both({**params, "images": tmp_path / "empty"}, "empty", "no images")
    (tmp_path / "text.zip").write_text("not a zip")
    assert_refused_by_both({**params, "images": tmp_path / "text.zip"}, "text.zip", "readable zip")
    assert_refused_by_both({**params, "images": params["responses"]}, "folder", ".zip")


def test_two_files_of_one_id(params: dict, folder: Path) -> None:
    picture(0).save(folder / "im0.bmp")
    assert_refused_by_both(params, "more than once", "'im0'")


# ---- stimulus tables


def test_table_orders_labels_and_splits(params: dict, tmp_path: Path) -> None:
    path = table(
        tmp_path / "stimuli.csv",
        stimulus_id=["003", "001", "002", "NA", "005", "000"],
        filename=["im3.png", "im1.png", "im2.png", "im4.png", "im5.png", "im0.png"],
        object_name=["dog", "cat", "dog", "car", "van", "cat"],
        category_name=["animal", "animal", "animal", "vehicle", "vehicle", "animal"],
        split=["val", "train", "test", "train", "train", ""],
    )
    dataset = load("files", **params, stimulus_table=path)
    assert dataset.stimuli.ids == ("003", "001", "002", "NA", "005", "000")
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[0]), np.asarray(picture(3)))
    assert dataset.object_names == ("dog", "cat", "dog", "car", "van", "cat")
    assert dataset.category_names[3] == "vehicle"
    assert {k: v.tolist() for k, v in dataset.splits.items()} == {
        "train": [1, 3, 4],
        "val": [0],
        "test": [2],
    }
    size = size_of("files", **params, stimulus_table=path)
    assert size.split_sizes == {"train": 3, "val": 1, "test": 1}

    by_name = load("files", **params, stimulus_table=path, image_order="text")
    assert by_name.stimuli.ids == ("000", "001", "002", "003", "NA", "005")
    assert by_name.object_names == ("cat", "cat", "dog", "dog", "car", "van")
    assert by_name.splits["val"].tolist() == [3]
    np.testing.assert_array_equal(np.asarray(by_name.stimuli[0]), np.asarray(picture(0)))
    np.testing.assert_array_equal(by_name.responses, dataset.responses)


def test_table_as_images(params: dict, folder: Path) -> None:
    names = [f"images/im{i}.png" for i in reversed(range(N_IMAGES))]
    path = table(folder.parent / "list.csv", filename=names)
    dataset = load("files", **{**params, "images": path})
    assert dataset.stimuli.ids[0] == "images/im5"
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[0]), np.asarray(picture(5)))
    parquet = folder.parent / "list.parquet"
    pd.DataFrame({"filename": names}).to_parquet(parquet)
    again = load("files", **{**params, "images": parquet})
    assert again.stimuli.digest() == dataset.stimuli.digest()


def test_table_without_filenames_matches_ids(params: dict, tmp_path: Path) -> None:
    path = table(tmp_path / "s.csv", stimulus_id=list(reversed(IDS)))
    dataset = load("files", **params, stimulus_table=path)
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[0]), np.asarray(picture(5)))
    path = table(tmp_path / "s.csv", stimulus_id=[*IDS[:-1], "im9"])
    assert_refused_by_both({**params, "stimulus_table": path}, "s.csv", "'im9'", "filename")


def test_table_selects_images(params: dict, tmp_path: Path, responses: np.ndarray) -> None:
    np.save(tmp_path / "two.npy", responses[:2])
    path = table(tmp_path / "s.csv", filename=["im4.png", "im1.png"])
    params["responses"] = tmp_path / "two.npy"
    assert load("files", **params, stimulus_table=path).stimuli.ids == ("im4", "im1")


def test_parquet_tables_may_have_an_index_and_nulls(params: dict, tmp_path: Path) -> None:
    frame = pd.DataFrame({"stimulus_id": IDS, "split": ["train", "val", None, None, None, None]})
    frame.set_index("stimulus_id").to_parquet(tmp_path / "s.parquet")
    dataset = load("files", **params, stimulus_table=tmp_path / "s.parquet")
    assert dataset.stimuli.ids == IDS
    assert {k: v.tolist() for k, v in dataset.splits.items()} == {"train": [0], "val": [1]}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"filename": ["im0.png", "gone.png"]}, ["1 images", "'gone.png'"]),
        ({"filename": ["im0.png", "im0.png"]}, ["filename", "more than once", "'im0.png'"]),
        ({"stimulus_id": ["a", "a"], "filename": ["im0.png", "im1.png"]}, ["stimulus_id", "'a'"]),
        ({"image": ["im0.png"]}, ["no column stimulus_id or filename", "image"]),
        ({"stimulus_id": ["im0", "im1"], "split": ["train", "vla"]}, ["split 'vla'", "val"]),
        ({"stimulus_id": ["im0", "im0"], "split": ["train", "val"]}, ["overlap", "'im0'"]),
        ({"stimulus_id": ["im0", "im1"], "split": ["", ""]}, ["split is empty"]),
    ],
)
def test_tables_that_do_not_fit(params: dict, tmp_path: Path, columns, words) -> None:
    path = table(tmp_path / "stimuli.csv", **columns)
    assert_refused_by_both({**params, "stimulus_table": path}, "stimuli.csv", *words)


def test_orders_and_tables_that_contradict(params: dict, tmp_path: Path) -> None:
    path = table(tmp_path / "s.csv", stimulus_id=list(IDS))
    assert_refused_by_both(
        {**params, "image_order": "date"}, "'date'", "'natural' or 'text' or 'table'"
    )
    assert_refused_by_both({**params, "image_order": "table"}, "no stimulus_table")
    assert_refused_by_both({**params, "images": path, "stimulus_table": path}, "a table already")
    assert_refused_by_both({**params, "stimulus_table": tmp_path / "no.csv"}, "no.csv", "no such")
    (tmp_path / "bad.parquet").write_text("text")
    assert_refused_by_both({**params, "stimulus_table": tmp_path / "bad.parquet"}, "readable")
