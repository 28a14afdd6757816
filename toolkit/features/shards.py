"""One file of a feature store: a row block of one layer, as a Zarr v3 shard.

zarr-python and zarrs write the same bytes more slowly: they need the block in one padded array
and encode it while they hold it. Both read these files.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from toolkit.atomic import atomic_path

# Chosen by measurement: see "Feature store" in docs/performance.md. Bytes are shuffled where half
# of them are zero (float32 numbers rounded to bfloat16); elsewhere that only takes time.
CODEC, LEVEL = "lz4", 1
_HALF_INFINITY_BITS = 0x7C00
_SHUFFLES = {"noshuffle": 0, "shuffle": 1}

blosc.use_threads = False  # chunks are encoded side by side, each on its thread


class NotFiniteError(ValueError):
    """A chunk holds NaN or infinity."""


@dataclass(frozen=True)
class Shard:
    """The content of one file.

    Parameters
    ----------
    parts
        Whose they are, chunks with their checksums, and at last the index.
    """

    parts: Sequence[bytes]

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return sum(map(len, self.parts))

    def write(self, path: Path) -> None:
        """Make the file appear whole.

        Raises
        ------
        OSError
            If the disk refuses; nothing is left behind.
        """
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            file.writelines(self.parts)


def encode_shard(
    values: NDArray[np.floating],
    *,
    owner: bytes,
    block_rows: int,
    chunk_features: int,
    shuffle: str,
    pool: Executor,
) -> Shard:
    """Encode one row block of a layer; ``values`` are no longer needed once this returns.

    Parameters
    ----------
    values
        (rows, n_features), float32 or float16, as they are stored; fewer rows than ``block_rows``
        are filled up with NaN.
    owner
        Whose they are: what the file begins with.
    block_rows, chunk_features
        Shape of a chunk.
    shuffle
        "noshuffle" or "shuffle", as the store's metadata say.
    pool
        Threads that encode the chunks, one task per chunk.

    Raises
    ------
    NotFiniteError
        If a value is NaN or infinite.
    """
    starts = range(0, values.shape[1], chunk_features)
    futures = [
        pool.submit(
            _encoded,
            values[:, start : start + chunk_features],
            (block_rows, chunk_features),
            _SHUFFLES[shuffle],
        )
        for start in starts
    ]
    wait(futures)
    chunks = [future.result() for future in futures]
    lengths = np.array([len(buffer) + len(checksum) for buffer, checksum in chunks])
    starts_in_file = len(owner) + np.cumsum(lengths) - lengths
    index = np.stack([starts_in_file, lengths], axis=1).astype("<u8").tobytes()
    return Shard([owner, *(part for chunk in chunks for part in chunk), index, _crc32c(index)])


def _encoded(
    values: NDArray[np.floating], shape: tuple[int, int], shuffle: int
) -> tuple[bytes, bytes]:
    """A Blosc buffer of a chunk, and its checksum."""
    chunk = np.empty(shape, values.dtype)
    if values.shape != shape:
        chunk.fill(np.nan)
    filled = chunk[: values.shape[0], : values.shape[1]]
    filled[:] = values
    if not _is_finite(filled):
        raise NotFiniteError
    buffer = blosc.compress(chunk, CODEC.encode(), LEVEL, shuffle)
    return buffer, _crc32c(buffer)


def _is_finite(values: NDArray[np.floating]) -> bool:
    """Whether all values are finite, several times as fast as ``np.isfinite`` where they are."""
    if values.dtype == np.float16:  # whose sums NumPy computes number by number
        return bool((values.view(np.uint16) & 0x7FFF).max() < _HALF_INFINITY_BITS)
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum tells, unless finite values overflow it.
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def _crc32c(data: bytes) -> bytes:
    return struct.pack("<I", google_crc32c.value(data))
