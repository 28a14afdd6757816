"""Small synthetic trainings whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from toolkit import data
from toolkit.data import NeuralDataset
from toolkit.models.network_spec import DecoderSpec, NetworkSpec, ShallowTrunk
from toolkit.models.trainable import build_network
from toolkit.models.trunks import features_of, trunk_preprocessing
from toolkit.training import Assignment, ImageBank, Recipe

PX = 32
N_TRAIN, N_VAL = 400, 300
TRUNK = ShallowTrunk((6, 12), input_px=PX)
SPEC = NetworkSpec(TRUNK, DecoderSpec(pool_px=2), seed=7)


def synthetic(n_train: int = N_TRAIN, n_val: int = N_VAL, **changed) -> NeuralDataset:
    sizes = {"n_neuroids": 10, "n_repetitions": 4, "n_categories": 3, "image_px": PX, "seed": 3}
    return data.load("synthetic", n_train=n_train, n_val=n_val, **{**sizes, **changed})


def bank_of(dataset: NeuralDataset, folder: Path, spec: NetworkSpec = SPEC) -> ImageBank:
    return ImageBank.of(folder, dataset.stimuli, trunk_preprocessing(spec.trunk))


def driven_by(spec: NetworkSpec, dataset: NeuralDataset, bank: ImageBank, ev: float):
    """The data set with neurons linear in six directions of the untrained network's features.

    They are the directions in which its features vary most, so that few steps find them.
    """
    features = pooled_features(spec, bank)
    rng = np.random.default_rng(0)
    scores = np.linalg.svd(features - features.mean(axis=0), full_matrices=False)[0][:, :6]
    signal = scores @ rng.standard_normal((6, 10))
    signal = (signal - signal.mean(axis=0)) / signal.std(axis=0)
    noise = rng.standard_normal(signal.shape) * np.sqrt(1 / ev - 1)
    return replace(
        dataset,
        responses=5 + 2 * (signal + noise),
        repetitions=None,
        explainable_variance=np.full(10, ev),
        oracle_features=features,
    )


def pooled_features(spec: NetworkSpec, bank: ImageBank) -> np.ndarray:
    network = build_network(spec, n_neurons=1, n_classes={}).eval()
    images = bank.normalised(bank.batch(np.arange(len(bank))))
    with torch.no_grad():
        maps = features_of(network.trunk, images)
        pooled = torch.nn.functional.adaptive_avg_pool2d(maps, spec.decoder.pool_px)
    return pooled.flatten(1).double().numpy()


def assignment(folder: Path, recipe: Recipe, spec: NetworkSpec = SPEC, dataset=None, **changed):
    dataset = dataset or synthetic(60, 20)
    rows = dataset.splits["train"]
    given = {"rows": rows, "bank": bank_of(dataset, folder, spec), **changed}
    return Assignment(spec=spec, recipe=recipe, dataset=dataset, **given)
