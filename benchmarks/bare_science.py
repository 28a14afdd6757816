"""The tasks of a sweep as a plain script: no plan, no run folder, no records, no tables.

``python -m benchmarks.bare_science CONFIG FOLDER [KEY=VALUE ...]`` computes what the sweep of the
config computes, in one process, and writes only the features.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from toolkit import data, models
from toolkit.config import load_config
from toolkit.encoding import LayerEncoder, Readout, gram_matrix, outer_splits
from toolkit.features.extract import extract
from toolkit.features.store import FeatureStore
from toolkit.metrics import split_half_ceiling

_BLOCK_BYTES = 2**26


def main(config_path: str, folder: Path, overrides: list[str]) -> None:
    """Extract and encode everything that the config names."""
    n_cpus = len(os.sched_getaffinity(0))
    torch.set_num_threads(n_cpus)
    config, _ = load_config(config_path, overrides)
    source = config.dataset[0].model_dump(mode="json", exclude={"sizes"})
    dataset = data.load(**{**source, "seed": config.seed})
    if dataset.repetitions is not None:
        np.nanmean(split_half_ceiling(dataset.repetitions), axis=0)
    splits = outer_splits(
        config.protocol.model_dump(),
        n_stimuli=len(dataset.stimuli),
        splits=dataset.splits,
        object_names=None,
    )
    readouts = [
        Readout(**{**params, "alphas": tuple(params.get("alphas", ()))})
        for entry in config.readouts
        for _, params in entry.variants(config.seed)
    ]
    for entry in config.models:
        for name in entry.names:
            spec = models.ModelSpec(library=entry.library, name=name, seed=config.seed)
            layers = models.select_layers(models.trace_layers(spec), "auto", spec)
            store = FeatureStore.create(
                folder / f"{name}.zarr",
                layers=layers,
                stimulus_ids=dataset.stimuli.ids,
                provenance={},
            )
            network = models.load_network(spec)
            extract(network, dataset.stimuli, layers, store)
            for layer in layers:
                gram = gram_matrix(
                    partial(store.read, layer.name),
                    store.column_blocks(layer.name, _BLOCK_BYTES),
                    store.n_stimuli,
                    n_threads=n_cpus,
                )
                encoder = LayerEncoder(gram, dataset.responses, n_threads=n_cpus)
                for readout in readouts:
                    encoder.score(readout, splits)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
