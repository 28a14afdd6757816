"""Images of splits whose responses are not known: to be predicted, never scored."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from toolkit.data.dataset import SPLIT_NAMES, NeuralDataset
from toolkit.data.errors import DataError
from toolkit.data.hdf5 import open_hdf5
from toolkit.data.nx414 import Nx414Stimuli
from toolkit.data.stimuli import Stimuli


def images_of_split(
    dataset: NeuralDataset, split: str, loader: Mapping[str, Any]
) -> tuple[Stimuli, NDArray[np.integer]]:
    """Images, and which of them are the split's.

    Parameters
    ----------
    dataset
        As :func:`toolkit.data.load` gave it.
    split
        One of its splits, or one that only its source has: ``test`` of ``IT_data.h5``, which has no
        spikes.
    loader
        The arguments of :func:`toolkit.data.load`.

    Raises
    ------
    DataError
        If there is no such split.
    """
    if split in dataset.splits:
        return dataset.stimuli, dataset.splits[split]
    others = unscored_splits(loader)
    if split not in others:
        have = ", ".join([*dataset.splits, *others]) or "none"
        raise DataError(f"'{dataset.name}' has no split '{split}'; it has {have}")
    stimuli = Nx414Stimuli(Path(loader["path"]), {split: others[split]})
    return stimuli, np.arange(len(stimuli))


def unscored_splits(loader: Mapping[str, Any]) -> dict[str, int]:
    """Splits that have images and no responses, with the numbers of their images.

    Parameters
    ----------
    loader
        The arguments of :func:`toolkit.data.load`.
    """
    if loader["kind"] != "nx414":
        return {}
    with open_hdf5(Path(loader["path"])) as file:
        return {
            split: _n_images(file, split)
            for split in SPLIT_NAMES
            if f"stimulus_{split}" in file and f"spikes_{split}" not in file
        }


def _n_images(file: h5py.File, split: str) -> int:
    return len(file[f"stimulus_{split}"])
