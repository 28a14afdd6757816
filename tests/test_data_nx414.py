"""``IT_data.h5``: layout, un-normalisation, laziness, and what a damaged file says."""

import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from toolkit.data import DataError, load, size_of

MEAN = np.array([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
STD = np.array([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
N_IMAGES = {"train": 5, "val": 3, "test": 2}


def pixels(split: str, px: int = 16) -> np.ndarray:
    """Images in [0, 1], float64 (n, 3, px, px)."""
    rng = np.random.default_rng(list(split.encode()))
    images = rng.random((N_IMAGES[split], 3, px, px))
    images[0, 0, 0, :2] = 0, 1
    return images


def write(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for split, n in N_IMAGES.items():
            file[f"stimulus_{split}"] = ((pixels(split) - MEAN) / STD).astype(np.float32)
            names = [f"objet-é{i % 2}".encode("latin-1") for i in range(n)]
            file[f"object_{split}"] = np.array(names)
            if split != "test":
                rng = np.random.default_rng(n)
                file[f"spikes_{split}"] = rng.normal(size=(n, 7)).astype(np.float32)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "IT_data.h5")


def edit(path: Path, key: str, value: np.ndarray | None) -> None:
    with h5py.File(path, "r+") as file:
        del file[key]
        if value is not None:
            file[key] = value


def test_loads_both_splits_one_after_the_other(path: Path) -> None:
    dataset = load("nx414", path=path)
    assert dataset.stimuli.ids[:2] == ("train-00000", "train-00001")
    assert dataset.stimuli.ids[5:] == ("val-00000", "val-00001", "val-00002")
    assert len(dataset.stimuli) == 8
    np.testing.assert_array_equal(dataset.splits["train"], range(5))
    np.testing.assert_array_equal(dataset.splits["val"], range(5, 8))
    with h5py.File(path) as file:
        np.testing.assert_array_equal(dataset.responses[:5], file["spikes_train"][:])
        np.testing.assert_array_equal(dataset.responses[5:], file["spikes_val"][:])
    assert dataset.responses.dtype == np.float64
    assert dataset.repetitions is None
    assert dataset.object_names is not None
    assert dataset.object_names[:3] == ("objet-é0", "objet-é1", "objet-é0")
    assert dataset.category_names is None
    assert set(dataset.regions) == {"IT"}
    assert len(set(dataset.neuroid_ids)) == 7
    assert dataset.stimuli.framed


def test_variable_length_object_names(path: Path) -> None:
    edit(path, "object_val", None)
    with h5py.File(path, "r+") as file:
        file.create_dataset("object_val", data=["a", "b", "c"], dtype=h5py.string_dtype())
    assert load("nx414", path=path, splits=["val"]).object_names == ("a", "b", "c")


def test_normalisation_is_undone(path: Path) -> None:
    stimuli = load("nx414", path=path).stimuli
    expected = np.concatenate([pixels("train"), pixels("val")]).transpose(0, 2, 3, 1)
    for i, image in enumerate(expected):
        assert stimuli[i].dtype == np.float32
        assert 0 <= stimuli[i].min() <= stimuli[i].max() <= 1
        np.testing.assert_allclose(stimuli[i], image, atol=1e-6)
    np.testing.assert_array_equal(stimuli[-1], stimuli[7])
    with pytest.raises(IndexError):
        stimuli[8]


def test_one_split_and_its_order(path: Path) -> None:
    dataset = load("nx414", path=path, splits=("val", "train"))
    assert dataset.stimuli.ids[0] == "val-00000"
    np.testing.assert_allclose(dataset.stimuli[3], pixels("train")[0].transpose(1, 2, 0), atol=1e-6)
    assert set(load("nx414", path=path, splits=("val",)).splits) == {"val"}


def test_size_reads_no_array(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", refuse)
    size = size_of("nx414", path=path)
    assert (size.n_stimuli, size.n_neuroids) == (8, 7)
    assert size.split_sizes == {"train": 5, "val": 3}


def read_image(stimuli, index, queue) -> None:
    queue.put(stimuli[index])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same_images(path: Path, method: str) -> None:
    stimuli = load("nx414", path=path).stimuli
    here = [stimuli[i] for i in range(8)]  # the file is open in this process now
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    workers = [context.Process(target=read_image, args=(stimuli, 6, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for _ in workers:
        np.testing.assert_array_equal(queue.get(timeout=60), here[6])
    for worker in workers:
        worker.join()
    np.testing.assert_array_equal(stimuli[6], here[6])


def test_pickle_of_an_open_file(path: Path) -> None:
    stimuli = load("nx414", path=path).stimuli
    first = stimuli[0]
    copy = pickle.loads(pickle.dumps(stimuli))
    np.testing.assert_array_equal(copy[0], first)
    assert copy.ids == stimuli.ids


def test_digests_follow_content_and_not_the_path(path: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    original, moved = load("nx414", path=path), load("nx414", path=write(tmp_path / "moved/x.h5"))
    assert moved.stimuli.digest() == original.stimuli.digest()
    assert moved.responses_digest() == original.responses_digest()

    changed = write(tmp_path / "changed.h5")
    with h5py.File(changed, "r+") as file:
        file["stimulus_val"][2, 1, 3, 3] += 1e-3
        file["spikes_train"][4, 6] += 1e-3
    assert load("nx414", path=changed).stimuli.digest() != original.stimuli.digest()
    assert load("nx414", path=changed).responses_digest() != original.responses_digest()
    assert load("nx414", path=path, splits=("train",)).stimuli.digest() != original.stimuli.digest()


def test_digest_does_not_depend_on_the_block_size(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block is bounded; a one-pixel change in the last of many blocks still shows."""
    monkeypatch.setattr("toolkit.data.nx414._BLOCK_BYTES", 1)
    before = load("nx414", path=path).stimuli.digest()
    with h5py.File(path, "r+") as file:
        file["stimulus_val"][2, 2, 15, 15] = 0.25
    assert load("nx414", path=path).stimuli.digest() != before


@pytest.mark.parametrize("function", [load, size_of])
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("spikes_val", None, r"no key spikes_val.*the file has object_test, .*stimulus_val"),
        ("object_train", None, r"no key object_train"),
        ("spikes_val", np.zeros((2, 7)), r"lengths of split 'val' differ.*\(2, 7\)"),
        ("spikes_val", np.zeros((3, 6)), r"number of neurons: \{'train': 7, 'val': 6\}"),
        ("spikes_val", np.zeros((3, 7, 2)), r"shapes .*\(3, 7, 2\).*expected"),
        ("stimulus_val", np.zeros((3, 16, 16, 3), "f4"), r"\(3, 16, 16, 3\).*\(n, 3, height"),
        ("stimulus_val", np.zeros((3, 3, 16, 16), "u1"), r"stimulus_val is uint8"),
    ],
)
def test_headers_that_do_not_fit(path: Path, key, value, message, function) -> None:
    edit(path, key, value)
    with pytest.raises(DataError, match=message) as caught:
        function("nx414", path=path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("function", [load, size_of])
def test_a_split_without_spikes_or_unknown(path: Path, function) -> None:
    with pytest.raises(DataError, match="spikes_test"):
        function("nx414", path=path, splits=("train", "test"))
    with pytest.raises(DataError, match=r"'validation'.*'train', 'val', 'test'"):
        function("nx414", path=path, splits=("validation",))
    with pytest.raises(DataError, match="different"):
        function("nx414", path=path, splits=("train", "train"))


@pytest.mark.parametrize("function", [load, size_of])
def test_an_empty_split(path: Path, function) -> None:
    for key in ("stimulus_val", "object_val", "spikes_val"):
        with h5py.File(path) as file:
            empty = file[key][:0]
        edit(path, key, empty)
    with pytest.raises(DataError, match="'val' has no stimuli"):
        function("nx414", path=path)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.h5: no such file"):
        load("nx414", path=tmp_path / "absent.h5")
    (tmp_path / "text.h5").write_text("not HDF5")
    with pytest.raises(DataError, match=r"text\.h5: not a readable HDF5"):
        size_of("nx414", path=tmp_path / "text.h5")


def test_object_names_in_any_encoding(path: Path) -> None:
    names = ["gesicht_ä", "visage_é", "顔"]
    fixed, variable = h5py.string_dtype("utf-8", 12), h5py.string_dtype()
    for values, dtype in (
        (names, variable),
        ([name.encode() for name in names], fixed),
        ([name.encode() for name in names], "S12"),
    ):
        edit(path, "object_val", None)
        with h5py.File(path, "r+") as file:
            file.create_dataset("object_val", data=values, dtype=dtype)
        assert load("nx414", path=path, splits=["val"]).object_names == tuple(names)
    edit(path, "object_val", np.array([3, 1, 4]))
    assert load("nx414", path=path, splits=["val"]).object_names == ("3", "1", "4")
    edit(path, "object_val", np.array([0.5, 1, 4]))
    with pytest.raises(DataError, match=r"object_val is float64, not texts"):
        load("nx414", path=path)


@pytest.mark.parametrize("function", [load, size_of])
def test_values_that_stand_for_others_are_refused(path: Path, function) -> None:
    def written(**attributes: object) -> Path:
        with h5py.File(path, "r+") as file:
            file["spikes_val"].attrs.update(attributes)
        return path

    for neutral in ({"scale_factor": 1.0, "add_offset": 0}, {"_FillValue": np.float32([np.nan])}):
        function("nx414", path=written(**neutral))
    for attributes in ({"_FillValue": -1.0}, {"missing_value": np.array([9.0, 8.0])}):
        with pytest.raises(DataError, match=f"spikes_val has {next(iter(attributes))}"):
            function("nx414", path=written(**attributes))
        with h5py.File(path, "r+") as file:
            del file["spikes_val"].attrs[next(iter(attributes))]
    with pytest.raises(DataError, match=r"spikes_val has scale_factor 0\.01, so its values stand"):
        function("nx414", path=written(scale_factor=0.01))


def test_sites_of_two_files_are_not_the_same(path: Path, tmp_path: Path) -> None:
    ids = load("nx414", path=path).neuroid_ids
    assert ids == load("nx414", path=write(tmp_path / "copy.h5"), name="copy").neuroid_ids
    with h5py.File(path, "r+") as file:
        file["spikes_val"][1, 3] += 1
    assert not set(ids) & set(load("nx414", path=path).neuroid_ids)


def test_nan_spike_names_neuron_and_stimulus(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["spikes_val"][1, 3] = np.nan
    with pytest.raises(DataError, match=r"'IT-003@.*' to stimulus 'val-00001'"):
        load("nx414", path=path)


@pytest.mark.parametrize("pixel", [255.0, np.nan])
def test_images_that_were_not_normalised_name_themselves_at_access(path: Path, pixel) -> None:
    with h5py.File(path, "r+") as file:
        file["stimulus_train"][2, 0, 0, 0] = pixel
    stimuli = load("nx414", path=path).stimuli
    stimuli[1]
    with pytest.raises(DataError, match=r"IT_data\.h5: stimulus 'train-00002' spans"):
        stimuli[2]
