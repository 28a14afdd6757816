"""Images through a network into a feature store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import torch

from toolkit.data import Stimuli
from toolkit.features import layout
from toolkit.features.creation import stored
from toolkit.features.errors import FeatureError
from toolkit.features.hooks import LayerHooks
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo, Network, Preprocessing

# Batches decoded ahead of the forward pass.
_BATCHES_AHEAD = 2


def extract(
    network: Network,
    stimuli: Stimuli,
    layers: Sequence[LayerInfo],
    store: FeatureStore,
    *,
    batch_size: int = 32,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the features of all row blocks that the store lacks.

    All layers come from one forward pass per batch. Meanwhile ``torch.get_num_threads()`` threads
    decode the next batches and another one writes the previous row blocks. An extraction that was
    stopped at any moment goes on where it was, with the same bits in the store as one that was
    not, given the same batch size, device and library versions; a finished one does nothing.

    Memory does not grow with the number of images: beside the forward pass, two buffers of
    max(``BLOCK_ROWS``, batch) x all features in float32, and the images of four batches.

    Parameters
    ----------
    network
        Module in evaluation mode and its preprocessing. The module is moved to ``device``.
    stimuli
        The store's stimuli. Several threads read them at once.
    layers
        The store's layers.
    store
        Where the features go.
    batch_size
        Images per forward pass, rounded down by
        :func:`toolkit.features.layout.aligned_batch_size`.
    device
        Where the forward pass runs.
    progress
        Called as ``progress(images_done, images_in_all)`` after each row block is recorded, from
        the writing thread. What it raises ends the extraction.

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
    _require_same_content(stimuli, layers, store)
    missing = store.missing_blocks()
    if not missing:
        return
    store.require_space()
    device = torch.device(device)
    module = network.module.to(device).eval()
    batch_size = layout.aligned_batch_size(batch_size)
    spans = _spans(missing, batch_size)
    batches = [_batches(span, batch_size, store.n_stimuli) for span in spans]
    buffers = [_allocate(layers, spans[0], device) for _ in range(min(2, len(spans)))]
    images = _load(stimuli, network.preprocessing, (rows for span in batches for rows in span))
    written: Future[None] | None = None
    with (
        torch.inference_mode(),
        closing(images),
        LayerHooks(module, layers) as hooks,
        ThreadPoolExecutor(1, "feature-writer") as writer,
    ):
        for turn, span in enumerate(spans):
            buffer = buffers[turn % 2]
            for rows in batches[turn]:
                batch = next(images).to(device)
                where = slice(rows.start - span.start, rows.stop - span.start)
                hooks.forward(batch, {name: out[where] for name, out in buffer.items()})
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if written:
                written.result()
            written = writer.submit(_write, store, span, buffer, set(missing), progress)
        if written:
            written.result()


def _require_same_content(
    stimuli: Stimuli, layers: Sequence[LayerInfo], store: FeatureStore
) -> None:
    if tuple(stimuli.ids) != store.stimulus_ids:
        raise FeatureError(f"the stimuli are not those that {store.path} was created for")
    if stored(layers) != store.layers:
        raise FeatureError(
            f"layers {[layer.name for layer in layers]} are not those that {store.path} was "
            f"created for: {list(store.layer_names)}"
        )


def _spans(missing: Sequence[int], batch_size: int) -> list[range]:
    """Rows that are computed and written together: a row block, or a batch of several.

    A batch of several row blocks is computed whole even if only one of them is missing.
    """
    size = max(batch_size, layout.BLOCK_ROWS)
    starts = sorted({block * layout.BLOCK_ROWS // size * size for block in missing})
    return [range(start, start + size) for start in starts]


def _batches(span: range, batch_size: int, n_stimuli: int) -> list[range]:
    stop = min(span.stop, n_stimuli)
    return [
        range(start, min(start + batch_size, stop)) for start in range(span.start, stop, batch_size)
    ]


def _allocate(
    layers: Sequence[LayerInfo], span: range, device: torch.device
) -> dict[str, torch.Tensor]:
    pinned = device.type == "cuda"
    return {
        layer.name: torch.empty((len(span), layer.n_features), pin_memory=pinned)
        for layer in layers
    }


def _load(
    stimuli: Stimuli, preprocessing: Preprocessing, batches: Iterable[range]
) -> Generator[torch.Tensor]:
    """Preprocessed batches in order, decoded by threads a bounded number of batches ahead."""

    def load_image(row: int) -> torch.Tensor:
        try:
            return preprocessing(stimuli[row], stimuli.framed)
        except Exception as error:
            error.add_note(f"while loading stimulus {stimuli.ids[row]!r}")
            raise

    ahead: deque[list[Future[torch.Tensor]]] = deque()
    pool = ThreadPoolExecutor(torch.get_num_threads(), "image-loader")
    try:
        for rows in batches:
            ahead.append([pool.submit(load_image, row) for row in rows])
            if len(ahead) > _BATCHES_AHEAD:
                yield torch.stack([image.result() for image in ahead.popleft()])
        while ahead:
            yield torch.stack([image.result() for image in ahead.popleft()])
    finally:
        pool.shutdown(cancel_futures=True)


def _write(
    store: FeatureStore,
    span: range,
    buffer: dict[str, torch.Tensor],
    missing: set[int],
    progress: Callable[[int, int], None] | None,
) -> None:
    for block in range(span.start // store.BLOCK_ROWS, span.stop // store.BLOCK_ROWS):
        if block not in missing:
            continue
        rows = store.rows(block)
        where = slice(rows.start - span.start, rows.stop - span.start)
        store.write_block(block, {name: out[where].numpy() for name, out in buffer.items()})
        if progress:
            progress(store.n_written_stimuli, store.n_stimuli)
