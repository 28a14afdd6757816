"""Spike counts in windows against a loop over windows, and the attribute that is not a rate."""

import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import SyntheticSession

from toolkit.data.errors import DataError
from toolkit.data.nwb import read_session
from toolkit.data.rasters import Raster, bin_width_s

N_BINS, N_UNITS = 5000, 7


def write(path: Path, values: np.ndarray, **layout) -> Raster:
    with h5py.File(path, "w") as file:
        file.create_dataset("processing/ecephys/rasters/data", data=values, **layout)
    names = tuple(map(str, range(values.shape[1])))
    return Raster(path, names, bin_s=0.001, start_s=0.0, n_bins=len(values))


def by_loop(values: np.ndarray, first: np.ndarray, n_bins: int) -> np.ndarray:
    return np.array([values[f : f + n_bins].sum(axis=0, dtype=int) for f in first]).reshape(
        len(first), values.shape[1]
    )


LAYOUTS = {
    "contiguous": {},
    "a unit in a chunk": {"chunks": (N_BINS, 1), "compression": "gzip"},
    "all units in a chunk": {"chunks": (64, N_UNITS)},
    "odd chunks": {"chunks": (1000, 3), "compression": "gzip"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block_bytes", [1, 3000, 2**26])
def test_counts_equal_a_loop_in_every_layout(tmp_path, monkeypatch, layout, block_bytes) -> None:
    monkeypatch.setattr("toolkit.data.rasters._BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("toolkit.data.rasters._GATHER_BYTES", 2000)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (N_BINS, N_UNITS), dtype=np.uint8)
    raster = write(tmp_path / "r.nwb", values, **LAYOUTS[layout])
    first = np.sort(np.r_[0, 0, N_BINS - 100, rng.integers(0, N_BINS - 100, 50)])
    np.testing.assert_array_equal(raster.counts(first, 100), by_loop(values, first, 100))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_counts_equal_a_loop_whatever_the_windows(tmp_path_factory, data) -> None:
    n_bins = data.draw(st.integers(1, 60))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    values = rng.integers(0, 3, (200, 2), dtype=np.uint8)
    chunk_bins = data.draw(st.integers(1, 200))
    raster = write(tmp_path_factory.mktemp("r") / "r.nwb", values, chunks=(chunk_bins, 1))
    first = np.array(data.draw(st.lists(st.integers(0, 200 - n_bins), max_size=8)), dtype=int)
    np.testing.assert_array_equal(raster.counts(first, n_bins), by_loop(values, first, n_bins))


def test_windows_outside_the_recording_are_refused(tmp_path) -> None:
    raster = write(tmp_path / "r.nwb", np.zeros((100, 2), np.uint8))
    for first in (-1, 91):
        with pytest.raises(DataError, match="outside the recording"):
            raster.counts(np.array([5, first]), 10)


def test_a_window_is_a_whole_number_of_bins(tmp_path) -> None:
    raster = write(tmp_path / "r.nwb", np.zeros((100, 2), np.uint8))
    assert raster.bins_in(0.1) == 100
    for duration_s in (0.0105, 0.0004):
        with pytest.raises(DataError, match="not a whole number of its bins of 1 ms"):
            raster.bins_in(duration_s)


def test_a_chunk_too_large_to_decompress_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("toolkit.data.rasters._LARGEST_CHUNK_BYTES", 100)
    raster = write(tmp_path / "r.nwb", np.zeros((100, 2), np.uint8), chunks=(100, 2))
    with pytest.raises(DataError, match=r"chunks of \(100, 2\), 200 bytes each"):
        raster.counts(np.array([5]), 10)


ONSETS_S = np.linspace(5, 3374, 855)


@pytest.mark.parametrize(
    ("rate", "width_s"), [(0.001, 0.001), (1000.0, 0.001), (0.002, 0.002), (500.0, 0.002)]
)
def test_rate_is_a_width_or_in_hertz(rate: float, width_s: float) -> None:
    assert bin_width_s(rate, 3_383_185, 0.0, ONSETS_S, Path("x.nwb")) == pytest.approx(width_s)


@pytest.mark.parametrize("rate", [1.0, 30.0, 1e-6, 1e6, 0.01, 0.0, -0.001, np.nan, np.inf])
def test_a_rate_that_makes_no_sense_either_way_is_refused(tmp_path: Path, rate: float) -> None:
    with pytest.raises(DataError, match="neither as a bin width in seconds nor in Hz"):
        bin_width_s(rate, 3_383_185, 0.0, ONSETS_S, Path("x.nwb"))
    session = SyntheticSession(rate=rate)
    with pytest.raises(DataError, match=r"sub-An.*\.nwb: .*rate .* neither"):
        read_session(session.write(tmp_path))


@pytest.mark.parametrize("rate", [0.001, 1000.0])
def test_both_spellings_give_the_same_session(tmp_path: Path, rate: float) -> None:
    raster = read_session(SyntheticSession(rate=rate).write(tmp_path)).raster
    assert raster.bin_s == pytest.approx(0.001)
    assert raster.stop_s == pytest.approx(raster.n_bins * 0.001)


PEAK = """
import sys
from toolkit.data import load
dataset = load("xiao2024", sessions=sys.argv[1])
assert dataset.responses.shape == (300, 40)
print(dataset.responses[:, 7].sum(), dataset.responses[:, 39].sum(), dataset.dropped)
# Unlike getrusage's, this peak does not begin at the size of the process that forked.
status = open("/proc/self/status").read().split()
print(int(status[status.index("VmHWM:") + 1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("chunks", [(100_000_000, 1), (2_000_000, 40)])
def test_a_session_of_4_gb_is_loaded_within_1_gib(tmp_path: Path, chunks) -> None:
    """28 hours of 40 units; every chunk is in the file, compressed, and is read."""
    n_bins, n_units = 100_000_000, 40
    session = SyntheticSession(n_images=300, n_presentations=2000, n_units=1)
    session.onset_s = session.onset_s * 33  # 2 s to 27.5 h
    session.offset_s = session.onset_s + 0.8
    session.unit_names = [str(i + 1) for i in range(n_units)]
    path = session.write(tmp_path)
    chunk = np.zeros(chunks, np.uint8)
    chunk[::1000] = 1  # a spike of every unit in every second: 10 in 100 ms once in ten times
    packed = zlib.compress(chunk, 1)
    with h5py.File(path, "a") as file:
        del file["processing/ecephys/rasters/data"]
        data = file.create_dataset(
            "processing/ecephys/rasters/data",
            (n_bins, n_units),
            np.uint8,
            chunks=chunks,
            compression="gzip",
        )
        for first in range(0, n_bins, chunks[0]):
            for unit in range(0, n_units, chunks[1]):
                data.id.write_direct_chunk((first, unit), packed)
        assert data.id.get_num_chunks() == -(-n_bins // chunks[0]) * (n_units // chunks[1])
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    responses, peak_bytes = done.stdout.splitlines()
    first = np.round((session.onset_s + 0.07) * 1000).astype(int)
    counts = (first + 99) // 1000 - (first - 1) // 1000  # multiples of 1000 in a window
    expected = sum(10 * counts[session.image == image].mean() for image in range(300))
    of_unit_7, of_unit_39 = map(float, responses.split()[:2])
    assert of_unit_7 == of_unit_39 == pytest.approx(expected)
    assert responses.endswith("{}")
    assert int(peak_bytes) < 2**30
