"""What a ``NeuralDataset`` refuses, and what its digests depend on."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from toolkit.data import KINDS, DataError, NeuralDataset, Stimuli, load, size_of


class Greys(Stimuli):
    framed = True

    def __init__(self, ids: tuple[str, ...]) -> None:
        self.ids = ids

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((2, 2, 3), 0.5, np.float32)

    def _content(self) -> Iterator[bytes]:
        return iter([b""])


@pytest.fixture
def dataset() -> NeuralDataset:
    repetitions = np.random.default_rng(0).random((4, 2, 3))
    return NeuralDataset(
        name="greys",
        stimuli=Greys(("a", "b", "c", "d")),
        responses=repetitions.mean(axis=2),
        repetitions=repetitions,
        neuroid_ids=("n0", "n1"),
        regions=("IT", "V4"),
        object_names=("o", "o", "p", "p"),
        category_names=None,
        splits={"train": np.array([0, 1, 2]), "val": np.array([3])},
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"stimuli": Greys(("a", "b", "a", "d"))}, ["stimulus id", "'a'"]),
        ({"neuroid_ids": ("n0", "n0")}, ["neuroid id", "'n0'"]),
        ({"neuroid_ids": ("n0",)}, ["(4, 2)", "'neuroids': 1"]),
        ({"regions": ("IT",)}, ["1 regions", "2"]),
        ({"object_names": ("o",)}, ["1 object names", "4"]),
        ({"responses": np.zeros((3, 2))}, ["(3, 2)", "'stimuli': 4"]),
        ({"responses": np.zeros((4, 2), np.float32)}, ["float32", "float64"]),
        ({"repetitions": np.zeros((4, 3, 2))}, ["repetitions", "(4, 3)"]),
        ({"oracle_features": np.zeros((3, 5))}, ["3 rows of oracle features"]),
        ({"metadata": {"pose": np.zeros(3)}}, ["3 values of 'pose'", "4"]),
        ({"splits": {"validation": np.array([0])}}, ["unknown split 'validation'", "val"]),
        ({"splits": {"train": np.array([], int)}}, ["'train'", "no stimuli"]),
        ({"splits": {"train": np.array([4])}}, ["'train'", "below 4"]),
        ({"splits": {"train": np.array([1, 0])}}, ["increasing"]),
        ({"splits": {"train": np.array([0, 1]), "val": np.array([1, 2])}}, ["overlap", "'b'"]),
    ],
)
def test_inconsistent_parts_are_refused_by_name(
    dataset: NeuralDataset, change: dict, words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        replace(dataset, **change)
    assert "greys" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_response_that_is_no_number_names_neuron_and_stimulus(
    dataset: NeuralDataset, bad: float
) -> None:
    responses = dataset.responses.copy()
    responses[2, 1] = bad
    with pytest.raises(DataError, match=r"some\.npy: 1 of 8 .*'n1' to stimulus 'c'"):
        replace(dataset, responses=responses, source="some.npy")


def test_digest_covers_everything_a_score_depends_on_but_not_the_name(
    dataset: NeuralDataset,
) -> None:
    responses, repetitions = dataset.responses.copy(), dataset.repetitions.copy()
    responses[0, 0] = np.nextafter(responses[0, 0], 9)
    repetitions[3, 1, 2] = np.nan
    variants = [
        dataset,
        replace(dataset, responses=responses),
        replace(dataset, repetitions=repetitions),
        replace(dataset, repetitions=None),
        replace(dataset, neuroid_ids=("n0", "n2")),
        replace(dataset, regions=("IT", "IT")),
        replace(dataset, object_names=None),
        replace(dataset, category_names=("o", "o", "p", "p")),
        replace(dataset, splits={}),
    ]
    assert len({variant.responses_digest() for variant in variants}) == len(variants)
    assert replace(dataset, name="other").responses_digest() == dataset.responses_digest()


def test_digest_does_not_depend_on_memory_layout(dataset: NeuralDataset) -> None:
    transposed = np.asfortranarray(dataset.responses)
    assert replace(dataset, responses=transposed).responses_digest() == dataset.responses_digest()


def test_an_unknown_kind_lists_the_known_ones() -> None:
    for function in (load, size_of):
        with pytest.raises(DataError, match=r"nwb.*synthetic, nx414, majaj_hong, xiao2024, files"):
            function("nwb")
    assert set(KINDS) == {"synthetic", "nx414", "majaj_hong", "xiao2024", "files"}


def test_error_class_is_what_the_jobs_record() -> None:
    assert DataError.error_class == "bad_data"
    assert issubclass(DataError, ValueError)


def test_importing_the_room_imports_neither_torch_nor_another_room() -> None:
    code = (
        "import sys, toolkit.data\n"
        "rooms = {m.split('.')[1] for m in sys.modules if m.startswith('toolkit.')}\n"
        "assert rooms == {'data'}, rooms\n"
        "assert 'torch' not in sys.modules and 'zarr' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
