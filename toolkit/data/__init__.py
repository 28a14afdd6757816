"""Images and neural responses, from any source, as one :class:`NeuralDataset`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.data import files, majaj_hong, nx414, synthetic, xiao2024
from toolkit.data.dataset import DatasetSize, NeuralDataset
from toolkit.data.errors import DataError
from toolkit.data.stimuli import Stimuli
from toolkit.data.unscored import images_of_split, unscored_splits

__all__ = [
    "KINDS",
    "DataError",
    "DatasetSize",
    "Kind",
    "NeuralDataset",
    "Stimuli",
    "images_of_split",
    "load",
    "size_of",
    "unscored_splits",
]


@dataclass(frozen=True)
class Kind:
    """A kind of source: how to load it, and how to know its size without, where it can be known."""

    load: Callable[..., NeuralDataset]
    size_of: Callable[..., DatasetSize] | None = None


KINDS = {
    "synthetic": Kind(synthetic.load, synthetic.size_of),
    "nx414": Kind(nx414.load, nx414.size_of),
    "majaj_hong": Kind(majaj_hong.load, majaj_hong.size_of),
    "xiao2024": Kind(xiao2024.load, xiao2024.size_of),
    "files": Kind(files.load, files.size_of),
}


def load(kind: str, **params: Any) -> NeuralDataset:
    """Load a data set; ``params`` are those of the kind's own ``load``.

    Raises
    ------
    DataError
        If there is no such kind, or its files or parameters are wrong.
    """
    return _kind(kind).load(**params)


def size_of(kind: str, **params: Any) -> DatasetSize:
    """Size of what :func:`load` would give, from file headers only where the kind knows how.

    Raises
    ------
    DataError
        If there is no such kind, or its files or parameters are wrong.
    """
    known = _kind(kind)
    if known.size_of is not None:
        return known.size_of(**params)
    loaded = known.load(**params)
    split_sizes = {name: len(rows) for name, rows in loaded.splits.items()}
    return DatasetSize(len(loaded.stimuli), len(loaded.neuroid_ids), split_sizes)


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise DataError(f"unknown kind of data set {name!r}; use one of {', '.join(KINDS)}")
    return KINDS[name]
