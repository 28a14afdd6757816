"""Zarr arrays from anybody: what they say is decoded, what could run code is not."""

import json
import pickle
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from own_files import IDS, N_IMAGES, N_NEUROIDS, assert_refused, assert_refused_by_both

from toolkit.data import load

pytest_plugins = ("own_files",)


class Payload:
    """Pickled, it makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def malicious(store: Path, made: Path, **metadata: object) -> Path:
    """A format 2 array whose only chunk is a pickle that makes a file."""
    zarr.create_array(store, data=np.ones((N_IMAGES, N_NEUROIDS)), zarr_format=2, compressors=None)
    described = json.loads((store / ".zarray").read_text())
    (store / ".zarray").write_text(json.dumps({**described, **metadata}))
    (store / "0.0").write_bytes(pickle.dumps(Payload(made)))
    return store


@pytest.mark.parametrize(
    "metadata",
    [
        {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]},
        {"filters": [{"id": "pickle", "protocol": 5}]},
        {"compressor": {"id": "pickle", "protocol": 5}},
        {"filters": [{"id": "delta", "dtype": "<f8"}, {"id": "pickle", "protocol": 5}]},
    ],
)
@pytest.mark.parametrize("member", ["", "responses"])
def test_a_pickle_is_refused_before_it_is_read(
    params, tmp_path, monkeypatch, metadata, member
) -> None:
    # Newer numcodecs refuse by themselves unless told not to.
    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    store, made = tmp_path / "r.zarr", tmp_path / "made"
    if member:
        zarr.create_group(store, zarr_format=2)
    chunk = malicious(store / member, made, **metadata) / "0.0"
    numcodecs.Pickle().decode(chunk.read_bytes())
    made.unlink()
    assert_refused_by_both({**params, "responses": store}, "r.zarr")
    assert not made.exists()


def test_consolidated_metadata_cannot_bring_a_pickle_in(params, tmp_path, responses) -> None:
    store, made = tmp_path / "r.zarr", tmp_path / "made"
    zarr.create_group(store, zarr_format=2).create_array("responses", data=responses)
    zarr.consolidate_metadata(store, zarr_format=2)
    stored = json.loads((store / ".zmetadata").read_text())
    stored["metadata"]["responses/.zarray"]["compressor"] = {"id": "pickle", "protocol": 5}
    (store / ".zmetadata").write_text(json.dumps(stored))
    np.testing.assert_array_equal(
        load("files", **{**params, "responses": store}).responses, responses
    )
    assert not made.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"codecs": [{"name": "numcodecs.pickle"}]}, ["'numcodecs.pickle'", "may run code"]),
        ({"codecs": ["bytes", "json2"]}, ["'json2'"]),
        ({"codecs": [{"name": "vlen-utf8"}]}, ["'vlen-utf8'"]),
        (
            {
                "codecs": [
                    {
                        "name": "sharding_indexed",
                        "configuration": {"codecs": ["bytes", "numcodecs.pickle"]},
                    }
                ]
            },
            ["'numcodecs.pickle'"],
        ),
        ({"data_type": "string"}, ["'string'", "real numbers"]),
        ({"data_type": "complex128"}, ["complex128"]),
        ({"data_type": {"name": "object"}}, ["object"]),
        ({"data_type": "bool"}, ["bool"]),
        ({"storage_transformers": [{"name": "x"}]}, ["storage transformers"]),
        ({"codecs": 3}, ["zarr.json", "not the metadata"]),
        ({"shape": None}, ["zarr.json", "not the metadata"]),
        ({"node_type": "group"}, ["no array in it"]),
    ],
)
def test_format_3_metadata_that_are_refused(params, tmp_path, responses, change, words) -> None:
    store = tmp_path / "r.zarr"
    zarr.create_array(store, data=responses)
    described = json.loads((store / "zarr.json").read_text())
    (store / "zarr.json").write_text(json.dumps({**described, **change}))
    assert_refused_by_both({**params, "responses": store}, "r.zarr", *words)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"node_type": 3}'])
def test_metadata_that_are_none(params: dict, tmp_path: Path, text: str) -> None:
    (tmp_path / "r.zarr").mkdir()
    (tmp_path / "r.zarr" / "zarr.json").write_text(text)
    assert_refused_by_both({**params, "responses": tmp_path / "r.zarr"}, "r.zarr")


def test_damaged_chunks_are_said(params: dict, tmp_path: Path, responses: np.ndarray) -> None:
    zarr.create_array(tmp_path / "r.zarr", data=responses, chunks=responses.shape)
    (tmp_path / "r.zarr" / "c" / "0" / "0").write_bytes(b"no chunk")
    assert_refused({**params, "responses": tmp_path / "r.zarr"}, "r.zarr", "cannot be decoded")


# ---- as xarray writes them


def written_by_xarray(path: Path, values: np.ndarray, zarr_format: int, **encoding: object) -> Path:
    array = xr.DataArray(values, dims=("stimulus", "neuroid"), coords={"stimulus": list(IDS)})
    array.to_dataset(name="responses").to_zarr(
        path, zarr_format=zarr_format, encoding={"responses": encoding}
    )
    return path


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification", "ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("encoding", "tolerance"),
    [
        ({}, 0),
        ({"dtype": "int16", "scale_factor": 0.01, "_FillValue": -32768}, 0.006),
        ({"dtype": "int16", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -1}, 0.006),
        ({"dtype": "float32", "_FillValue": -999.0}, 1e-6),
        ({"dtype": "float64", "_FillValue": np.nan}, 0),
    ],
)
def test_encoded_values_are_decoded(
    params, tmp_path, responses, zarr_format, encoding, tolerance
) -> None:
    responses[2, 1], responses[4, 0] = np.nan, 6.46
    path = written_by_xarray(tmp_path / "r.zarr", responses, zarr_format, **encoding)
    dataset = load("files", **{**params, "responses": path}, missing_responses="mask")
    np.testing.assert_allclose(dataset.responses, responses, rtol=0, atol=tolerance)
    with xr.open_zarr(path, consolidated=False) as opened:
        np.testing.assert_array_equal(dataset.responses, opened["responses"].values)
    is_encoded = bool({"scale_factor"} & set(encoding)) or encoding.get("_FillValue", np.nan) < 0
    assert any("decoded as xarray does" in note for note in dataset.notes) == is_encoded


def test_zeros_of_a_plain_array_are_no_missing_responses(params, tmp_path, responses) -> None:
    responses[1] = 0
    zarr.create_array(tmp_path / "r.zarr", data=responses, zarr_format=2, chunks=(1, 4))
    dataset = load("files", **{**params, "responses": tmp_path / "r.zarr"})
    np.testing.assert_array_equal(dataset.responses, responses)


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification", "ignore:Consolidated metadata")
def test_axes_called_by_the_file_are_believed(params, tmp_path, responses) -> None:
    path = tmp_path / "r.zarr"
    xr.DataArray(responses.T, dims=("neuroid", "stimulus")).to_dataset(name="x").to_zarr(path)
    params["responses"] = path
    np.testing.assert_array_equal(load("files", **params).responses, responses)
    assert_refused_by_both(
        {**params, "response_axes": ["stimulus", "neuroid"]}, "calls its axes", "neuroid, stimulus"
    )


# ---- what the file itself calls its rows and neurons

ORDER = np.array([4, 0, 5, 2, 1, 3])
NEURONS = ("a7", "a3", "b2", "b9")


def shuffled_dataset(responses: np.ndarray, key: str, kind: str) -> xr.Dataset:
    ids = np.array(IDS)[ORDER].astype(kind)
    dimension = "stimulus" if key == "stimulus" else "image"
    return xr.Dataset(
        {"rates": ((dimension, "unit"), responses[ORDER])},
        coords={key: (dimension, ids), "unit": list(NEURONS), "depth": ("unit", np.arange(4.0))},
    )


@pytest.mark.filterwarnings("ignore:.*Zarr V3 specification", "ignore:Consolidated metadata")
@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("key", ["stimulus_id", "image_id", "stimulus", "image"])
@pytest.mark.parametrize("kind", ["U4", "O", "S4"])
def test_rows_of_a_zarr_dataset_go_by_their_ids(
    params, tmp_path, responses, zarr_format, key, kind
) -> None:
    params["responses"] = tmp_path / "r.zarr"
    shuffled_dataset(responses, key, kind).to_zarr(params["responses"], zarr_format=zarr_format)
    dataset = load("files", **params)
    np.testing.assert_array_equal(dataset.responses, responses)
    assert dataset.stimuli.ids == IDS
    assert dataset.neuroid_ids == NEURONS
    assert any("joined to the images by stimulus_id" in note for note in dataset.notes)


@pytest.mark.parametrize("codec", [{"id": "pickle", "protocol": 5}, {"id": "json2"}])
def test_names_that_only_a_pickle_tells_are_refused(params, tmp_path, responses, codec) -> None:
    store, made = tmp_path / "r.zarr", tmp_path / "made"
    group = zarr.create_group(store, zarr_format=2)
    group.create_array("responses", data=responses)
    malicious(store / "stimulus_id", made, dtype="|O", shape=[6], chunks=[6], filters=[codec])
    assert_refused_by_both(
        {**params, "responses": store}, "names its rows in stimulus_id", "cannot be read"
    )
    assert not made.exists()


@pytest.mark.parametrize("key", ["stimulus_id", "image_id"])
def test_rows_of_an_npz_go_by_their_ids(params, tmp_path, responses, key) -> None:
    params["responses"] = tmp_path / "r.npz"
    ids = np.array(IDS)[ORDER]
    np.savez(params["responses"], responses=responses[ORDER], **{key: ids}, neuroid_id=NEURONS)
    dataset = load("files", **params)
    np.testing.assert_array_equal(dataset.responses, responses)
    assert dataset.neuroid_ids == NEURONS
    np.savez(params["responses"], responses=responses, **{key: ids.astype(object)})
    assert_refused_by_both(params, f"names its rows in {key}", "cannot be read")
    np.savez(params["responses"], responses=responses, **{key: ids[:5]})
    assert_refused_by_both(params, f"names its rows in {key}", "(5,)", "6 entries")
    np.savez(params["responses"], responses=responses, **{key: np.arange(6)})
    np.testing.assert_array_equal(load("files", **params).responses, responses)
    np.savez(params["responses"], responses=responses, **{key: np.arange(6)[::-1]})
    assert_refused_by_both(params, "no image for stimulus_id")


def test_a_neuroid_table_picks_the_neurons_of_an_array_by_name(params, tmp_path, responses) -> None:
    params["responses"] = tmp_path / "r.npz"
    np.savez(params["responses"], responses=responses, neuroid_id=NEURONS)
    neurons = tmp_path / "neurons.csv"
    neurons.write_text("neuroid_id,region\nb9,IT\na3,V4\n")
    dataset = load("files", **params, neuroid_table=neurons)
    assert (dataset.neuroid_ids, dataset.regions) == (("a3", "b9"), ("V4", "IT"))
    np.testing.assert_array_equal(dataset.responses, responses[:, [1, 3]])


def test_an_array_that_may_name_the_rows_is_told_of(params, tmp_path, responses) -> None:
    params["responses"] = tmp_path / "r.npz"
    np.savez(params["responses"], responses=responses, files=np.array(IDS), depth=np.ones(4))
    (note,) = [note for note in load("files", **params).notes if "not taken for ids" in note]
    assert "rows: files; " in note
