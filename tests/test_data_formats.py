"""The same responses are the same data set, whatever file they are in."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from own_files import picture

from toolkit.data import NeuralDataset, load

N_IMAGES = 4
IDS = tuple(f"im{i}" for i in range(N_IMAGES))

# Fractions, so that no column looks like a trial number; some absent; -0.0 and subnormals too.
_VALUES = st.one_of(
    st.floats(-1e6, 1e6).map(lambda x: x if x % 1 else x + 0.5),
    st.sampled_from([np.nan, -0.0, 5e-324, 1 / 3, 1e300]),
)


@st.composite
def recordings(draw: st.DrawFn) -> tuple[np.ndarray, tuple[str, ...]]:
    n_neuroids = draw(st.integers(1, 4))
    values = draw(st_numpy.arrays(np.float64, (N_IMAGES, n_neuroids), elements=_VALUES))
    values[0] = 0.25  # so that no neuron is without any response
    numbers = draw(
        st.lists(st.integers(2, 999), min_size=n_neuroids, max_size=n_neuroids, unique=True)
    )
    prefix = draw(st.sampled_from(["u", "ü,", 'site "A" ', "ch_", "α "]))
    return values, tuple(f"{prefix}{number}" for number in numbers)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for i, name in enumerate(IDS):
        picture(i).save(folder / f"{name}.png")
    return folder


def loaded(images: Path, responses: Path, **more: object) -> NeuralDataset:
    return load(
        "files", name="n", images=images, responses=responses, missing_responses="mask", **more
    )


def write_array(path: Path, values: np.ndarray, kind: str) -> Path:
    file = path / f"r{kind}"
    match kind:
        case ".npy":
            np.save(file, values)
        case ".npz":
            np.savez_compressed(file, values)
        case "2.zarr" | "3.zarr":
            zarr.create_array(file, data=values, zarr_format=int(kind[0]), chunks=values.shape)
    return file


def write_table(path: Path, frame: pd.DataFrame, kind: str) -> Path:
    file = path / f"r{kind}"
    if kind.endswith("csv"):
        frame.to_csv(file, index=kind == "_index.csv", na_rep="NA", encoding="utf-8-sig")
    else:
        frame.to_parquet(file, index=kind == "_index.parquet")
    return file


ARRAYS = (".npy", ".npz", "2.zarr", "3.zarr")
TABLES = (".csv", "_index.csv", ".parquet", "_index.parquet")
a_few = settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@a_few
@given(recording=recordings(), order=st.sampled_from("CF"), byte_order=st.sampled_from("<>"))
def test_every_format_gives_the_same_responses_and_digest(
    images: Path, recording, order: str, byte_order: str
) -> None:
    values, names = recording
    stored = values.astype(f"{byte_order}f8", order=order)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        names_file = path / "n.csv"
        pd.DataFrame({"neuroid_id": names}).to_csv(names_file, index=False)
        frame = pd.DataFrame({"stimulus_id": IDS, **dict(zip(names, values.T, strict=True))})
        datasets = [
            loaded(
                images,
                write_array(path, stored, kind),
                neuroid_table=names_file,
                response_axes=["stimulus", "neuroid"],
            )
            for kind in ARRAYS
        ] + [loaded(images, write_table(path, frame, kind)) for kind in TABLES]
    for dataset in datasets:
        np.testing.assert_array_equal(dataset.responses, values)
        assert dataset.neuroid_ids == names
    assert len({dataset.responses_digest() for dataset in datasets}) == 1


@a_few
@given(recording=recordings(), data=st.data())
def test_the_order_of_rows_is_nothing_and_that_of_columns_is_the_neurons(
    images: Path, recording, data: st.DataObject
) -> None:
    values, names = recording
    rows = data.draw(st.permutations(range(N_IMAGES)))
    columns = data.draw(st.permutations(range(len(names))))
    place = data.draw(st.integers(0, len(names)))
    kind = data.draw(st.sampled_from(TABLES))
    frame = pd.DataFrame(values, columns=list(names))
    moved = frame.iloc[rows, columns]
    moved.insert(place, "stimulus_id", [IDS[row] for row in rows])
    with tempfile.TemporaryDirectory() as folder:
        dataset = loaded(images, write_table(Path(folder), moved, kind))
    assert dataset.neuroid_ids == tuple(names[column] for column in columns)
    np.testing.assert_array_equal(dataset.responses, values[:, columns])


@a_few
@given(
    values=st_numpy.arrays(np.float32, (N_IMAGES, 2, 3), elements=st.floats(-9, 9, width=32)),
    axes=st.permutations(["stimulus", "neuroid", "repetition"]),
    kind=st.sampled_from(ARRAYS),
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8"]),
)
def test_repetitions_are_the_same_in_any_order_and_type(
    images: Path, values: np.ndarray, axes: list[str], kind: str, dtype: str
) -> None:
    order = [("stimulus", "neuroid", "repetition").index(axis) for axis in axes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        plain = loaded(
            images,
            write_array(path, values, ".npy"),
            response_axes=["stimulus", "neuroid", "repetition"],
        )
        stored = values.transpose(order).astype(dtype)
        other = loaded(images, write_array(path, stored, kind), response_axes=axes)
    np.testing.assert_array_equal(other.repetitions, values)
    np.testing.assert_array_equal(other.responses, plain.responses)
    assert other.responses_digest() == plain.responses_digest()
    assert other.neuroid_ids == plain.neuroid_ids


@a_few
@given(recording=recordings(), other=recordings())
def test_positions_of_two_arrays_are_the_same_neurons_only_if_all_is_equal(
    images: Path, recording, other
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = (
            loaded(
                images,
                write_array(Path(folder), values, ".npy"),
                response_axes=["stimulus", "neuroid"],
            )
            for values, _ in (recording, other)
        )
    common = set(first.neuroid_ids) & set(second.neuroid_ids)
    assert bool(common) == np.array_equal(first.responses, second.responses, equal_nan=True)


def test_a_square_array_does_not_say_which_axis_is_which(images: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((N_IMAGES, N_IMAGES))
    path = write_array(tmp_path, values, ".npy")
    with pytest.raises(ValueError, match=r"does not tell images from neurons.*response_axes"):
        loaded(images, path)
    turned = loaded(images, path, response_axes=["neuroid", "stimulus"])
    np.testing.assert_array_equal(turned.responses, values.T)


@pytest.mark.parametrize("dtype", [bool, complex, "U3", "V8", "M8[s]"])
@pytest.mark.parametrize("kind", [".npy", ".npz"])
def test_arrays_that_are_no_numbers(images: Path, tmp_path: Path, dtype, kind: str) -> None:
    path = write_array(tmp_path, np.zeros((N_IMAGES, 2), dtype), kind)
    with pytest.raises(ValueError, match="expected real numbers"):
        loaded(images, path)


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "i1", ">i4", "u8", "g"])
def test_numbers_of_any_type(images: Path, tmp_path: Path, dtype: str) -> None:
    values = np.array([[1, 2], [3, 4], [5, 6], [7, 100]])
    dataset = loaded(images, write_array(tmp_path, values.astype(dtype), ".npy"))
    np.testing.assert_array_equal(dataset.responses, values)
    is_whole = np.dtype(dtype).kind in "iu"
    assert any("whole numbers from 1 to 100" in note for note in dataset.notes) == is_whole
