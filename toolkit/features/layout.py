"""How features lie on disk, as arithmetic: row blocks, chunks, bytes and files.

A store holds one array per layer, images by features. A *row block* is some consecutive images:
what is written, lost and rebuilt together. Each layer has one file per row block, a shard of chunks
of at most ``MAX_CHUNK_FEATURES`` features, each compressed and followed by its CRC32C. Before them
the file says whose it is; readers of Zarr go by the index at its end and pass over that.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from toolkit.models import LayerInfo

MAX_BLOCK_ROWS = 32
MAX_BLOCK_BYTES = 2**29
# 32 x 16384 float32 are 2 MiB: it fits a core's cache while it is encoded, and bounds a reader.
MAX_CHUNK_FEATURES = 16384
# Header of a Blosc buffer and the CRC32C after it; offset, length of a chunk in the shard's index.
CHUNK_OVERHEAD_BYTES = 16 + 4 + 16
OWNER_BYTES = 16
SHARD_OVERHEAD_BYTES = OWNER_BYTES + 4
GRAM_VALUE_BYTES = 8  # Gram matrices are float64
STIMULUS = "stimulus"  # the array of ids, and the name of the rows' dimension
# A file of a layer has its name and some more, which is different while it is written.
MOST_NAME_BYTES = 200


def why_unstorable(name: str) -> str:
    """Why there can be no array, and no file, of a layer's name; empty where there can."""
    if "/" in name or name.startswith("__") or name in ("", ".", "..", "zarr.json", STIMULUS):
        return "a Zarr array cannot be called so"
    if len(name.encode()) > MOST_NAME_BYTES:
        return f"its file would have a name of more than {MOST_NAME_BYTES} bytes"
    return ""


def block_rows(layers: Iterable[LayerInfo], dtype: str = "float32") -> int:
    """Images of a row block: the largest power of two up to 32 whose block takes half a GiB."""
    row_bytes = np.dtype(dtype).itemsize * sum(layer.n_features for layer in layers)
    rows = MAX_BLOCK_ROWS
    while rows > 1 and rows * row_bytes > MAX_BLOCK_BYTES:
        rows //= 2
    return rows


def n_blocks(n_stimuli: int, block_rows: int) -> int:
    """Row blocks of a store; the last may be only partly filled."""
    return -(-n_stimuli // block_rows)


def rows_of(block: int, n_stimuli: int, block_rows: int) -> slice:
    """The rows (stimuli) of a row block."""
    return slice(block * block_rows, min((block + 1) * block_rows, n_stimuli))


@lru_cache
def chunk_features(n_features: int) -> int:
    """Features in a chunk: the widest exact division, or else equal chunks with little padding."""
    if n_features <= MAX_CHUNK_FEATURES:
        return n_features
    for width in range(MAX_CHUNK_FEATURES, MAX_CHUNK_FEATURES // 2, -1):
        if n_features % width == 0:
            return width
    return -(-n_features // -(-n_features // MAX_CHUNK_FEATURES))


def chunks_across(n_features: int) -> int:
    """Chunks that one row block of a layer takes."""
    return -(-n_features // chunk_features(n_features))


def part_of(part: int, n_parts: int, n_blocks: int) -> range:
    """The row blocks of one of several jobs that share a store: equal shares, in order."""
    return range(part * n_blocks // n_parts, (part + 1) * n_blocks // n_parts)


def aligned_batch_size(batch_size: int, block_rows: int) -> int:
    """Images per forward pass: ``batch_size`` rounded down so that batches align with row blocks.

    Below ``block_rows`` the next smaller divisor of it, above it the next smaller multiple: then
    an image always meets the same companions, whichever row blocks an interrupted extraction has
    left to do, and its features are the same to the last bit.

    Raises
    ------
    ValueError
        If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; write at least 1")
    if batch_size >= block_rows:
        return batch_size - batch_size % block_rows
    return max(size for size in range(1, batch_size + 1) if block_rows % size == 0)


def predicted_bytes(
    layers: Iterable[LayerInfo], n_stimuli: int, dtype: str = "float32", n_blocks: int | None = None
) -> int:
    """Bytes of the shards of a store, if nothing could be compressed.

    The metadata (ids, provenance) come on top: tens of bytes per image and a few KiB per layer.

    Parameters
    ----------
    layers, n_stimuli, dtype
        What the store holds.
    n_blocks
        How many row blocks to count; by default all.
    """
    layers = tuple(layers)
    rows = block_rows(layers, dtype)
    value_bytes = np.dtype(dtype).itemsize
    count = -(-n_stimuli // rows) if n_blocks is None else n_blocks
    return count * sum(
        SHARD_OVERHEAD_BYTES
        + chunks_across(layer.n_features)
        * (rows * chunk_features(layer.n_features) * value_bytes + CHUNK_OVERHEAD_BYTES)
        for layer in layers
    )


def predicted_files(layers: Iterable[LayerInfo], n_stimuli: int, dtype: str = "float32") -> int:
    """Files of a finished store: the shards, and the metadata of group, ids and layers."""
    layers = tuple(layers)
    group_and_ids = 3
    return group_and_ids + len(layers) * (1 + n_blocks(n_stimuli, block_rows(layers, dtype)))
