"""Spike rasters: counts in windows, read in pieces whatever the length of the recording."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from toolkit.data.errors import DataError
from toolkit.data.hdf5 import open_hdf5, require_dataset, texts

_RASTERS = "processing/ecephys/rasters"
_UNIT_NAMES = "processing/ecephys/unit_names/unit_name"
# Bytes of the raster read at a time, and of a single chunk of the file (which HDF5 decompresses
# whole).
_BLOCK_BYTES = 64 * 2**20
_LARGEST_CHUNK_BYTES = 256 * 2**20
_GATHER_BYTES = 32 * 2**20
# Rates over 100 ms windows need bins that are not wider than them.
_WIDEST_BIN_S = 0.1
# A recording may go on after the last image, but not for several times the session.
_LONGEST_OVERHANG = 5.0


@dataclass(frozen=True)
class Raster:
    """Spike counts in bins of time, (n_bins, n_units), on disk.

    Parameters
    ----------
    path
        The NWB file.
    unit_names
        Name of each unit.
    bin_s, start_s
        Width of a bin and start of the first, seconds.
    n_bins
        Number of bins.
    """

    path: Path
    unit_names: tuple[str, ...]
    bin_s: float
    start_s: float
    n_bins: int

    @property
    def stop_s(self) -> float:
        """End of the recording, seconds."""
        return self.start_s + self.n_bins * self.bin_s

    def bins_in(self, duration_s: float) -> int:
        """Return how many bins a duration has.

        Raises
        ------
        DataError
            If it is not a whole number, at least one.
        """
        n = duration_s / self.bin_s
        if round(n) < 1 or abs(n - round(n)) > 1e-6 * n:
            raise DataError(
                f"{self.path}: a window of {duration_s * 1e3:g} ms is not a whole number of its "
                f"bins of {self.bin_s * 1e3:g} ms"
            )
        return round(n)

    def first_bins(self, start_s: np.ndarray) -> np.ndarray:
        """Index of the bin that starts nearest to each time; may lie outside the recording."""
        return np.round((start_s - self.start_s) / self.bin_s).astype(np.int64)

    def counts(self, first_bins: np.ndarray, n_bins: int) -> np.ndarray:
        """Spikes of each unit in windows of ``n_bins`` bins.

        The file is read in pieces of 64 MiB, or of one chunk of the file where that is more.

        Parameters
        ----------
        first_bins
            (n_windows,) first bin of each window, all of it inside the recording.
        n_bins
            Length of a window.

        Returns
        -------
        int64 (n_windows, n_units).

        Raises
        ------
        DataError
            If a window reaches outside the recording, or the file is laid out in chunks too large
            to be decompressed.
        """
        if (
            len(first_bins)
            and not 0 <= first_bins.min() <= first_bins.max() <= self.n_bins - n_bins
        ):
            raise DataError(f"{self.path}: a window reaches outside the recording")
        counts = np.zeros((len(first_bins), len(self.unit_names)), dtype=np.int64)
        with open_hdf5(self.path) as file:
            data = file[f"{_RASTERS}/data"]
            for bins, units in _blocks(data, self.path):
                inside = np.flatnonzero(
                    (first_bins < bins.stop) & (first_bins + n_bins > bins.start)
                )
                if len(inside):
                    block = data[bins, units]
                    counts[inside, units] += _sum_windows(
                        block, first_bins[inside] - bins.start, n_bins
                    )
        return counts


def read_raster(path: Path, onsets_s: np.ndarray) -> Raster:
    """Read what describes a raster.

    Parameters
    ----------
    path
        NWB file with ``processing/ecephys/rasters`` and ``unit_names``.
    onsets_s
        When images were shown; tells which reading of the attribute ``rate`` is right.

    Raises
    ------
    DataError
        If something is missing or does not fit together, or ``rate`` makes no sense.
    """
    with open_hdf5(path) as file:
        data = require_dataset(file, path, f"{_RASTERS}/data")
        starting_time = require_dataset(file, path, f"{_RASTERS}/starting_time")
        unit_names = texts(require_dataset(file, path, _UNIT_NAMES))
        if data.ndim != 2 or data.shape[1] != len(unit_names) or data.dtype.kind not in "biu":
            raise DataError(
                f"{path}: {_RASTERS}/data is {data.dtype} of shape {data.shape}, expected whole "
                f"numbers, (time bins, {len(unit_names)} units)"
            )
        if "rate" not in starting_time.attrs:
            raise DataError(f"{path}: {_RASTERS}/starting_time has no attribute rate")
        rate, start_s = float(starting_time.attrs["rate"]), float(starting_time[()])
        n_bins = data.shape[0]
    return Raster(
        path, unit_names, bin_width_s(rate, n_bins, start_s, onsets_s, path), start_s, n_bins
    )


def bin_width_s(
    rate: float, n_bins: int, start_s: float, onsets_s: np.ndarray, path: Path
) -> float:
    """Width of a bin from the attribute ``rate``, whether that is in Hz or is itself the width.

    NWB's ``rate`` is a sampling rate in Hz, but Xiao et al. (2024) wrote the width of a bin, 0.001
    s, into it. The reading is right with which the recording holds the presentations.

    Parameters
    ----------
    rate
        The attribute.
    n_bins, start_s
        Length of the raster and time of its first bin.
    onsets_s
        When images were shown, seconds.
    path
        The file, for messages.

    Raises
    ------
    DataError
        If neither reading makes sense.
    """
    readings = [rate, 1 / rate] if np.isfinite(rate) and rate > 0 else []
    for width_s in readings:
        stop_s = start_s + n_bins * width_s
        holds_most = np.median(onsets_s) < stop_s < _LONGEST_OVERHANG * onsets_s.max()
        if width_s <= _WIDEST_BIN_S and holds_most:
            return width_s
    lasts = " or ".join(f"{n_bins * width_s:g} s in bins of {width_s:g} s" for width_s in readings)
    raise DataError(
        f"{path}: {_RASTERS}/starting_time has rate {rate:g}, which makes sense neither as a bin "
        f"width in seconds nor in Hz: the recording would last {lasts or 'no time'}; images were "
        f"shown until {onsets_s.max():g} s, and bins wider than {_WIDEST_BIN_S:g} s are of no use"
    )


def _blocks(data: h5py.Dataset, path: Path) -> Iterator[tuple[slice, slice]]:
    """Whole chunks that fit into a block together, as slices of bins and units."""
    n_bins, n_units = data.shape
    chunk_bins, chunk_units = data.chunks or (1, n_units)
    chunk_bytes = chunk_bins * chunk_units * data.dtype.itemsize
    if chunk_bytes > _LARGEST_CHUNK_BYTES:
        raise DataError(
            f"{path}: {_RASTERS}/data is stored in chunks of {data.chunks}, {chunk_bytes} bytes "
            f"each; write it in chunks of at most {_LARGEST_CHUNK_BYTES} bytes (h5repack does)"
        )
    n_chunks = max(1, _BLOCK_BYTES // chunk_bytes)
    units_step = min(n_units, chunk_units * n_chunks)
    bins_step = chunk_bins * max(1, n_chunks // -(-units_step // chunk_units))
    for unit in range(0, n_units, units_step):
        for first in range(0, n_bins, bins_step):
            yield (
                slice(first, min(first + bins_step, n_bins)),
                slice(unit, min(unit + units_step, n_units)),
            )


def _sum_windows(block: np.ndarray, first: np.ndarray, n_bins: int) -> np.ndarray:
    """Sums over windows that may begin before the block or end after it, (n_windows, n_units)."""
    sums = np.empty((len(first), block.shape[1]), dtype=np.int64)
    step = max(1, _GATHER_BYTES // (n_bins * block.shape[1] * block.itemsize))
    for start in range(0, len(first), step):
        rows = first[start : start + step, None] + np.arange(n_bins)
        picked = block[np.clip(rows, 0, len(block) - 1)]
        picked[(rows < 0) | (rows >= len(block))] = 0
        sums[start : start + step] = picked.sum(axis=1, dtype=np.int64)
    return sums
