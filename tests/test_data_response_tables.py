"""Response tables as pandas, R, MATLAB and spreadsheets write them: which columns are neurons."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_files import IDS, N_IMAGES, assert_refused_by_both

from toolkit.data import NeuralDataset, load

pytest_plugins = ("own_files",)

NEURONS = ("u1", "u2", "u3", "u4")


@pytest.fixture
def frame(responses: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"stimulus_id": IDS, **dict(zip(NEURONS, responses.T, strict=True))})


def loaded(params: dict, path: Path, **more: object) -> NeuralDataset:
    return load("files", **{**params, "responses": path, **more})


def csv(path: Path, frame: pd.DataFrame, **how: object) -> Path:
    frame.to_csv(path, **how)
    return path


def parquet(path: Path, frame: pd.DataFrame, **how: object) -> Path:
    frame.to_parquet(path, **how)
    return path


# ---- which columns are neurons


@pytest.mark.parametrize("n_times_saved", [1, 2])
def test_row_numbers_of_pandas_are_no_neuron(params, tmp_path, frame, responses, n_times_saved):
    path = tmp_path / "r.csv"
    for _ in range(n_times_saved):
        csv(path, frame)
        frame = pd.read_csv(path, dtype=str)  # no version changes a digit
    dataset = loaded(params, path)
    assert dataset.neuroid_ids == NEURONS
    np.testing.assert_array_equal(dataset.responses, responses)
    assert "4 columns are neurons: u1, u2, u3, u4; left out" in " ".join(dataset.notes)


def test_row_names_of_r_are_no_neuron(params, tmp_path, frame, responses) -> None:
    text = frame.to_csv(index_label="", quoting=2)
    assert text.startswith('"","stimulus_id","u1"')
    (tmp_path / "r.csv").write_text(text)
    np.testing.assert_array_equal(loaded(params, tmp_path / "r.csv").responses, responses)


def test_an_index_stored_in_parquet_is_no_neuron(params, tmp_path, frame, responses) -> None:
    shuffled = frame.iloc[[3, 1, 0, 5, 2, 4]]
    path = parquet(tmp_path / "r.parquet", shuffled)
    assert "__index_level_0__" in pq.read_schema(path).names
    dataset = loaded(params, path)
    assert dataset.neuroid_ids == NEURONS
    np.testing.assert_array_equal(dataset.responses, responses)
    by_id = parquet(tmp_path / "by_id.parquet", shuffled.set_index("stimulus_id"))
    np.testing.assert_array_equal(loaded(params, by_id).responses, responses)


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("order_shown", [4, 1, 5, 2, 3, 0], ["'order_shown' (it numbers the rows)"]),
        ("trial7", [104, 101, 105, 102, 103, 106], ["'trial7' (it numbers the rows)"]),
        ("block1", [1, 1, 2, 2, 3, 3], ["'block1' (it has whole numbers, others fractions)"]),
        ("size", [0.2, 0.4, 0.1, 0.7, 0.3, 0.8], ["'size' (its name has no number"]),
        ("x9", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], ["'x9' (it numbers the rows)"]),
    ],
)
@pytest.mark.parametrize("write", [csv, parquet])
def test_columns_that_hardly_are_neurons(params, tmp_path, frame, write, column, values, words):
    frame.insert(1, column, values)
    path = write(tmp_path / f"r.{write.__name__}", frame, index=False)
    params["responses"] = path
    assert_refused_by_both(params, path.name, *words, 'neuroid_columns: ["u*"]')
    dataset = load("files", **params, neuroid_columns=["u*"])
    assert dataset.neuroid_ids == NEURONS
    assert f"left out, not named as neurons: '{column}'" in " ".join(dataset.notes)
    assert load("files", **params, neuroid_columns=["u*", column]).neuroid_ids[0] == column


def test_counts_are_neurons_together(params: dict, tmp_path: Path, frame: pd.DataFrame) -> None:
    counts = frame.assign(**{n: [3, i, 0, 7, 1, 2] for i, n in enumerate(NEURONS)})
    dataset = loaded(params, csv(tmp_path / "r.csv", counts, index=False))
    assert dataset.neuroid_ids == NEURONS
    assert dataset.responses[1].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("write", [csv, parquet])
def test_columns_of_text_or_truth(params, tmp_path, frame, write) -> None:
    for column, values in (("label", ["face"] * 6), ("u5", [True, False] * 3)):
        with_text = frame.assign(**{column: values})
        params["responses"] = write(tmp_path / f"{column}.{write.__name__}", with_text, index=False)
        assert_refused_by_both(params, f"'{column}' is not of numbers", "neuroid_columns")
        assert load("files", **params, neuroid_columns=list(NEURONS)).neuroid_ids == NEURONS


def test_a_neuroid_table_names_the_columns(params, tmp_path, frame, responses) -> None:
    path = csv(tmp_path / "r.csv", frame.assign(trial=range(6), label="face"), index=False)
    neuroids = csv(
        tmp_path / "n.csv", pd.DataFrame({"neuroid_id": ["u3", "u1"], "region": ["V4", "IT"]})
    )
    dataset = loaded(params, path, neuroid_table=neuroids)
    assert (dataset.neuroid_ids, dataset.regions) == (("u1", "u3"), ("IT", "V4"))
    np.testing.assert_array_equal(dataset.responses, responses[:, [0, 2]])
    assert "left out, not named as neurons: 'u2', 'u4', 'trial', 'label'" in " ".join(dataset.notes)


def test_neuroid_columns_that_are_not_there(params: dict, tmp_path: Path, frame) -> None:
    params["responses"] = csv(tmp_path / "r.csv", frame, index=False)
    assert_refused_by_both({**params, "neuroid_columns": ["u1", "unit2"]}, "'unit2'", "'u2'")
    assert_refused_by_both({**params, "neuroid_columns": ["stimulus_id"]}, "'stimulus_id'")
    params["responses"] = tmp_path / "responses.npy"
    assert_refused_by_both({**params, "neuroid_columns": ["u1"]}, "no columns with names")


# ---- cells


@pytest.mark.parametrize("cell", ["", "NA", "NaN", "nan", " ", "null"])
def test_cells_without_a_response(params: dict, tmp_path: Path, cell: str) -> None:
    (tmp_path / "r.csv").write_text("stimulus_id,u1\n" + "".join(f"{i},{cell}\n" for i in IDS[:1]))
    with (tmp_path / "r.csv").open("a") as file:
        file.writelines(f"{i},1.5\n" for i in IDS[1:])
    params["responses"] = tmp_path / "r.csv"
    with pytest.raises(ValueError, match="1 of 6 responses are NaN"):
        load("files", **params)
    responses = load("files", **params, missing_responses="mask").responses[:, 0]
    assert np.isnan(responses[0])
    assert responses[1:].tolist() == [1.5] * 5


@pytest.mark.parametrize("cell", ["-", "1,5", "1 000", "1_000", "0x10", "--", "#N/A", "#DIV/0!"])
def test_cells_that_are_no_numbers(params: dict, tmp_path: Path, cell: str) -> None:
    rows = "".join(f'{i},"{cell if i == "im3" else 2.5}"\n' for i in IDS)
    (tmp_path / "r.csv").write_text(f"stimulus_id,u1\n{rows}")
    params["responses"] = tmp_path / "r.csv"
    assert_refused_by_both(params, "'u1'", f"'{cell}' for 'im3'")


def test_infinite_cells_are_refused(params: dict, tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.loc[2, "u2"] = np.inf
    for mask in ("refuse", "mask"):
        with pytest.raises(ValueError, match="infinite: neuron 'u2' to stimulus 'im2'"):
            loaded(params, csv(tmp_path / "r.csv", frame, index=False), missing_responses=mask)


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "float32", "float16", "uint8", "decimal"])
def test_types_of_parquet(params: dict, tmp_path: Path, dtype: str) -> None:
    values = [3, 1, 4, 1, 5, 9]
    column = pa.array(values, pa.decimal128(5, 1)) if dtype == "decimal" else None
    column = column or pa.array(pd.Series(values, dtype=dtype))
    pq.write_table(pa.table({"stimulus_id": IDS, "u1": column}), tmp_path / "r.parquet")
    assert loaded(params, tmp_path / "r.parquet").responses[:, 0].tolist() == values
    if dtype in ("Int64", "Float64"):
        missing = pd.Series([None, *values[1:]], dtype=dtype)
        pq.write_table(pa.table({"stimulus_id": IDS, "u1": missing}), tmp_path / "r.parquet")
        dataset = loaded(params, tmp_path / "r.parquet", missing_responses="mask")
        np.testing.assert_array_equal(dataset.responses[:, 0], [np.nan, *values[1:]])


# ---- files


def test_a_byte_order_mark_and_empty_lines(params, tmp_path, frame, responses) -> None:
    text = frame.to_csv(index=False, lineterminator="\r\n") + "\r\n\r\n"
    (tmp_path / "r.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    np.testing.assert_array_equal(loaded(params, tmp_path / "r.csv").responses, responses)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stimulus_id;u1\nim0;1,5\n", ["separated by ';'", "commas"]),
        ("stimulus_id\tu1\nim0\t1.5\n", ["separated by '\\t'"]),
        ("stimulus_id,u1\nim0,1.5,\nim1,2.5,\n", ["not a readable table", "Expected 2 columns"]),
        ("stimulus_id,u1\nim0\n", ["not a readable table", "Expected 2 columns"]),
        ("stimulus_id,u1,u1,u2\nim0,1,2,3\n", ["column", "more than once", "'u1'"]),
        ("stimulus_id,,\nim0,1,2\n", ["column", "more than once", "''"]),
        ("stimulus_id\nim0\n", ["no columns of neurons"]),
        (",stimulus_id\n0,im0\n", ["no columns of neurons"]),
    ],
)
def test_files_that_are_no_such_table(params: dict, tmp_path: Path, text: str, words) -> None:
    (tmp_path / "r.csv").write_text(text)
    assert_refused_by_both({**params, "responses": tmp_path / "r.csv"}, "r.csv", *words)


def test_files_of_another_kind(params: dict, tmp_path: Path, frame: pd.DataFrame) -> None:
    for name, content in (("utf16.csv", "stimulus_id,u1".encode("utf-16")), ("a.parquet", b"PAR")):
        (tmp_path / name).write_bytes(content)
        assert_refused_by_both({**params, "responses": tmp_path / name}, name, "not a readable")
    (tmp_path / "folder.parquet").mkdir()
    assert_refused_by_both({**params, "responses": tmp_path / "folder.parquet"}, "not a file")
    frame.to_csv(tmp_path / "r.csv.gz")
    assert_refused_by_both({**params, "responses": tmp_path / "r.csv.gz"}, "must be one of")


# ---- ids


@pytest.mark.parametrize(
    "spelling", ["{0}.png", "images/{0}.PNG", "C:\\lab\\{0}.png", "{0}.jpg", "./{0}"]
)
def test_ids_with_suffix_or_folder_are_matched(params, tmp_path, frame, responses, spelling):
    frame["stimulus_id"] = [spelling.format(i) for i in IDS]
    dataset = loaded(params, csv(tmp_path / "r.csv", frame[::-1], index=False))
    np.testing.assert_array_equal(dataset.responses, responses)
    assert any("for image 'im5'" in note for note in dataset.notes)


@pytest.mark.parametrize("write", [csv, parquet])
def test_ids_that_were_read_as_numbers(params, folder, tmp_path, frame, responses, write) -> None:
    for i in range(N_IMAGES):
        (folder / f"im{i}.png").rename(folder / f"{i:03d}.png")
    frame["stimulus_id"] = range(N_IMAGES)
    dataset = loaded(params, write(tmp_path / f"r.{write.__name__}", frame[::-1], index=False))
    np.testing.assert_array_equal(dataset.responses, responses)
    assert any("is taken, '5' for image '005'" in note for note in dataset.notes)


def test_ids_that_could_be_several_are_refused(params, folder, tmp_path, frame) -> None:
    (folder / "left").mkdir()
    (folder / "im5.png").rename(folder / "left" / "im0.png")
    frame["stimulus_id"] = [f"{i}.png" for i in IDS]
    params["responses"] = csv(tmp_path / "r.csv", frame, index=False)
    assert_refused_by_both(params, "no image", "'im0.png' (nearest")


@pytest.mark.parametrize("spelling", ["lab/left/im{}.png", "LAB\\left\\im{}", "left/im{}"])
def test_folders_of_an_id_tell_images_of_one_name_apart(
    params, folder, tmp_path, frame, responses, spelling
) -> None:
    for side in ("left", "right"):
        (folder / side).mkdir()
    for i in range(3):
        (folder / f"im{i}.png").rename(folder / "left" / f"im{i}.png")
        (folder / f"im{i + 3}.png").rename(folder / "right" / f"im{i}.png")
    left = [spelling.format(i) for i in range(3)]
    frame["stimulus_id"] = [*left, *(name.replace("left", "right") for name in left)]
    path = csv(tmp_path / "r.csv", frame[::-1], index=False)
    np.testing.assert_array_equal(loaded(params, path).responses, responses)
    frame["stimulus_id"] = [name.replace("left", "top") for name in frame["stimulus_id"]]
    params["responses"] = csv(tmp_path / "r.csv", frame, index=False)
    assert_refused_by_both(params, "no image", "nearest")


def test_unknown_ids_show_the_nearest_first(params: dict, tmp_path: Path, frame) -> None:
    frame["stimulus_id"] = [*IDS[:3], "im_4", *IDS[4:]]
    params["responses"] = csv(tmp_path / "r.csv", frame, index=False)
    assert_refused_by_both(params, "no image", "'im_4' (nearest: 'im4')")


def test_rows_without_id_are_refused(params: dict, tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.loc[1, "stimulus_id"] = None
    params["responses"] = parquet(tmp_path / "r.parquet", frame)
    assert_refused_by_both(params, "1 rows have no stimulus_id")


def test_a_stimulus_in_two_rows_is_refused(params: dict, tmp_path: Path, frame) -> None:
    twice = pd.concat([frame, frame.iloc[:1]])
    params["responses"] = csv(tmp_path / "r.csv", twice, index=False)
    assert_refused_by_both(params, "stimulus_id used more than once: 'im0'", "repetition")


# ---- names that are positions


@pytest.mark.parametrize("form", ["{}", "V{}", "Var{}"])
@pytest.mark.parametrize("first", [0, 1])
def test_numbered_columns_are_positions(params, tmp_path, responses, form, first) -> None:
    def numbered(values: np.ndarray) -> NeuralDataset:
        names = [form.format(first + i) for i in range(values.shape[1])]
        table = pd.DataFrame(values, columns=names).assign(stimulus_id=IDS)
        return loaded(params, csv(tmp_path / "r.csv", table, index=False))

    ids = numbered(responses).neuroid_ids
    assert [i.split("@")[0] for i in ids] == [form.format(first + i) for i in range(4)]
    assert not set(ids) & set(numbered(responses + 1).neuroid_ids)
    assert ids == numbered(responses).neuroid_ids
