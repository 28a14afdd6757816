"""A laboratory's own responses: every layout, every way they can be wrong, and a real recording."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from own_files import (
    IDS,
    N_IMAGES,
    N_NEUROIDS,
    assert_refused,
    assert_refused_by_both,
    table,
)

from toolkit.data import load, size_of

pytest_plugins = ("own_files",)


# ---- response arrays


def padded_repetitions(responses: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(size=(*responses.shape, 5))
    repetitions = responses[:, :, None] + noise
    repetitions[:, :, 3:][noise[:, :, 3:] > 0] = np.nan
    return repetitions


@pytest.mark.parametrize(
    "axes",
    [
        ["stimulus", "neuroid", "repetition"],
        ["neuroid", "stimulus", "repetition"],
        ["repetition", "neuroid", "stimulus"],
        ["repetition", "stimulus", "neuroid"],
    ],
)
@pytest.mark.parametrize("suffix", ["npy", "npz", "zarr"])
def test_axes_in_any_order_from_any_array(params, tmp_path, responses, axes, suffix) -> None:
    repetitions = padded_repetitions(responses)
    order = [("stimulus", "neuroid", "repetition").index(axis) for axis in axes]
    stored = repetitions.transpose(order)
    path = tmp_path / f"r.{suffix}"
    if suffix == "npy":
        np.save(path, stored)
    elif suffix == "npz":
        np.savez_compressed(path, responses=stored, other=np.zeros(3))
    else:
        zarr.create_array(path, data=stored, chunks=(2, 2, 2))
    params.update(responses=path, response_axes=axes)
    dataset = load("files", **params)
    np.testing.assert_array_equal(dataset.repetitions, repetitions)
    np.testing.assert_allclose(dataset.responses, np.nanmean(repetitions, axis=2), rtol=1e-12)
    size = size_of("files", **params)
    assert (size.n_stimuli, size.n_neuroids) == (N_IMAGES, N_NEUROIDS)


def test_two_axes_and_whole_numbers(params: dict, tmp_path: Path) -> None:
    counts = np.arange(N_IMAGES * N_NEUROIDS, dtype=np.int16).reshape(N_NEUROIDS, N_IMAGES)
    np.save(tmp_path / "counts.npy", counts)
    params.update(responses=tmp_path / "counts.npy", response_axes=["neuroid", "stimulus"])
    dataset = load("files", **params)
    np.testing.assert_array_equal(dataset.responses, counts.T)
    assert dataset.responses.dtype == np.float64
    assert dataset.repetitions is None


def test_a_neuron_that_never_saw_an_image_is_named(params, tmp_path, responses) -> None:
    repetitions = padded_repetitions(responses)
    repetitions[4, 2] = np.nan
    np.save(tmp_path / "r.npy", repetitions)
    params.update(responses=tmp_path / "r.npy", response_axes=["stimulus", "neuroid", "repetition"])
    assert_refused(params, "r.npy", "1 of 24", "'neuroid-002@", "'im4'", "at least one")


def test_responses_digest_follows_one_response(params: dict, responses: np.ndarray) -> None:
    before = load("files", **params).responses_digest()
    moved = params["responses"].rename(params["responses"].with_name("moved.npy"))
    params["responses"] = moved
    assert load("files", **params).responses_digest() == before
    responses[3, 3] += 1e-12
    np.save(moved, responses)
    assert load("files", **params).responses_digest() != before


def test_lengths_that_differ_are_both_said(params: dict, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.zeros((5, N_NEUROIDS)))
    params["responses"] = tmp_path / "r.npy"
    assert_refused_by_both(params, "r.npy", "5 stimuli", "6 images")


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        (["stimulus"], ["must name stimulus and neuroid"]),
        (["stimulus", "neuron"], ["'neuron'", "neuroid"]),
        (["stimulus", "stimulus", "neuroid"], ["each once"]),
        (["stimulus", "neuroid", "repetition"], ["(6, 4)", "2 axes", "3"]),
    ],
)
def test_axes_that_do_not_fit(params: dict, axes: list[str], words: list[str]) -> None:
    assert_refused_by_both({**params, "response_axes": axes}, "responses.npy", *words)


def test_response_files_that_cannot_be_read(params: dict, tmp_path: Path) -> None:
    def refused(path: Path, *words: str) -> None:
        assert_refused_by_both({**params, "responses": path}, path.name, *words)

    refused(tmp_path / "absent.npy", "no such file")
    for suffix in ("npy", "npz", "parquet"):
        path = tmp_path / f"text.{suffix}"
        path.write_text("not responses")
        refused(path, "not a readable")
    (tmp_path / "latin.csv").write_bytes("stimulus_id,é\n".encode("latin-1"))
    refused(tmp_path / "latin.csv", "not a readable")
    (tmp_path / "r.mat").write_text("x")
    refused(tmp_path / "r.mat", ".npy", ".zarr", ".csv")
    (tmp_path / "empty.zarr").mkdir()
    refused(tmp_path / "empty.zarr", "zarr")
    np.savez(tmp_path / "two.npz", a=np.zeros((6, 4)), b=np.zeros((6, 4)))
    refused(tmp_path / "two.npz", "arrays a, b", "'responses'")
    np.savez(tmp_path / "hurt.npz", r=np.ones((6, 4)))
    content = (tmp_path / "hurt.npz").read_bytes()
    (tmp_path / "hurt.npz").write_bytes(content.replace(np.ones(9).tobytes(), bytes(72)))
    assert_refused({**params, "responses": tmp_path / "hurt.npz"}, "hurt.npz", "not a readable")
    np.save(tmp_path / "objects.npy", np.array([{}] * 24).reshape(6, 4))
    refused(tmp_path / "objects.npy", "not a readable")
    np.save(tmp_path / "complex.npy", np.zeros((6, 4), complex))
    assert_refused({**params, "responses": tmp_path / "complex.npy"}, "complex128")


def test_size_reads_neither_images_nor_arrays(params, tmp_path, folder) -> None:
    """The array is 19 GB of a sparse file, and the images are none."""
    for file in folder.glob("im*.png"):
        file.write_bytes(b"no image")
    sparse = np.lib.format.open_memmap(
        tmp_path / "large.npy", mode="w+", dtype=np.float64, shape=(6, 4, 10**8)
    )
    del sparse
    params["responses"] = tmp_path / "large.npy"
    params["response_axes"] = ["stimulus", "neuroid", "repetition"]
    assert size_of("files", **params).n_neuroids == N_NEUROIDS


# ---- response and neuroid tables


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_response_table_is_matched_by_id(params, tmp_path, responses, suffix) -> None:
    frame = pd.DataFrame(responses, columns=["u1", "u2", "u3", "u4"])
    frame.insert(2, "stimulus_id", IDS)
    frame = frame.iloc[[4, 2, 0, 1, 5, 3]]
    path = tmp_path / f"r.{suffix}"
    frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    params["responses"] = path
    neuroids = table(
        tmp_path / "n.csv", neuroid_id=["u2", "u1", "u4", "u3"], region=["NA", "V4", "IT", "IT"]
    )
    dataset = load("files", **params, neuroid_table=neuroids)
    np.testing.assert_allclose(dataset.responses, responses, rtol=1e-15)
    assert dataset.neuroid_ids == ("u1", "u2", "u3", "u4")
    assert dataset.regions == ("V4", "NA", "IT", "IT")
    size = size_of("files", **params, neuroid_table=neuroids)
    assert (size.n_stimuli, size.n_neuroids) == (N_IMAGES, N_NEUROIDS)


def test_numeric_ids_keep_their_leading_zeros(params: dict, folder: Path, tmp_path: Path) -> None:
    for i in range(N_IMAGES):
        (folder / f"im{i}.png").rename(folder / f"00{i}.png")
    params["responses"] = table(
        tmp_path / "r.csv", stimulus_id=[f"00{i}" for i in range(6)], u1=list(range(6))
    )
    np.testing.assert_array_equal(load("files", **params).responses[:, 0], range(6))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stimulus_id,u1\nim0,1\nim1,2\nim9,3\n", ["no image", "'im9'"]),
        ("stimulus_id,u1\nim0,1\nim1,2\n", ["2 rows for 6 images", "'im2'"]),
        ("stimulus_id,u1\nim0,1\nim0,2\n", ["stimulus_id", "more than once", "'im0'"]),
        ("image,u1\nim0,1\n", ["no column stimulus_id", "image"]),
        ("stimulus_id,u1,u1\nim0,1,2\n", ["column", "more than once", "'u1'"]),
        ("", ["not a readable table"]),
    ],
)
def test_response_tables_that_do_not_fit(params: dict, tmp_path: Path, text, words) -> None:
    (tmp_path / "r.csv").write_text(text)
    assert_refused({**params, "responses": tmp_path / "r.csv"}, "r.csv", *words)


def test_empty_and_textual_cells(params: dict, tmp_path: Path) -> None:
    path = table(tmp_path / "r.csv", stimulus_id=list(IDS), u1=[1, 2, 3, None, 5, 6])
    assert_refused({**params, "responses": path}, "r.csv", "'u1'", "'im3'")
    path = table(tmp_path / "r.csv", stimulus_id=list(IDS), u1=[1, 2, "high", 4, 5, 6])
    assert_refused({**params, "responses": path}, "not of numbers", "'u1'", "'high' for 'im2'")


def test_parquet_length_is_known_beforehand(params: dict, tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pd.DataFrame({"stimulus_id": IDS[:4], "u1": range(4)}).to_parquet(path)
    assert_refused_by_both({**params, "responses": path}, "4 rows", "6 images", "'im4'")


def test_neuroid_table_of_an_array(params: dict, tmp_path: Path) -> None:
    path = table(tmp_path / "n.csv", neuroid_id=[7, 5, 6, 8], region=["IT", "IT", "V4", "V4"])
    dataset = load("files", **params, neuroid_table=path)
    assert dataset.neuroid_ids == ("7", "5", "6", "8")
    assert dataset.regions == ("IT", "IT", "V4", "V4")
    assert_refused_by_both({**params, "neuroid_table": path, "region": "IT"}, "region='IT'")
    path = table(tmp_path / "n.csv", neuroid_id=[1, 2, 3, 4])
    assert load("files", **params, neuroid_table=path, region="V4").regions == ("V4",) * 4


@pytest.mark.parametrize(
    ("ids", "words"),
    [([1, 2, 3], ["3 neuroids", "has 4"]), ([1, 2, 2, 3], ["neuroid id", "'2'"])],
)
def test_neuroid_tables_that_do_not_fit(params: dict, tmp_path: Path, ids, words) -> None:
    path = table(tmp_path / "n.csv", neuroid_id=ids)
    assert_refused_by_both({**params, "neuroid_table": path}, "n.csv", *words)
    path = table(tmp_path / "n.csv", unit=[1])
    assert_refused_by_both({**params, "neuroid_table": path}, "no column neuroid_id", "unit")


def test_neuroid_table_that_names_other_columns(params: dict, tmp_path: Path) -> None:
    params["responses"] = table(tmp_path / "r.csv", stimulus_id=list(IDS), u1=list(range(6)))
    path = table(tmp_path / "n.csv", neuroid_id=["u2"])
    assert_refused_by_both({**params, "neuroid_table": path}, "no column", "'u1'", "'u2'")


# ---- a real recording


def test_v4_recording(shared_data: Path) -> None:
    folder = shared_data / "v4_cowley2023"
    params = {
        "name": "v4-cowley2023",
        "images": folder / "images_210325.zip",
        "responses": folder / "raw_210325.npy",
        "response_axes": ["neuroid", "stimulus", "repetition"],
        "region": "V4",
    }
    size = size_of("files", **params)
    assert (size.n_stimuli, size.n_neuroids) == (640, 50)
    dataset = load("files", **params)
    assert dataset.responses.shape == (640, 50)
    assert dataset.repetitions.shape == (640, 50, 10)
    average = np.load(folder / "avg_210325.npy").T
    np.testing.assert_allclose(dataset.responses, average, rtol=1e-12)
    assert dataset.stimuli.ids[0] == "image0001"
    assert dataset.stimuli.ids[-1] == "image0640"
    assert dataset.stimuli[639].size == (112, 112)
    assert set(dataset.regions) == {"V4"}
    assert len(dataset.stimuli.digest()) == 64
