"""How good predictions are: per neuron as read-outs are scored, and of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.data import NeuralDataset
from toolkit.metrics import METRICS
from toolkit.training.prediction import Predictions, by_neuron
from toolkit.training.preparation import label_names
from toolkit.training.recipe import LabelKind


def neuron_scores(
    measured: NDArray[np.floating], predicted: NDArray[np.floating]
) -> dict[str, NDArray[np.float64]]:
    """Explained variance, Pearson's r, R² and mean squared error, each (n_neurons,).

    Parameters
    ----------
    measured
        (n, n_neurons), NaN where missing: each neuron is scored on the images it has.
    predicted
        Of the same shape.
    """
    return {name: by_neuron(metric, measured, predicted) for name, metric in METRICS.items()}


def accuracy(
    predictions: Predictions,
    classes: tuple[str, ...],
    dataset: NeuralDataset,
    kind: LabelKind,
    rows: NDArray[np.integer],
) -> float:
    """Share of the images whose class is predicted right.

    Parameters
    ----------
    predictions
        Of the images ``rows``.
    classes
        In the order of the logits.
    dataset, kind
        Whose labels, and which.
    rows
        The images; a class that was not trained counts as wrong.
    """
    chosen = predictions.logits[kind][:, : len(classes)].argmax(axis=1)
    names = label_names(dataset, kind)
    return float(np.mean([classes[c] == names[row] for c, row in zip(chosen, rows, strict=True)]))
