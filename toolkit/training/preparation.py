"""From a data set to what training needs: targets, and validation images carved from training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.data import NeuralDataset
from toolkit.models.trainable import TrainableNetwork
from toolkit.training.errors import TrainingDataError
from toolkit.training.objectives import Targets
from toolkit.training.recipe import LabelKind, Recipe

_SEED_VALIDATION = 1


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation of each neuron's responses to some images, (n_neurons,) float32.

    A neuron without responses, or with constant ones, has standard deviation 1.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]


def class_names(dataset: NeuralDataset, kind: LabelKind) -> tuple[str, ...]:
    """The classes of a data set, sorted; their positions are the labels.

    Raises
    ------
    TrainingDataError
        If the data set has no labels of this kind, or one class only.
    """
    names = label_names(dataset, kind)
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise TrainingDataError(
            f"all images of '{dataset.name}' have the one {kind} {classes[0]!r}: there is nothing "
            f"to classify; leave the objective {kind} out"
        )
    return classes


def targets_of(dataset: NeuralDataset, recipe: Recipe, rows: NDArray[np.integer]) -> Targets:
    """Targets for all images of the data set.

    Parameters
    ----------
    dataset
        Responses and labels.
    recipe
        Which of them are needed.
    rows
        Images that are trained on.

    Raises
    ------
    TrainingDataError
        If labels are missing, no trained image has a response, or a rate would be negative.
    """
    responses = None
    if recipe.neural_kinds:
        _check_responses(dataset, recipe, rows)
        responses = torch.from_numpy(dataset.responses.astype(np.float32))
    labels: dict[str, torch.Tensor] = {}
    for kind in recipe.label_kinds:
        number = {name: index for index, name in enumerate(class_names(dataset, kind))}
        labels[kind] = torch.tensor([number[name] for name in label_names(dataset, kind)])
    scale = np.ones(len(dataset.neuroid_ids), dtype=np.float32)
    if responses is not None and recipe.standardise:
        scale = scaling_of(dataset, rows).std
    return Targets(responses, labels, torch.from_numpy(scale))


def scaling_of(dataset: NeuralDataset, rows: NDArray[np.integer]) -> Scaling:
    """Mean and standard deviation of each neuron over these images."""
    responses = dataset.responses[rows]
    present = ~np.isnan(responses)
    n_present = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, responses, 0).sum(axis=0) / n_present
    deviations = np.where(present, responses - mean, 0)
    std = np.sqrt(np.square(deviations).sum(axis=0) / n_present)
    return Scaling(mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32))


def scale_outputs(network: TrainableNetwork, scaling: Scaling) -> None:
    """Let the decoder predict deviations from the mean, or multiples of the mean rate."""
    mean, std = torch.from_numpy(scaling.mean), torch.from_numpy(scaling.std)
    if network.is_rate:
        network.response_scale = torch.where(mean > 0, mean, 1)
    else:
        network.response_offset, network.response_scale = mean, std


def carve_validation(
    rows: NDArray[np.integer], recipe: Recipe
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Split training images into those that are fitted and those on which epochs are compared.

    Parameters
    ----------
    rows
        Training images, each once.
    recipe
        Its ``validation_share`` is rounded to whole images; its seed decides which.

    Returns
    -------
    Fitted and validation images, each ascending.

    Raises
    ------
    RecipeError
        If the share gives no validation image, or leaves fewer than two to fit.
    """
    n_validation = recipe.n_validation(len(rows))
    shuffled = np.random.default_rng([recipe.seed, _SEED_VALIDATION]).permutation(rows)
    return np.sort(shuffled[n_validation:]), np.sort(shuffled[:n_validation])


def label_names(dataset: NeuralDataset, kind: LabelKind) -> tuple[str, ...]:
    """The label of each image.

    Raises
    ------
    TrainingDataError
        If the data set has none of this kind.
    """
    names = dataset.object_names if kind == "object" else dataset.category_names
    if names is None:
        raise TrainingDataError(
            f"data set '{dataset.name}' has no {kind} names, which the objective {kind} needs: "
            f"add a column {kind}_name to its stimulus table, or leave the objective out"
        )
    return names


def _check_responses(dataset: NeuralDataset, recipe: Recipe, rows: NDArray[np.integer]) -> None:
    responses = dataset.responses[rows]
    if np.isnan(responses).all():
        raise TrainingDataError(
            f"none of the {len(rows)} training images of '{dataset.name}' has a response"
        )
    if "poisson" in recipe.neural_kinds and np.nanmin(responses) < 0:
        row, neuron = np.argwhere(responses < 0)[0]
        raise TrainingDataError(
            f"objective poisson needs rates, but neuron {dataset.neuroid_ids[neuron]!r} has the "
            f"response {responses[row, neuron]:.4g} to stimulus "
            f"{dataset.stimuli.ids[rows[row]]!r}: write mse or correlation"
        )
