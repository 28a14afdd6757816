"""Where features go while a network runs: to a store on disk, or to memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo

Progress = Callable[[int, int], None]

# Encoded features that may wait for the disk.
_MOST_PENDING_BYTES = 2**29


class Sink(Protocol):
    """Takes features batch by batch."""

    def take(self, layer: str, rows: range, features: torch.Tensor) -> None:
        """Take a layer's features of some images, (len(rows), n_features).

        They are on the network's device and may be overwritten once this returns, in the order of
        the device's stream.
        """

    def finish(self, rows: range) -> None:
        """Learn that all layers of these images have been taken."""


class MemorySink:
    """Keeps features on a device, one tensor (n_stimuli, n_features) per layer.

    Parameters
    ----------
    layers
        As they are kept.
    n_stimuli
        Number of images.
    dtype, device
        Of the tensors.
    """

    def __init__(
        self,
        layers: Sequence[LayerInfo],
        n_stimuli: int,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.features = {
            layer.name: torch.empty((n_stimuli, layer.n_features), dtype=dtype, device=device)
            for layer in layers
        }

    def take(self, layer: str, rows: range, features: torch.Tensor) -> None:
        """Copy."""
        self.features[layer][rows.start : rows.stop].copy_(features)

    def finish(self, rows: range) -> None:
        """Nothing is left to do."""


class StoreSink:
    """Writes features into a store, row block by row block, for as long as ``with`` lasts.

    On the CPU a batch of whole row blocks is encoded where it lies, between two modules of the
    network and by all threads, because encoding beside the network would only make both wait for
    each other; a thread writes the encoded blocks. Otherwise features are copied, from a GPU
    without waiting, into one of two buffers, and the thread encodes and writes the other one.

    Parameters
    ----------
    store
        Where features go.
    span_rows
        Images of a buffer: a whole number of row blocks.
    blocks
        Row blocks to write; features of other images are dropped.
    device
        Where features come from.
    n_threads
        Threads that encode.
    progress
        Called from the writing thread as ``progress(images_written, images_in_all)`` after each
        row block. What it raises ends the extraction.
    """

    def __init__(
        self,
        store: FeatureStore,
        span_rows: int,
        blocks: Sequence[int],
        device: torch.device,
        n_threads: int,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._span_rows = span_rows
        self._missing = frozenset(blocks)
        self._device = device
        self._progress = progress
        self._n_written = store.n_stimuli - store.n_rows(blocks)
        self._buffers: list[dict[str, torch.Tensor]] = [{}, {}]
        self._turn = 0
        self._buffered: set[int] = set()
        self._encoders = ThreadPoolExecutor(n_threads, "encoder")
        self._writer = _Writer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._writer.close()
        except BaseException:
            if error is None:
                raise
        finally:
            self._encoders.shutdown()

    def take(self, layer: str, rows: range, features: torch.Tensor) -> None:
        """Encode at once, or copy into the buffer."""
        if features.device.type == "cpu" and self._are_whole_blocks(rows):
            self._encode_here(layer, rows, features.numpy())
            return
        span = self._span_of(rows)
        buffer = self._buffers[self._turn]
        if layer not in buffer:
            shape = (self._span_rows, features.shape[1])
            pinned = self._device.type == "cuda"
            buffer[layer] = torch.empty(shape, dtype=features.dtype, pin_memory=pinned)
        target = buffer[layer][rows.start - span.start : rows.stop - span.start]
        target.copy_(features, non_blocking=True)
        self._buffered.update(self._blocks_of(rows))

    def finish(self, rows: range) -> None:
        """Hand a full buffer to the writer, once it has written the other one."""
        span = self._span_of(rows)
        if not self._buffered:
            self._writer.submit(partial(self._report, rows))
        elif rows.stop == span.stop:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            self._writer.drain()
            buffer = self._buffers[self._turn]
            self._writer.submit(partial(self._write_buffer, span, buffer, self._buffered))
            self._turn, self._buffered = 1 - self._turn, set()

    def _are_whole_blocks(self, rows: range) -> bool:
        size = self._store.block_rows
        ends = rows.stop % size == 0 or rows.stop == self._store.n_stimuli
        return rows.start % size == 0 and ends

    def _span_of(self, rows: range) -> range:
        start = rows.start - rows.start % self._span_rows
        return range(start, min(start + self._span_rows, self._store.n_stimuli))

    def _blocks_of(self, rows: range) -> list[int]:
        size = self._store.block_rows
        blocks = range(rows.start // size, -(-rows.stop // size))
        return [block for block in blocks if block in self._missing]

    def _block_values(
        self, rows: range, values: NDArray[np.floating], blocks: Iterable[int]
    ) -> Iterator[tuple[int, NDArray[np.floating]]]:
        for block in blocks:
            where = self._store.rows(block)
            yield block, values[where.start - rows.start : where.stop - rows.start]

    def _encode_here(self, layer: str, rows: range, values: NDArray[np.floating]) -> None:
        for block, part in self._block_values(rows, values, self._blocks_of(rows)):
            shard = self._store.encode_layer(block, layer, part, self._encoders)
            write = partial(self._store.write_shard, block, layer, shard)
            self._writer.submit(write, shard.n_bytes)

    def _write_buffer(
        self, span: range, buffer: dict[str, torch.Tensor], blocks: Iterable[int]
    ) -> None:
        for layer, features in buffer.items():
            for block, part in self._block_values(span, features.numpy(), blocks):
                self._store.write_layer(block, layer, part, self._encoders)
        self._report(span)

    def _report(self, rows: range) -> None:
        for block in self._blocks_of(rows):
            self._n_written += self._store.n_rows([block])
            if self._progress:
                self._progress(self._n_written, self._store.n_stimuli)


class _Writer:
    """One thread that does things in order; after one has failed, no more."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "feature-writer")
        self._pending: deque[tuple[Future[None], int]] = deque()
        self._stopped = False

    def submit(self, work: Callable[[], None], n_bytes: int = 0) -> None:
        """Have it done; wait as long as too many bytes are held by what has not been done yet.

        Raises what an earlier work raised.
        """
        self._pending.append((self._pool.submit(self._do, work), n_bytes))
        while sum(size for _, size in self._pending) > _MOST_PENDING_BYTES:
            self._pending.popleft()[0].result()
        while self._pending and self._pending[0][0].done():
            self._pending.popleft()[0].result()

    def drain(self) -> None:
        """Wait until all is done."""
        while self._pending:
            self._pending.popleft()[0].result()

    def close(self) -> None:
        """End the thread, after all is done."""
        try:
            self.drain()
        finally:
            self._pool.shutdown()

    def _do(self, work: Callable[[], None]) -> None:
        if not self._stopped:
            try:
                work()
            except BaseException:
                self._stopped = True
                raise
