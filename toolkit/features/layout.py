"""How features lie on disk, as arithmetic: blocks, chunks, bytes and files.

A store holds one array per layer, images by features. A *row block* is ``BLOCK_ROWS`` consecutive
images: what is written, recorded, lost and rebuilt together. A chunk is one row block of at most
``MAX_CHUNK_FEATURES`` features, compressed, followed by its CRC32C.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.models import LayerInfo

BLOCK_ROWS = 32
# 32 x 16384 float32 are chunks of 2 MiB: few enough files, and small pieces for a bounded reader.
MAX_CHUNK_FEATURES = 16384
FLOAT32_BYTES = 4
# Header of a Blosc buffer, and the CRC32C after it.
CHUNK_OVERHEAD_BYTES = 16 + 4


def n_blocks(n_stimuli: int) -> int:
    """Row blocks of a store; the last may be only partly filled."""
    return -(-n_stimuli // BLOCK_ROWS)


def rows_of(block: int, n_stimuli: int) -> slice:
    """The rows (stimuli) of a row block."""
    return slice(block * BLOCK_ROWS, min((block + 1) * BLOCK_ROWS, n_stimuli))


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


def aligned_batch_size(batch_size: int) -> int:
    """Images per forward pass: ``batch_size`` rounded down so that batches align with row blocks.

    Below ``BLOCK_ROWS`` the next smaller divisor of it (1, 2, 4, 8, 16), above it the next smaller
    multiple: then an image always meets the same companions, whichever row blocks an interrupted
    extraction has left to do, and its features are the same to the last bit.

    Raises
    ------
    ValueError
        If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; write at least 1")
    if batch_size >= BLOCK_ROWS:
        return batch_size - batch_size % BLOCK_ROWS
    return max(size for size in range(1, batch_size + 1) if BLOCK_ROWS % size == 0)


def predicted_bytes(layers: Iterable[LayerInfo], n_stimuli: int) -> int:
    """Bytes of all chunk files of a finished store, if nothing could be compressed.

    The metadata (ids, provenance) come on top: tens of bytes per image and a few KiB per layer.
    """
    return n_blocks(n_stimuli) * sum(
        chunks_across(layer.n_features)
        * (BLOCK_ROWS * chunk_features(layer.n_features) * FLOAT32_BYTES + CHUNK_OVERHEAD_BYTES)
        for layer in layers
    )


def predicted_files(layers: Iterable[LayerInfo], n_stimuli: int) -> int:
    """Files of a finished store: all chunks, and the metadata of group, ids, progress, layers."""
    group_ids_and_progress = 4
    return group_ids_and_progress + sum(
        1 + n_blocks(n_stimuli) * chunks_across(layer.n_features) for layer in layers
    )
