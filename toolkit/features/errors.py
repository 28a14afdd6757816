"""What can be wrong with features and with the store that keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class FeatureError(ValueError):
    """Features, or a request for them, do not fit the network, the images or the store."""

    error_class = "bad_features"


class DamagedStoreError(FeatureError):
    """There is no feature store, or its metadata or ids are not whole: all is to be rebuilt."""

    error_class = "damaged_features"


class FeatureStorageError(OSError):
    """The disk refused the features."""

    error_class = "feature_storage"


class DiskFullError(FeatureStorageError):
    """The disk has, or had, no room for the features."""

    error_class = "disk_full"


class DamagedChunkError(RuntimeError):
    """Row blocks of a layer are missing, or chunks of them fail their checksum.

    :meth:`FeatureStore.forget_block` for each of ``blocks`` and another extraction rebuild them.

    Attributes
    ----------
    layer : str
    blocks : tuple of int
        The row blocks with damage, ascending.
    columns : slice
        The columns that were asked for.
    paths : tuple of Path
        The damaged or absent files.
    """

    error_class = "damaged_features"

    def __init__(
        self, layer: str, blocks: Sequence[int], columns: slice, paths: Sequence[Path]
    ) -> None:
        super().__init__(layer, blocks, columns, paths)
        self.layer = layer
        self.blocks = tuple(blocks)
        self.columns = columns
        self.paths = tuple(paths)

    def __str__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return (
            f"layer {self.layer!r}, row blocks {list(self.blocks)}, columns "
            f"{self.columns.start}:{self.columns.stop}: missing or damaged file {self.paths[0]}"
            f"{more}; a run extracts these images again by itself"
        )


def listed(values: Sequence[Any]) -> str:
    """Say the first few values of a list that may be long."""
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more
