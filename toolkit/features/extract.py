"""Images through a network, the features of all layers in one forward pass."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from toolkit.data import Stimuli
from toolkit.features import layout
from toolkit.features.allocator import keep_freed_memory
from toolkit.features.creation import stored
from toolkit.features.errors import FeatureError
from toolkit.features.forms import FeatureForm
from toolkit.features.hooks import LayerHooks
from toolkit.features.preparation import prepared
from toolkit.features.reduction import reducer
from toolkit.features.sinks import MemorySink, Progress, Sink, StoreSink
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo, Network, Preprocessing

_log = logging.getLogger("toolkit")

# Batches decoded ahead of the forward pass.
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class ForwardOptions:
    """How the forward pass runs.

    Parameters
    ----------
    device
        Where.
    batch_size
        Images per forward pass, rounded down by
        :func:`toolkit.features.layout.aligned_batch_size`; it changes rounding only. Halved for
        good whenever the GPU runs out of memory.
    autocast
        "bfloat16" or "float16": arithmetic in that precision where torch deems it safe, which
        changes the features; None for float32.
    compiles
        Whether ``torch.compile`` compiles the parts of the network between the layers.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 32
    autocast: str | None = None
    compiles: bool = False


WHOLE = FeatureForm()
ON_CPU = ForwardOptions()


def extract(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[LayerInfo],
    store: FeatureStore,
    *,
    form: FeatureForm = WHOLE,
    options: ForwardOptions = ON_CPU,
    blocks: Iterable[int] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the features of the row blocks that the store lacks.

    All layers come from one forward pass per batch, while ``torch.get_num_threads()`` threads
    decode the next batches. An extraction that was stopped at any moment goes on where it was, with
    the same bits in the store as one that was not, given the same batch size, device and library
    versions; a finished one does nothing.

    Memory does not grow with the number of images: beside the forward pass, one encoded row block
    of a layer, and up to 512 MiB of encoded features that wait for the disk; where features are
    buffered (on a GPU, or where a batch is smaller than a row block), two buffers of
    max(row block, batch) x all features; and the images of four batches.

    Parameters
    ----------
    network
        Module in evaluation mode and its preprocessing. The module is moved to the device.
    stimuli
        The store's stimuli. Several threads read them at once.
    layers
        As the network gives them; the store holds them as ``form`` keeps them.
    store
        Where the features go.
    form
        What is kept of each layer.
    options
        How the forward pass runs.
    blocks
        Row blocks to look after; by default all. Other processes may write others.
    progress
        Called as ``progress(images_done, images_in_all)`` after each row block is written; what it
        raises ends the extraction.

    Raises
    ------
    FeatureError
        If stimuli or layers are not the store's; if a layer does not run or gives no tensor of its
        shape; if a feature is NaN or infinite.
    FeatureStorageError
        If the disk has no room for the features, or refuses them.
    toolkit.data.DataError
        If an image cannot be read; a note names the stimulus.
    """
    _require_same_content(stimuli, [form.of_layer(layer) for layer in layers], store)
    missing = store.missing_blocks()
    if blocks is not None:
        missing = sorted(set(missing) & set(blocks))
    if not missing:
        return
    store.remove_leftovers(missing)
    store.require_space(missing)
    batch_size = layout.aligned_batch_size(options.batch_size, store.block_rows)
    span_rows = max(batch_size, store.block_rows)
    with StoreSink(
        store, span_rows, missing, options.device, torch.get_num_threads(), progress
    ) as sink:
        batches = _batches(missing, batch_size, store.block_rows, store.n_stimuli)
        _run(network, stimuli, layers, batches, sink, form, options)


def extract_to_memory(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[LayerInfo],
    *,
    form: FeatureForm = WHOLE,
    options: ForwardOptions = ON_CPU,
    progress: Progress | None = None,
) -> dict[str, torch.Tensor]:
    """Features of all stimuli, one tensor (n_stimuli, n_features) per layer, on the device.

    Parameters, errors
        As :func:`extract`.
    """
    n_stimuli = len(stimuli)
    dtype = torch.float16 if form.dtype == "float16" else torch.float32
    sink = MemorySink([form.of_layer(x) for x in layers], n_stimuli, dtype, options.device)
    batches = [
        range(start, min(start + options.batch_size, n_stimuli))
        for start in range(0, n_stimuli, options.batch_size)
    ]
    _run(network, stimuli, layers, batches, sink, form, options, progress)
    return sink.features


def _run(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[LayerInfo],
    batches: Sequence[range],
    sink: Sink,
    form: FeatureForm,
    options: ForwardOptions,
    progress: Progress | None = None,
) -> None:
    device = options.device
    if device.type == "cpu":
        keep_freed_memory()
    module = prepared(network.module, layers, device, compiles=options.compiles)
    reduce = {layer.name: reducer(layer, form) for layer in layers}
    images = _load(stimuli, network.preprocessing, batches, pinned=device.type == "cuda")
    autocast: Any = nullcontext()
    if options.autocast:
        autocast = torch.autocast(device.type, getattr(torch, options.autocast))
    with torch.inference_mode(), autocast, closing(images), LayerHooks(module, layers) as hooks:
        forward = _Forward(hooks, sink, reduce, device, max(len(rows) for rows in batches))
        for rows, batch in zip(batches, images, strict=True):
            forward(rows, batch)
            sink.finish(rows)
            if progress:
                progress(rows.stop, len(stimuli))


class _Forward:
    """Forward passes of at most ``most_images``, which halves when the GPU runs out of memory."""

    def __init__(
        self,
        hooks: LayerHooks,
        sink: Sink,
        reduce: dict[str, Callable[[torch.Tensor], torch.Tensor]],
        device: torch.device,
        most_images: int,
    ) -> None:
        self._hooks = hooks
        self._sink = sink
        self._reduce = reduce
        self._device = device
        self._most_images = most_images

    def __call__(self, rows: range, images: torch.Tensor) -> None:
        while len(rows):
            some = rows[: self._most_images]
            try:
                self._pass(some, images[: len(some)])
            except torch.OutOfMemoryError:
                if self._most_images == 1:
                    raise
                self._most_images = max(1, min(self._most_images, len(some)) // 2)
                torch.cuda.empty_cache()
                _log.warning("out of GPU memory: batches of %d from now on", self._most_images)
                continue
            rows, images = rows[len(some) :], images[len(some) :]

    def _pass(self, rows: range, images: torch.Tensor) -> None:
        def deliver(layer: LayerInfo, output: torch.Tensor) -> None:
            self._sink.take(layer.name, rows, self._reduce[layer.name](output))

        try:
            self._hooks.forward(images.to(self._device, non_blocking=True), deliver)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            if not hasattr(error, "error_class") and not isinstance(error, torch.OutOfMemoryError):
                size = "x".join(map(str, images.shape[2:]))
                error.add_note(f"in the forward pass over images of {size} px")
            raise


def _require_same_content(stimuli: Stimuli, kept: Sequence[LayerInfo], store: FeatureStore) -> None:
    if tuple(stimuli.ids) != store.stimulus_ids:
        raise FeatureError(f"the stimuli are not those that {store.path} was created for")
    if stored(kept) != store.layers:
        raise FeatureError(
            f"layers {[layer.name for layer in kept]} are not those that {store.path} was "
            f"created for: {list(store.layer_names)}"
        )


def _batches(
    missing: Sequence[int], batch_size: int, block_rows: int, n_stimuli: int
) -> list[range]:
    """Batches that cover the missing row blocks; every batch starts at a multiple of its size.

    A batch of several row blocks is computed whole even if only one of them is missing.
    """
    span_rows = max(batch_size, block_rows)
    spans = sorted({block * block_rows // span_rows * span_rows for block in missing})
    return [
        range(start, min(start + batch_size, n_stimuli))
        for span in spans
        for start in range(span, min(span + span_rows, n_stimuli), batch_size)
    ]


def _load(
    stimuli: Stimuli, preprocessing: Preprocessing, batches: Iterable[range], *, pinned: bool
) -> Generator[torch.Tensor]:
    """Preprocessed batches in order, decoded by threads a bounded number of batches ahead."""

    def load_image(row: int) -> torch.Tensor:
        try:
            return preprocessing(stimuli[row], stimuli.framed)
        except Exception as error:
            error.add_note(f"while loading stimulus {stimuli.ids[row]!r}")
            raise

    def stacked(images: Sequence[Future[torch.Tensor]]) -> torch.Tensor:
        batch = torch.stack([image.result() for image in images])
        return batch.pin_memory() if pinned else batch

    ahead: deque[list[Future[torch.Tensor]]] = deque()
    # Torch would give each of these threads as many more for its own use.
    pool = ThreadPoolExecutor(
        torch.get_num_threads(), "image-loader", initializer=torch.set_num_threads, initargs=(1,)
    )
    try:
        for rows in batches:
            ahead.append([pool.submit(load_image, row) for row in rows])
            if len(ahead) > _BATCHES_AHEAD:
                yield stacked(ahead.popleft())
        while ahead:
            yield stacked(ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
