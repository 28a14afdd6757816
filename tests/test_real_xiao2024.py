"""A real free-viewing session: 35 units of macaque V1, 855 presentations of 300 images."""

import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from toolkit.data import NeuralDataset, load
from toolkit.data.nwb import read_session
from toolkit.metrics import split_half_ceiling

SESSION = "sub-An_ses-20220105T173929"


@pytest.fixture(scope="module")
def path(shared_data: Path) -> Path:
    path = shared_data / "xiao2024" / f"{SESSION}.nwb"
    if not path.is_file():
        pytest.skip("the real session is not there")
    return path


@pytest.fixture(scope="module")
def evoked(path: Path) -> NeuralDataset:
    return load("xiao2024", sessions=path, region="V1")


def ceiling(dataset: NeuralDataset, random_state: int = 1) -> float:
    """Median over units, mean over halvings."""
    halvings = split_half_ceiling(dataset.repetitions, random_state=random_state)
    return float(np.median(halvings, axis=1).mean())


def shuffled(dataset: NeuralDataset, seed: int) -> np.ndarray:
    """The same presentations under image labels drawn anew: (n_images, n_units, n_repetitions)."""
    [timeline] = dataset.timelines
    repetitions = np.full(dataset.repetitions.shape, np.nan, dtype=np.float32)
    presented = np.argwhere(~np.isnan(dataset.repetitions[:, 0]))
    places = np.random.default_rng(seed).permutation(presented)
    repetitions[places[:, 0], :, places[:, 1]] = timeline.responses
    return repetitions


def test_shapes_counts_and_clock(path: Path, evoked: NeuralDataset) -> None:
    session = read_session(path)
    assert session.raster.bin_s == 0.001
    assert session.raster.stop_s == pytest.approx(3383.185)
    assert len(session.presentations.image) == 855
    assert evoked.responses.shape == (300, 35)
    assert evoked.repetitions.shape == (300, 35, 3)  # the fourth time of any image was an error
    assert evoked.dropped == {"error code": 17}
    n_presented = np.sum(~np.isnan(evoked.repetitions[:, 0]), axis=1)
    assert n_presented.sum() == 838
    assert np.unique(n_presented).tolist() == [2, 3]
    assert evoked.visual_degrees == pytest.approx(941 / 35.63, abs=0.01)


def test_responses_equal_a_loop_over_presentations(path: Path, evoked: NeuralDataset) -> None:
    with h5py.File(path) as file, h5py.File(path.with_name(f"{SESSION}_image.nwb")) as images:
        raster = file["processing/ecephys/rasters/data"][()]
        shown = images["stimulus/presentation/presentations/data"][()]
        onsets = images["intervals/presentations/start_time"][()]
        trials = images["intervals/presentations/trial_id"][()]
        errors = images["intervals/trials/error_code"][()]
        names = images["stimulus/templates/stimuli/external_file"][()]
    total, count = np.zeros((300, 35)), np.zeros(300)
    for image, onset, trial in zip(shown, onsets, trials, strict=True):
        if errors[trial] == 0:
            first = round(onset * 1000) + 70
            total[image] += raster[first : first + 100].sum(axis=0)
            count[image] += 1
    order = np.argsort([name.decode() for name in names])
    expected = (total / count[:, None] / 0.1)[order]
    np.testing.assert_allclose(evoked.responses, expected, rtol=1e-6)


def test_the_ceiling_is_that_of_the_images(path: Path, evoked: NeuralDataset) -> None:
    """.186 to .199, against -.001 to .003 before onset and -.022 to .030 for shuffled labels."""
    before = load("xiao2024", sessions=path, window_ms=(-100, 0))
    for random_state in (1, 2, 3):
        assert ceiling(evoked, random_state) > 0.15
        assert abs(ceiling(before, random_state)) < 0.05
    chance = np.stack([split_half_ceiling(shuffled(evoked, seed)) for seed in range(10)])
    assert np.abs(np.median(chance, axis=2).mean(axis=1)).max() < 0.06
    of_unit = split_half_ceiling(evoked.repetitions).mean(axis=0)
    assert np.sum(of_unit > chance.mean(axis=1).max(axis=0)) > 17


def test_fixations_of_the_real_session(path: Path) -> None:
    dataset = load("xiao2024", sessions=path, align="fixation")
    assert sum(dataset.dropped.values()) + len(dataset.stimuli) == 6433
    assert len(dataset.stimuli) > 1000
    assert len(set(dataset.object_names)) > 290


def test_describe_says_it(path: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = [sys.executable, "-m", "toolkit.data", "describe", str(path), "--html", str(page)]
    done = subprocess.run(
        [*words, "--set", "region=V1"], capture_output=True, text=True, check=True
    )
    assert "17 of 855: 17 error code" in done.stdout
    assert "62 × 2, 238 × 3" in done.stdout
    found = re.search(rf"{SESSION}/21 +V1 +(\S+) ", done.stdout)
    assert found is not None
    assert 0.3 < float(found[1]) < 0.6
    assert page.stat().st_size < 1e6
