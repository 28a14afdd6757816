"""Which image goes with which row: said, whatever the files' order and spelling, or refused."""

import io
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_files import IDS, N_IMAGES, assert_refused, assert_refused_by_both, picture, table

from toolkit.data import DataError, load, quality, report
from toolkit.data.labels import LabelTable
from toolkit.data.naming import leaves_folder, matched, natural_key, unmatched

pytest_plugins = ("own_files",)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    picture(seed).save(buffer, "png")
    return buffer.getvalue()


def pixels_and_responses(dataset) -> dict[str, tuple[bytes, bytes]]:
    return {
        id_: (np.asarray(dataset.stimuli[i]).tobytes(), dataset.responses[i].tobytes())
        for i, id_ in enumerate(dataset.stimuli.ids)
    }


# ---- the order of names


def numbered(tmp_path: Path, numbers) -> tuple[dict, np.ndarray]:
    """Images ``im0 … im39``, image i of seed i, with row i of the responses for image i."""
    (tmp_path / "images").mkdir()
    for i in numbers:
        (tmp_path / "images" / f"im{i}.png").write_bytes(png(i))
    responses = np.arange(len(numbers) * 2.0).reshape(-1, 2)
    np.save(tmp_path / "r.npy", responses)
    return (
        {"name": "x", "images": tmp_path / "images", "responses": tmp_path / "r.npy"},
        responses,
    )


def test_names_of_two_orders_are_refused_with_both(tmp_path: Path) -> None:
    params, responses = numbered(tmp_path, range(40))
    assert_refused_by_both(
        params,
        "natural: im2.png, im3.png",
        "text: im10.png, im11.png",
        "differ from row 2",
        "image_order: natural or text",
    )
    for order, second in (("natural", 2), ("text", 10)):
        dataset = load("files", **params, image_order=order)
        np.testing.assert_array_equal(np.asarray(dataset.stimuli[2]), np.asarray(picture(second)))
        np.testing.assert_array_equal(dataset.responses, responses)
        assert f"2 → im{second}.png" in dataset.notes[0]
        assert f"{order} order" in dataset.notes[0]
    path = table(tmp_path / "s.csv", filename=[f"im{i}.png" for i in range(40)])
    dataset = load("files", **params, stimulus_table=path)
    assert dataset.stimuli.ids[39] == "im39"
    assert f"rows of the table {path}: 0 → im0.png, 1 → im1.png" in dataset.notes[0]


def test_names_of_one_order_need_no_key(tmp_path: Path) -> None:
    params, _ = numbered(tmp_path, range(10, 40))
    dataset = load("files", **params)
    assert dataset.stimuli.ids[0] == "im10"
    assert "by the names: 0 → im10.png, 1 → im11.png, 2 → im12.png" in dataset.notes[0]
    assert dataset.notes[0] in report.as_text(quality.assess(dataset))


def test_a_response_table_is_joined_whatever_the_names(tmp_path: Path) -> None:
    params, responses = numbered(tmp_path, range(12))
    ids = [f"im{i}" for i in range(12)]
    frame = pd.DataFrame(responses, columns=["a", "b"]).assign(stimulus_id=ids)
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "r.csv", index=False)
    dataset = load("files", **{**params, "responses": tmp_path / "r.csv"})
    assert "joined to the images by stimulus_id: im0 → im0.png" in dataset.notes[0]
    for id_, row in zip(dataset.stimuli.ids, dataset.responses, strict=True):
        np.testing.assert_array_equal(row, responses[ids.index(id_)])


@given(st.lists(st.integers(0, 3000), min_size=1, unique=True))
def test_natural_order_is_that_of_the_numbers(numbers) -> None:
    names = [f"faces/im{i}.png" for i in numbers]
    assert sorted(names, key=natural_key) == [f"faces/im{i}.png" for i in sorted(numbers)]


# ---- the relation: how files and rows lie changes nothing that is joined by id

NAMES = st.text(st.sampled_from("aäBé09_ -."), min_size=1, max_size=5).map(lambda s: f"i{s}x")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), stems=st.lists(NAMES, min_size=2, max_size=6, unique=True))
def test_order_and_spelling_change_no_pairing(tmp_path_factory, data, stems) -> None:
    tmp_path = tmp_path_factory.mktemp("pairing")
    folders = data.draw(st.lists(st.sampled_from(["", "b/", "a/c/"]), min_size=6, max_size=6))
    files = [f"{folder}{stem}.png" for folder, stem in zip(folders, stems, strict=False)]
    ids = [f"{i}" for i in range(len(files))]
    responses = np.random.default_rng(0).normal(size=(len(files), 2))
    expected = {
        id_: (np.asarray(picture(i)).tobytes(), responses[i].tobytes()) for i, id_ in enumerate(ids)
    }
    for trial in range(2):
        written = data.draw(st.permutations(range(len(files))))
        rows = data.draw(st.permutations(range(len(files))))
        form = data.draw(st.sampled_from(["NFC", "NFD"]))
        slash = data.draw(st.sampled_from(["/", "\\"]))
        folder = tmp_path / f"images{trial}"
        with zipfile.ZipFile(tmp_path / f"images{trial}.zip", "w") as archive:
            for i in written:
                path = folder / unicodedata.normalize(form, files[i])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(png(i))
                archive.writestr(files[i].replace("/", slash), png(i))
        stimuli = table(
            tmp_path / f"s{trial}.csv",
            stimulus_id=[ids[i] for i in rows],
            filename=[files[i].replace("/", slash) for i in rows],
        )
        cells = pd.DataFrame(responses, columns=["a", "b"]).assign(stimulus_id=ids)
        cells.iloc[written].to_csv(tmp_path / f"r{trial}.csv", index=False)
        np.save(tmp_path / f"r{trial}.npy", responses[list(rows)])
        for images in (folder, tmp_path / f"images{trial}.zip"):
            for kind in ("csv", "npy"):
                dataset = load(
                    "files",
                    name="x",
                    images=images,
                    responses=tmp_path / f"r{trial}.{kind}",
                    response_axes=["stimulus", "neuroid"],
                    stimulus_table=stimuli,
                )
                assert pixels_and_responses(dataset) == expected


# ---- names and ids


def test_paths_that_leave_the_images_are_refused(params: dict, tmp_path: Path) -> None:
    picture(9).save(tmp_path / "x.png")
    for outside in (
        "/etc/passwd",
        "../x.png",
        "a/../../x.png",
        "..\\x.png",
        "C:\\x.png",
        str(params["images"] / "im0.png"),
    ):
        path = table(tmp_path / "s.csv", filename=[outside, *(f"im{i}.png" for i in range(1, 6))])
        for images in (params["images"], zipped(params["images"], tmp_path / "i.zip")):
            given_params = {**params, "images": images, "stimulus_table": path}
            assert_refused_by_both(given_params, "s.csv", "outside of", repr(outside))
    assert not leaves_folder("a/../im0.png")
    (params["images"] / "im0.png").unlink()
    (params["images"] / "im0.png").symlink_to(tmp_path / "x.png")
    dataset = load("files", **params)
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[0]), np.asarray(picture(9)))


def test_members_that_leave_the_zip_are_refused(params: dict, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as archive:
        archive.writestr("../im0.png", png(0))
    assert_refused_by_both({**params, "images": tmp_path / "i.zip"}, "'../im0.png'", "outside")


def test_ids_with_suffix_match_and_numbers_that_lost_zeros_are_named(
    params: dict, folder: Path, tmp_path: Path
) -> None:
    path = table(tmp_path / "s.csv", stimulus_id=[f"im{i}.png" for i in reversed(range(N_IMAGES))])
    dataset = load("files", **params, stimulus_table=path)
    np.testing.assert_array_equal(np.asarray(dataset.stimuli[0]), np.asarray(picture(5)))
    for i in range(N_IMAGES):
        (folder / f"im{i}.png").rename(folder / f"00{i}.png")
    path = table(tmp_path / "s.csv", stimulus_id=list(range(N_IMAGES)))
    assert_refused_by_both({**params, "stimulus_table": path}, "'0' (nearest: '000.png')")
    path = table(tmp_path / "s.csv", stimulus_id=[f"00{i}" for i in range(N_IMAGES)])
    assert load("files", **params, stimulus_table=path).stimuli.ids[0] == "000"


def test_response_tables_match_ids_with_suffix(params: dict, tmp_path: Path) -> None:
    rows = [f"im{i}.png" for i in range(N_IMAGES)]
    path = table(tmp_path / "r.csv", stimulus_id=rows, a=list(range(N_IMAGES)))
    dataset = load("files", **{**params, "responses": path})
    assert dataset.stimuli.ids == IDS
    np.testing.assert_array_equal(dataset.responses[:, 0], np.arange(N_IMAGES))
    path = table(tmp_path / "r.csv", stimulus_id=["IM0", *rows[1:]], a=list(range(N_IMAGES)))
    assert_refused({**params, "responses": path}, "no image for", "'IM0' (nearest: 'im0')")


def test_what_is_meant_by_a_name() -> None:
    assert matched(["a", "b.png"], ["a.png", "b"], "here") == ["a.png", "b"]
    assert matched(["a.jpg", "A"], ["a.png"], "here") == [None, None]
    assert matched(["a.png"], ["a.png", "a.jpg"], "here") == ["a.png"]
    assert matched(["e\u0301\\x"], ["\u00e9/x.png"], "here") == ["\u00e9/x.png"]
    with pytest.raises(DataError, match=r"'a' may be any of 'a.jpg', 'a.png' in here"):
        matched(["a"], ["a.png", "a.jpg"], "here")
    with pytest.raises(DataError, match="may be any of"):
        matched(["\u00e9\\x"], ["\u00e9/x.png", "e\u0301/x.png"], "here")
    assert unmatched(["1"], ["faces/001.png", "2.png"]) == "'1' (nearest: 'faces/001.png')"


def test_one_image_under_two_names_of_a_table_is_refused(params: dict, tmp_path: Path) -> None:
    path = table(
        tmp_path / "s.csv", filename=["im0.png", "./im0.png", *(f"im{i}.png" for i in range(1, 5))]
    )
    assert_refused_by_both({**params, "stimulus_table": path}, "more than once", "'im0.png'")


def test_a_table_may_be_a_folder_of_parquet_parts(params: dict, tmp_path: Path) -> None:
    parts = tmp_path / "s.parquet"
    parts.mkdir()
    order = [3, 1, 5, 0, 2, 4]
    for part, number in zip((0, 2, 10), range(3), strict=True):
        names = [f"im{i}.png" for i in order[2 * number : 2 * number + 2]]
        pd.DataFrame({"filename": names}).to_parquet(parts / f"part.{part}.parquet")
    dataset = load("files", **params, stimulus_table=parts)
    assert dataset.stimuli.ids == tuple(f"im{i}" for i in order)
    (tmp_path / "empty.parquet").mkdir()
    assert_refused_by_both({**params, "stimulus_table": tmp_path / "empty.parquet"}, "without")


def test_whole_numbers_beside_empty_cells_stay_whole(params: dict, tmp_path: Path) -> None:
    frame = pd.DataFrame({"filename": [f"im{i}.png" for i in range(N_IMAGES)]})
    frame["label"] = pd.array([1, 2, None, 1, 2, 1], dtype="Int64")
    frame.to_parquet(tmp_path / "s.parquet")
    dataset = load("files", **params, stimulus_table=tmp_path / "s.parquet")
    assert dataset.category_names == ("1", "2", "", "1", "2", "1")


# ---- files that stand for others, and those that cannot be read


def test_links_to_files_and_folders_are_followed(params: dict, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "faces").symlink_to(params["images"])
    (params["images"] / "loop").symlink_to(linked)
    dataset = load("files", **{**params, "images": linked})
    assert dataset.stimuli.ids == tuple(f"faces/{i}" for i in IDS)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
        (b"/annex/objects/SHA256E-s9--0.png\n", "git annex get"),
        (b"", "0 bytes"),
    ],
)
def test_files_without_their_content_are_refused(params, folder, tmp_path, content, words) -> None:
    (folder / "im3.png").write_bytes(content)
    assert_refused_by_both(params, "1 of 6 images", "im3.png", words)
    zip_path = zipped(folder, tmp_path / "i.zip")
    assert_refused_by_both({**params, "images": zip_path}, "im3.png", words)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (".git/annex/objects/SHA256E-s9--0/0.png", "git annex get"),
        ("/cache/files/md5/ab/cdef", "dvc pull"),
        ("../elsewhere.png", "a link to ../elsewhere.png"),
    ],
)
def test_links_that_lead_nowhere_are_refused(params: dict, folder: Path, target, words) -> None:
    (folder / "im3.png").unlink()
    (folder / "im3.png").symlink_to(target)
    assert_refused_by_both(params, "im3.png", words)
    path = table(folder.parent / "s.csv", filename=[f"im{i}.png" for i in range(N_IMAGES)])
    assert_refused_by_both({**params, "stimulus_table": path}, "im3.png", words)


def zipped(folder: Path, path: Path, **options) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for file in sorted(folder.glob("im*.png")):
            archive.write(file, file.name)
    return path


def changed_headers(path: Path, offset_local: int, offset_central: int, value: int) -> None:
    """Write a field of two bytes in the headers of every member of an archive."""
    content = bytearray(path.read_bytes())
    for start, offset in ((b"PK\x03\x04", offset_local), (b"PK\x01\x02", offset_central)):
        at = content.find(start)
        while at >= 0:
            content[at + offset : at + offset + 2] = value.to_bytes(2, "little")
            at = content.find(start, at + 1)
    path.write_bytes(content)


def test_archives_that_python_cannot_unpack_are_refused(params: dict, tmp_path: Path) -> None:
    path = zipped(params["images"], tmp_path / "i.zip", compression=zipfile.ZIP_DEFLATED)
    params["images"] = path
    whole = path.read_bytes()
    changed_headers(path, 8, 10, 9)
    assert_refused_by_both(params, "i.zip: im0.png", "Deflate64", "pack it by deflate")
    path.write_bytes(whole)
    changed_headers(path, 6, 8, 1)
    assert_refused_by_both(params, "i.zip: im0.png", "password")
    path.write_bytes(whole)
    changed_headers(path, 4, 6, 99)
    assert_refused_by_both(params, "i.zip", "not a readable zip")
    path.write_bytes(whole)
    for n_bytes in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:n_bytes])
        assert_refused_by_both(params, "i.zip", "not a readable zip")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_flipped_bytes_of_an_archive_are_refused_or_harmless(params: dict, tmp_path, data) -> None:
    path = zipped(params["images"], tmp_path / "i.zip")
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        stimuli = load("files", **{**params, "images": path}, image_order="natural").stimuli
        stimuli.digest()
    except DataError:
        return
    assert len(stimuli) == N_IMAGES


def test_what_file_managers_leave_is_no_image(params: dict, folder: Path) -> None:
    for name in ("._im0.png", ".DS_Store", "Thumbs.db", "im0.png.dvc"):
        (folder / name).write_bytes(b"x")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "im0.png").write_bytes(b"x")
    (folder / "im5.png").rename(folder / "im5.PNG")
    assert load("files", **params).stimuli.ids == IDS


def test_names_that_differ_in_case_only_are_two_images(params: dict, folder: Path) -> None:
    (folder / "im5.png").rename(folder / "IM3.png")
    assert_refused_by_both(params, "two orders", "IM3.png")
    assert load("files", **params, image_order="natural").stimuli.ids[3:5] == ("IM3", "im3")
    path = table(
        folder.parent / "s.csv", filename=["Im0.png", *(f"im{i}.png" for i in range(1, 5))]
    )
    assert_refused_by_both({**params, "stimulus_table": path}, "1 images", "'Im0.png' (nearest")


def test_photographs_that_only_viewers_turn_are_named(params: dict, folder: Path) -> None:
    (folder / "im4.png").unlink()
    exif = picture(4).getexif()
    exif[0x0112] = 6
    picture(4).save(folder / "im4.jpg", exif=exif)
    stimuli = load("files", **params).stimuli
    (remark,) = stimuli.remarks()
    assert remark.startswith("1 of 6 images")
    assert "im4.jpg" in remark
    assert stimuli[4].size == picture(4).size
    assert stimuli.sizes_px() == {(9, 11)}
    framed = load("files", **params, frame={"mode": "pad"})
    assert framed.stimuli.remarks() == (remark,)
    assert remark in report.as_text(quality.assess(framed))


def test_labels_are_found_whatever_the_spelling(tmp_path: Path) -> None:
    files = ["caf\u00e9.png", "b.png"]
    for column, names in (
        ("filename", ["C:\\all\\cafe\u0301.png", "x/b.png"]),
        ("stimulus_id", ["cafe\u0301", "b.png"]),
    ):
        labels = LabelTable(table(tmp_path / "l.csv", **{column: names, "label": ["x", "y"]}))
        assert labels.names(files).all()
        assert labels.categories(files) == ("x", "y")
