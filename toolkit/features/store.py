"""The feature store: one Zarr group per extraction, one array of images by features per layer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import GroupNotFoundError

from toolkit.atomic import atomic_path
from toolkit.features import layout
from toolkit.features.creation import STIMULUS, Content, create_group, differences, stored
from toolkit.features.errors import (
    DamagedChunkError,
    FeatureError,
    FeatureStorageError,
    listed,
)
from toolkit.models import LayerInfo

PROGRESS_FILE = "progress.json"


class FeatureStore:
    """Features of all stimuli for some layers of one network.

    On disk a plain Zarr v3 group: one float32 array (n_stimuli, n_features) per layer, named like
    the layer, features flattened in C order, dimensions ``("stimulus", "<layer>.feature")``; the
    ids in the string array ``stimulus``; ``provenance`` among the group's attributes; each layer's
    shape without the batch axis and its place in the order of execution as attributes
    ``layer_shape`` and ``layer_index``. ``zarr.open_group`` and ``xarray.open_zarr`` read it.

    A missing chunk reads as NaN, which no network may write, and every chunk carries a CRC32C.
    ``progress.json`` lists the row blocks whose chunks are written for all layers; it is replaced
    atomically after the chunks. Chunks are not flushed one by one: what a crash of the whole
    machine takes away after the record was written fails its checksum when it is read.

    One process writes; any number may read what is recorded.

    Parameters
    ----------
    path
        An existing store; :meth:`create` makes one.

    Raises
    ------
    FeatureError
        If there is no store at ``path``.
    """

    BLOCK_ROWS = layout.BLOCK_ROWS

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            group = zarr.open_group(self.path, mode="r")
            ids = group[STIMULUS]
        except (FileNotFoundError, GroupNotFoundError, KeyError) as error:
            raise FeatureError(f"no feature store at {self.path}; run the extraction") from error
        self.content = Content(
            layers=_layers_of(group),
            stimulus_ids=tuple(str(name) for name in ids[:]),
            provenance=dict(group.attrs["provenance"]),
        )
        self._whole_chunks: dict[str, zarr.Array] = {}

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open an existing store, finished or not.

        Raises
        ------
        FeatureError
            If there is none.
        """
        return cls(path)

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        layers: Sequence[LayerInfo],
        stimulus_ids: Sequence[str],
        provenance: Mapping[str, Any],
    ) -> FeatureStore:
        """Create a store, or reopen one that was created for the same content.

        Parameters
        ----------
        path
            Where: a folder that appears complete or not at all.
        layers
            What to store; shapes without the batch axis.
        stimulus_ids
            One per image, unique.
        provenance
            JSON values that say where the features come from (model, weights, seed, preprocessing,
            data set, versions). Other provenance is another store.

        Raises
        ------
        FeatureError
            If ids or layers repeat or are missing, or if the store that is there was created for
            something else; the message says what differs.
        """
        path = Path(path)
        content = Content(
            stored(layers),
            tuple(stimulus_ids),
            json.loads(json.dumps(provenance)),
        )
        if not path.exists():
            create_group(path, content)
        store = cls(path)
        if found := differences(store.content, content):
            raise FeatureError(
                f"the feature store {path} was created for something else: {'; '.join(found)}; "
                "remove it or write another path"
            )
        return store

    @property
    def layers(self) -> tuple[LayerInfo, ...]:
        """The layers in the order of execution."""
        return self.content.layers

    @property
    def stimulus_ids(self) -> tuple[str, ...]:
        """What the rows of every layer are."""
        return self.content.stimulus_ids

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the features come from, as given to :meth:`create`."""
        return self.content.provenance

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the layers in the order of execution."""
        return tuple(layer.name for layer in self.layers)

    @property
    def n_stimuli(self) -> int:
        """Number of rows of every layer."""
        return len(self.stimulus_ids)

    @property
    def n_blocks(self) -> int:
        """Number of row blocks, finished or not."""
        return layout.n_blocks(self.n_stimuli)

    def layer(self, name: str) -> LayerInfo:
        """Shape and place of a layer.

        Raises
        ------
        FeatureError
            If the store has no such layer.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise FeatureError(
            f"{self.path} has no layer {name!r}; its layers are {listed(self.layer_names)}"
        )

    def rows(self, block: int) -> slice:
        """Rows of a row block.

        Raises
        ------
        FeatureError
            If the store has no such block.
        """
        if not 0 <= block < self.n_blocks:
            raise FeatureError(f"{self.path} has row blocks 0 to {self.n_blocks - 1}, not {block}")
        return layout.rows_of(block, self.n_stimuli)

    @property
    def n_written_stimuli(self) -> int:
        """Number of stimuli in the row blocks that are written."""
        return sum(
            self.rows(block).stop - self.rows(block).start for block in self._written_blocks()
        )

    def missing_blocks(self) -> list[int]:
        """Row blocks not yet written, ascending; empty when the store is finished."""
        written = self._written_blocks()
        return [block for block in range(self.n_blocks) if block not in written]

    def require_space(self) -> None:
        """Make sure that the missing blocks fit on the disk.

        Raises
        ------
        FeatureStorageError
            If less is free than they will take; the message gives both.
        """
        missing_rows = len(self.missing_blocks()) * self.BLOCK_ROWS
        needed_bytes = layout.predicted_bytes(self.layers, missing_rows)
        free_bytes = shutil.disk_usage(self.path).free
        if needed_bytes > free_bytes:
            raise FeatureStorageError(
                f"the features still to be written to {self.path} take {needed_bytes / 1e9:.3f} GB "
                f"and {free_bytes / 1e9:.3f} GB are free there; make room, or choose fewer layers "
                "or another folder"
            )

    def write_block(self, block: int, features: Mapping[str, np.ndarray]) -> None:
        """Write one row block of every layer, then record it.

        Parameters
        ----------
        block
            Which row block.
        features
            For each layer, shape (rows of the block, n_features), float32.

        Raises
        ------
        FeatureError
            If a layer is absent or has another shape, or holds NaN or infinity; then nothing is
            written.
        FeatureStorageError
            If the disk refuses the chunks; then the block is not recorded.
        """
        rows = self.rows(block)
        for layer in self.layers:
            self._require_valid(layer, rows, features.get(layer.name))
        for layer in self.layers:
            try:
                self._write_chunks(layer, block, features[layer.name])
            except (OSError, RuntimeError) as error:
                raise FeatureStorageError(
                    f"row block {block} of layer {layer.name!r} could not be written under "
                    f"{self.path}: {error}"
                ) from error
        self._record(self._written_blocks() | {block})

    def forget_block(self, block: int) -> None:
        """Take a row block out of the record, so that the next extraction rebuilds it."""
        self.rows(block)
        self._record(self._written_blocks() - {block})

    def array(self, layer: str) -> zarr.Array:
        """The plain Zarr array of a layer, read-only: (n_stimuli, n_features), float32.

        Damage raises ``ValueError`` and missing chunks read as NaN; :meth:`read` is faster and
        names both.
        """
        return zarr.open_group(self.path, mode="r")[self.layer(layer).name]

    def read(self, layer: str, columns: slice) -> np.ndarray:
        """All rows of some features of a layer, checked.

        Whole chunks are read: slices of :meth:`column_blocks` waste nothing.

        Parameters
        ----------
        layer
            Name of the layer.
        columns
            Which features, in steps of 1.

        Returns
        -------
        numpy.ndarray
            Shape (n_stimuli, number of columns), float32, finite.

        Raises
        ------
        FeatureError
            If there is no such layer, or if row blocks are not written yet.
        DamagedChunkError
            If a chunk is missing or fails its checksum.
        """
        start, stop, step = columns.indices(self.layer(layer).n_features)
        if step != 1:
            raise FeatureError(f"columns of {layer!r} are read in steps of 1, not {step}")
        if missing := self.missing_blocks():
            raise FeatureError(
                f"{self.path} is not finished: {len(missing)} of {self.n_blocks} row blocks are "
                f"missing ({listed(missing)}); run the extraction"
            )
        array = self._array_of_whole_chunks(layer)
        width = array.chunks[1]
        aligned = slice(start // width * width, -(-stop // width) * width)
        try:
            values = array[:, aligned]
        except Exception as error:
            if damaged := self._damaged_chunks(layer, aligned):
                raise self._damage(layer, aligned, damaged) from error
            raise
        # A chunk is missing as a whole or not at all, so its first column tells.
        if np.isnan(values[: self.n_stimuli, ::width]).any():
            raise self._damage(layer, aligned, self._damaged_chunks(layer, aligned))
        return values[: self.n_stimuli, start - aligned.start : stop - aligned.start]

    def column_blocks(self, layer: str, max_bytes: int) -> list[slice]:
        """Slices of whole chunks for :meth:`read`, each of at most ``max_bytes`` once read.

        A slice is never narrower than one chunk, whatever ``max_bytes``.
        """
        n_features = self.layer(layer).n_features
        width = layout.chunk_features(n_features)
        chunk_column_bytes = self.n_blocks * self.BLOCK_ROWS * width * layout.FLOAT32_BYTES
        step = max(1, max_bytes // chunk_column_bytes) * width
        return [slice(start, min(start + step, n_features)) for start in range(0, n_features, step)]

    def _array_of_whole_chunks(self, name: str) -> zarr.Array:
        """Return the array as if its shape were a whole number of chunks, for the zarrs pipeline.

        zarrs decodes a part of a chunk without looking at the checksum, and rewrites a part by
        reading the rest first, which fails over a chunk that a killed writer left half written.
        Neither happens as long as every access covers whole chunks.
        """
        if name not in self._whole_chunks:
            with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
                array = zarr.open_group(self.path, mode="r+")[name]
                shape = tuple(
                    -(-size // chunk) * chunk
                    for size, chunk in zip(array.shape, array.chunks, strict=True)
                )
                self._whole_chunks[name] = zarr.Array(
                    zarr.AsyncArray(array.metadata.update_shape(shape), array.store_path)
                )
        return self._whole_chunks[name]

    def _require_valid(self, layer: LayerInfo, rows: slice, values: np.ndarray | None) -> None:
        expected = (rows.stop - rows.start, layer.n_features)
        found = None if values is None else (*values.shape, str(values.dtype))
        if values is None or found != (*expected, "float32"):
            raise FeatureError(
                f"layer {layer.name!r}: features must be float32 of shape {expected}, not {found}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            sum_is_finite = np.isfinite(values.sum())
        if sum_is_finite:
            return
        # Finite values may also overflow their sum: look at each.
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            ids = [self.stimulus_ids[rows.start + row] for row in bad]
            raise FeatureError(
                f"layer {layer.name!r} gave NaN or infinity for {len(ids)} stimuli: {listed(ids)}"
            )

    def _write_chunks(self, layer: LayerInfo, block: int, values: np.ndarray) -> None:
        array = self._array_of_whole_chunks(layer.name)
        padded_shape = (self.BLOCK_ROWS, array.shape[1])
        if values.shape != padded_shape:
            padded = np.full(padded_shape, np.nan, np.float32)
            padded[: values.shape[0], : values.shape[1]] = values
            values = padded
        start = block * self.BLOCK_ROWS
        array[start : start + self.BLOCK_ROWS] = values

    def _damaged_chunks(self, layer: str, aligned: slice) -> list[tuple[int, int]]:
        array = self._array_of_whole_chunks(layer)
        n_rows, width = array.chunks
        return [
            (block, first // width)
            for block in range(self.n_blocks)
            for first in range(aligned.start, aligned.stop, width)
            if not _is_sound(array, block * n_rows, first)
        ]

    def _damage(
        self, layer: str, aligned: slice, damaged: Sequence[tuple[int, int]]
    ) -> DamagedChunkError:
        paths = [self.path / layer / "c" / str(row) / str(column) for row, column in damaged]
        return DamagedChunkError(layer, sorted({row for row, _ in damaged}), aligned, paths)

    def _written_blocks(self) -> set[int]:
        """Return the record; one that is absent or unreadable says that nothing is written."""
        try:
            return set(json.loads((self.path / PROGRESS_FILE).read_text())["written_blocks"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return set()

    def _record(self, written: set[int]) -> None:
        record = {"n_blocks": self.n_blocks, "written_blocks": sorted(written)}
        with atomic_path(self.path / PROGRESS_FILE) as temporary:
            temporary.write_text(json.dumps(record), encoding="utf-8")


def _layers_of(group: zarr.Group) -> tuple[LayerInfo, ...]:
    return stored(
        LayerInfo(name, array.attrs["layer_shape"], array.attrs["layer_index"])
        for name, array in group.arrays()
        if name != STIMULUS
    )


def _is_sound(array: zarr.Array, row: int, column: int) -> bool:
    n_rows, width = array.chunks
    try:
        chunk = array[row : row + n_rows, column : column + width]
    except Exception:  # zarrs raises RuntimeError, IndexError …, depending on the damage
        return False
    return not np.isnan(chunk[0, 0])
