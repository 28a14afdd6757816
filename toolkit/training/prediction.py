"""What a trained network says about images, and how good that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.metrics import FEWEST_IMAGES, explained_variance, pearson_r
from toolkit.models.trainable import Outputs, TrainableNetwork
from toolkit.training.images import ImageBank
from toolkit.training.weights import Trained

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Predictions:
    """Outputs for n images.

    Parameters
    ----------
    responses
        (n, n_neurons) float32, in the units of the responses; None without a decoder.
    logits
        Kind of label → (n, n_logits) float32.
    """

    responses: NDArray[np.float32] | None
    logits: dict[str, NDArray[np.float32]]


def predict(
    trained: Trained,
    bank: ImageBank,
    rows: NDArray[np.integer],
    *,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> Predictions:
    """Predict responses and classes for any images of a bank, whether they have responses or not.

    Parameters
    ----------
    trained
        Moved to ``device``.
    bank
        Images prepared with the network's own preprocessing.
    rows
        Which images, in any order.
    batch_size
        Images per forward pass.
    device
        Where it runs, in float32.

    Raises
    ------
    ValueError
        If the bank was prepared for another network.
    """
    if bank.preprocessing != trained.preprocessing:
        raise ValueError(
            f"the images were prepared with {bank.preprocessing}, but the network needs "
            f"{trained.preprocessing}"
        )
    network = trained.network.to(device)
    n_batches = max(1, -(-len(rows) // batch_size))
    images = (
        bank.normalised(bank.batch(part).to(device)) for part in np.array_split(rows, n_batches)
    )
    outputs = collected(network, images)
    return Predictions(
        None if outputs.responses is None else outputs.responses.numpy(),
        {kind: logits.numpy() for kind, logits in outputs.logits.items()},
    )


def collected(
    network: TrainableNetwork, batches: Iterable[torch.Tensor], precision: str = "float32"
) -> Outputs:
    """Outputs for all batches of images, in evaluation mode, on the CPU."""
    network.eval()
    parts: list[Outputs] = []
    with torch.inference_mode():
        for images in batches:
            with mixed_precision(images.device, precision):
                outputs = network(images)
            responses = None if outputs.responses is None else outputs.responses.cpu()
            parts.append(
                Outputs(responses, {kind: part.cpu() for kind, part in outputs.logits.items()})
            )
    responses = [part.responses for part in parts if part.responses is not None]
    return Outputs(
        torch.cat(responses) if responses else None,
        {kind: torch.cat([part.logits[kind] for part in parts]) for kind in parts[0].logits},
    )


@contextmanager
def mixed_precision(device: torch.device, precision: str) -> Iterator[None]:
    """Autocast in "bfloat16" or "float16"; nothing in "float32"."""
    if precision == "float32":
        yield
        return
    with torch.autocast(device.type, dtype=_DTYPES[precision]):
        yield


def mean_scores(
    measured: NDArray[np.floating], predicted: NDArray[np.floating]
) -> tuple[float, float]:
    """Explained variance and Pearson's r, averaged over the neurons that have them.

    Each neuron is scored on the images for which it has a response; NaN if no neuron has a score.
    """
    means = []
    for metric in (explained_variance, pearson_r):
        scores = by_neuron(metric, measured, predicted)
        means.append(float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan"))
    return means[0], means[1]


def by_neuron(
    metric: Callable[..., NDArray[np.float64]],
    measured: NDArray[np.floating],
    predicted: NDArray[np.floating],
) -> NDArray[np.float64]:
    """A metric of each neuron on the images it has responses to, (n_neurons,).

    NaN where a neuron misses some and has fewer than three.
    """
    present = ~np.isnan(measured)
    if present.all():
        return metric(measured, predicted)
    scores = np.full(measured.shape[1], np.nan)
    for neuron in np.flatnonzero(present.sum(axis=0) >= FEWEST_IMAGES):
        rows = present[:, neuron]
        scores[neuron] = metric(measured[rows, neuron, None], predicted[rows, neuron, None])[0]
    return scores
