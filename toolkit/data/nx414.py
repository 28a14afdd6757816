"""The course file ``IT_data.h5``: HvM images, already normalised, and 168 averaged IT sites."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path

import h5py
import numpy as np

from toolkit.data.dataset import SPLIT_NAMES, DatasetSize, NeuralDataset, positional_ids
from toolkit.data.errors import DataError
from toolkit.data.hdf5 import open_hdf5, require_dataset, texts
from toolkit.data.stimuli import PerProcess, Stimuli

# Channel statistics with which the file's images were normalised (torchvision's ImageNet values).
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
# Interpolation may overshoot [0, 1] a little and is clipped; beyond this the file holds no
# normalised images (bytes 0…255, for one).
_OVERSHOOT = 0.5
_BLOCK_BYTES = 32 * 2**20


def load(
    *, path: str | Path, splits: Sequence[str] = ("train", "val"), name: str = "nx414"
) -> NeuralDataset:
    """Load the splits of ``IT_data.h5`` that have spikes, one after the other.

    The file has no repetitions and no categories (its 64 object names do not carry them), so
    both are None. Stimulus ids are ``train-00012``, neuroid ids ``IT-007@5e1c0a92``: sites have no
    names in it, see :func:`toolkit.data.dataset.positional_ids`.

    Parameters
    ----------
    path
        The HDF5 file.
    splits
        Which of its splits to load, in this order.
    name
        What tables call the data set.

    Raises
    ------
    DataError
        If the file or one of its keys is missing, shapes disagree, or a response is NaN.
    """
    path = Path(path)
    sizes = _inspect(path, splits)
    with open_hdf5(path) as file:
        spikes = [file[f"spikes_{split}"][:] for split in splits]
        responses = np.concatenate(spikes).astype(np.float64)
        objects = [text for split in splits for text in texts(file[f"object_{split}"])]
    n_neuroids = responses.shape[1]
    bounds = np.cumsum([0, *sizes.values()])
    return NeuralDataset(
        name=name,
        stimuli=Nx414Stimuli(path, sizes),
        responses=responses,
        repetitions=None,
        neuroid_ids=positional_ids((f"IT-{i:03d}" for i in range(n_neuroids)), responses),
        regions=("IT",) * n_neuroids,
        object_names=tuple(objects),
        category_names=None,
        splits={
            split: np.arange(start, stop)
            for split, start, stop in zip(splits, bounds[:-1], bounds[1:], strict=True)
        },
        source=str(path),
        notes=(f"{path.name} names no image: row i of stimulus_… belongs to row i of spikes_…",),
    )


def size_of(
    *, path: str | Path, splits: Sequence[str] = ("train", "val"), name: str = "nx414"
) -> DatasetSize:
    """Size of what :func:`load` would give, from the file's headers; the same checks of them."""
    path = Path(path)
    sizes = _inspect(path, splits)
    with open_hdf5(path) as file:
        n_neuroids = file[f"spikes_{splits[0]}"].shape[1]
    return DatasetSize(sum(sizes.values()), n_neuroids, sizes)


class Nx414Stimuli(Stimuli):
    """Images of ``IT_data.h5``, read one at a time with the ImageNet normalisation undone.

    Parameters
    ----------
    path
        The HDF5 file.
    sizes
        Split → number of images, in the order of the ids.
    """

    framed = True

    def __init__(self, path: Path, sizes: dict[str, int]) -> None:
        self.ids = tuple(f"{split}-{row:05d}" for split, n in sizes.items() for row in range(n))
        self._path = path
        self._splits = tuple(sizes)
        self._stops = list(accumulate(sizes.values()))
        self._file = PerProcess(partial(open_hdf5, path))

    def __getitem__(self, index: int) -> np.ndarray:
        """Image ``index``, float32 (height, width, 3) in [0, 1]."""
        position = range(len(self))[index]
        part = bisect.bisect_right(self._stops, position)
        row = position - (self._stops[part - 1] if part else 0)
        normalised = self._file.get()[f"stimulus_{self._splits[part]}"][row]
        image = normalised.transpose(1, 2, 0) * IMAGENET_STD + IMAGENET_MEAN
        if not (image.min() >= -_OVERSHOOT and image.max() <= 1 + _OVERSHOOT):
            raise DataError(
                f"{self._path}: stimulus {self.ids[index]!r} spans {image.min():.3g} to "
                f"{image.max():.3g} after undoing the ImageNet normalisation, expected 0 to 1; "
                "the file must hold ImageNet-normalised images"
            )
        return np.ascontiguousarray(np.clip(image, 0, 1), dtype=np.float32)

    def _content(self) -> Iterator[memoryview]:
        for split in self._splits:
            images = self._file.get()[f"stimulus_{split}"]
            n_rows = max(1, _BLOCK_BYTES // int(np.prod(images.shape[1:]) * images.dtype.itemsize))
            for start in range(0, len(images), n_rows):
                block = np.ascontiguousarray(images[start : start + n_rows], dtype="<f4")
                yield from (image.data for image in block)


def _inspect(path: Path, splits: Sequence[str]) -> dict[str, int]:
    """Check keys and shapes of the splits; give the number of images of each."""
    unknown = [split for split in splits if split not in SPLIT_NAMES]
    if unknown or not splits or len(set(splits)) != len(splits):
        raise DataError(f"{path}: splits {list(splits)} must be different ones of {SPLIT_NAMES}")
    with open_hdf5(path) as file:
        sizes = {split: _inspect_split(file, path, split) for split in splits}
        n_neuroids = {split: file[f"spikes_{split}"].shape[1] for split in splits}
    if len(set(n_neuroids.values())) > 1:
        raise DataError(f"{path}: splits differ in their number of neurons: {n_neuroids}")
    return sizes


def _inspect_split(file: h5py.File, path: Path, split: str) -> int:
    keys = [f"{what}_{split}" for what in ("stimulus", "object", "spikes")]
    missing = [key for key in keys if key not in file]
    if missing:
        raise DataError(
            f"{path}: no key {', '.join(missing)}, so split {split!r} cannot be loaded; "
            f"the file has {', '.join(sorted(file))}"
        )
    shapes = {key: require_dataset(file, path, key).shape for key in keys}
    images, objects, spikes = shapes.values()
    if len(images) != 4 or images[1] != 3 or len(objects) != 1 or len(spikes) != 2:
        raise DataError(
            f"{path}: shapes {shapes}, expected images (n, 3, height, width), object names (n,) "
            "and spikes (n, neurons)"
        )
    if file[keys[0]].dtype.kind != "f":
        raise DataError(
            f"{path}: {keys[0]} is {file[keys[0]].dtype}, expected float32 normalised images"
        )
    if not images[0] == objects[0] == spikes[0]:
        raise DataError(f"{path}: lengths of split {split!r} differ: {shapes}")
    if images[0] == 0:
        raise DataError(f"{path}: split {split!r} has no stimuli")
    return images[0]
