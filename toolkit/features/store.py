"""The feature store: one Zarr group per extraction, one array of images by features per layer."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from toolkit.features import layout
from toolkit.features.creation import Content, create_group, differences, stored
from toolkit.features.errors import (
    DamagedChunkError,
    DamagedStoreError,
    DiskFullError,
    FeatureError,
    FeatureStorageError,
    listed,
)
from toolkit.features.shards import NotFiniteError, Shard, encode_shard
from toolkit.models import LayerInfo

_CHUNK_KEY = "c.{block}.0"
_CHECKED_BYTES = 2**26


class FeatureStore:
    """Features of all stimuli for some layers of one network.

    On disk a plain Zarr v3 group: one array (n_stimuli, n_features) per layer, named like the
    layer, features flattened in C order, dimensions ``("stimulus", "<layer>.feature")``; the ids
    in the string array ``stimulus``; ``provenance`` among the group's attributes; each layer's
    shape without the batch axis and its place in the order of execution as attributes
    ``layer_shape`` and ``layer_index``. ``zarr.open_group`` and ``xarray.open_zarr`` read it.

    A row block of a layer is one file, a shard of chunks, and appears whole: a block is written
    when the files of all layers are there. A missing chunk reads as NaN, which no network may
    write, every chunk carries a CRC32C, and every file says whose it is. Files are not flushed one
    by one: what a crash of the whole machine takes away fails its checksum when it is read.

    Several processes may write different row blocks at once, and any number may read what is
    written.

    Parameters
    ----------
    path
        An existing store; :meth:`create` makes one.

    Raises
    ------
    DamagedStoreError
        If there is no store at ``path``, or its metadata or ids are not whole.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._damage_if_unreadable(self.path):
            group = zarr.open_group(self.path, mode="r")
            ids = tuple(str(name) for name in group[layout.STIMULUS][:])
            arrays = {name: array for name, array in group.arrays() if name != layout.STIMULUS}
            if not arrays or len(set(ids)) < len(ids):
                raise ValueError("it has no layers" if not arrays else "its stimulus ids repeat")
            first = next(iter(arrays.values()))
            self.content = Content(
                layers=_layers_of(arrays),
                stimulus_ids=ids,
                provenance=dict(group.attrs["provenance"]),
                dtype=str(first.dtype),
                shuffle=first.compressors[0].to_dict()["configuration"]["shuffle"],
            )
            self.block_rows: int = first.chunks[0]
            for array in arrays.values():
                self._require_own(array)
        self._whole_shards: dict[str, zarr.Array] = {}

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open an existing store, finished or not.

        Raises
        ------
        DamagedStoreError
            If there is none, or its metadata or ids are not whole.
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
        dtype: str = "float32",
        shuffle: str = "noshuffle",
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
        dtype
            Of the numbers on disk, "float32" or "float16".
        shuffle
            "shuffle" groups the bytes of numbers by their significance before compression, for
            numbers whose last bytes are zero.

        Raises
        ------
        FeatureError
            If ids or layers repeat or are missing, or if the store that is there was created for
            something else; the message says what differs.
        DamagedStoreError
            If the metadata or ids of the store that is there are not whole.
        """
        path = Path(path)
        content = Content(
            stored(layers),
            tuple(stimulus_ids),
            json.loads(json.dumps(provenance)),
            dtype,
            shuffle,
        )
        if not path.exists():
            create_group(path, content)
        store = cls(path)
        for name in store.layer_names:
            store.array(name)
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
    def dtype(self) -> str:
        """Of the numbers on disk, "float32" or "float16"."""
        return self.content.dtype

    @property
    def n_blocks(self) -> int:
        """Number of row blocks, written or not."""
        return layout.n_blocks(self.n_stimuli, self.block_rows)

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
        return layout.rows_of(block, self.n_stimuli, self.block_rows)

    def n_rows(self, blocks: Iterable[int]) -> int:
        """Number of stimuli in these row blocks."""
        return sum(self.rows(block).stop - self.rows(block).start for block in blocks)

    def missing_blocks(self) -> list[int]:
        """Row blocks not written yet for all layers, ascending; empty when it is finished."""
        return self._missing_blocks(self.layers)

    def _missing_blocks(self, layers: Iterable[LayerInfo]) -> list[int]:
        files = []
        for layer in layers:
            with self._damage_if_unreadable(self.path / layer.name):
                files.append(set(_file_names(self.path / layer.name)))
        present = set.intersection(*files)
        return [b for b in range(self.n_blocks) if _CHUNK_KEY.format(block=b) not in present]

    def require_space(self, blocks: Sequence[int]) -> None:
        """Make sure that these row blocks fit on the disk.

        Raises
        ------
        DiskFullError
            If less is free than they will take; the message gives both.
        """
        needed_bytes = layout.predicted_bytes(
            self.layers, self.n_stimuli, self.dtype, n_blocks=len(blocks)
        )
        free_bytes = shutil.disk_usage(self.path).free
        if needed_bytes > free_bytes:
            raise DiskFullError(
                f"the features still to be written to {self.path} take {needed_bytes / 1e9:.3f} GB "
                f"and {free_bytes / 1e9:.3f} GB are free there; make room, choose fewer layers or "
                "another folder, or keep less of them (features: average, projection, gram)"
            )

    def write_block(self, block: int, features: Mapping[str, NDArray[np.floating]]) -> None:
        """Write one row block of every layer; see :meth:`write_layer`."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for layer in self.layers:
                self.write_layer(block, layer.name, features.get(layer.name), pool)

    def write_layer(
        self, block: int, name: str, values: NDArray[np.floating] | None, pool: Executor
    ) -> None:
        """Encode and write one row block of a layer; see :meth:`encode_layer`."""
        self.write_shard(block, name, self.encode_layer(block, name, values, pool))

    def encode_layer(
        self, block: int, name: str, values: NDArray[np.floating] | None, pool: Executor
    ) -> Shard:
        """Encode one row block of a layer; ``values`` are no longer needed once this returns.

        Parameters
        ----------
        block
            Which row block.
        name
            Which layer.
        values
            Shape (rows of the block, n_features), of the store's dtype.
        pool
            Threads that encode.

        Raises
        ------
        FeatureError
            If the values have another shape or dtype, or if one is NaN or infinite.
        """
        layer, rows = self.layer(name), self.rows(block)
        expected = (rows.stop - rows.start, layer.n_features, self.dtype)
        found = None if values is None else (*values.shape, str(values.dtype))
        if values is None or found != expected:
            raise FeatureError(
                f"layer {name!r}: features must be of shape and dtype {expected}, not {found}"
            )
        try:
            return encode_shard(
                values,
                owner=self._owner(name, block),
                block_rows=self.block_rows,
                chunk_features=layout.chunk_features(layer.n_features),
                shuffle=self.content.shuffle,
                pool=pool,
            )
        except NotFiniteError:
            raise FeatureError(self._not_finite(name, rows, values)) from None

    def write_shard(self, block: int, name: str, shard: Shard) -> None:
        """Write what :meth:`encode_layer` gave.

        Raises
        ------
        DiskFullError
            If the disk has no room for it.
        FeatureStorageError
            If the disk refuses it for another reason.
        """
        try:
            shard.write(self._shard_path(name, block))
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise (DiskFullError if is_full else FeatureStorageError)(
                f"row block {block} of layer {name!r} could not be written under {self.path}: "
                f"{error}"
            ) from error

    def forget_block(self, block: int) -> None:
        """Remove what is there of a row block, so that the next extraction rebuilds it."""
        self.rows(block)
        for layer in self.layers:
            self._shard_path(layer.name, block).unlink(missing_ok=True)

    def remove_leftovers(self, blocks: Iterable[int]) -> None:
        """Remove what killed writers of these row blocks left half written."""
        for layer in self.layers:
            for block in blocks:
                pattern = f".{_CHUNK_KEY.format(block=block)}.*"
                for path in (self.path / layer.name).glob(pattern):
                    path.unlink(missing_ok=True)

    def array(self, layer: str) -> zarr.Array:
        """The plain Zarr array of a layer, read-only: (n_stimuli, n_features).

        Damage raises ``ValueError`` and missing chunks read as NaN; :meth:`read` is faster and
        names both.

        Raises
        ------
        FeatureError
            If there is no such layer.
        DamagedStoreError
            If the array's own metadata are not whole, or are another array's.
        """
        path = self.path / self.layer(layer).name
        with self._damage_if_unreadable(path):
            array = zarr.open_array(path, mode="r", zarr_format=3)
            self._require_own(array, self.layer(layer))
        return array

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
            Shape (n_stimuli, number of columns), of the store's dtype, finite.

        Raises
        ------
        FeatureError
            If there is no such layer.
        DamagedChunkError
            If row blocks are missing, or a chunk fails its checksum.
        DamagedStoreError
            If the array's own metadata are not whole, or are another array's.
        """
        start, stop, step = columns.indices(self.layer(layer).n_features)
        if step != 1:
            raise FeatureError(f"columns of {layer!r} are read in steps of 1, not {step}")
        self.require_blocks(layer, slice(start, stop))
        array = self._array_of_whole_shards(layer)
        width = array.chunks[1]
        aligned = slice(start // width * width, -(-stop // width) * width)
        try:
            values = array[:, aligned]
        except Exception as error:
            if damaged := self._damaged_blocks(layer, aligned):
                raise self._damage(layer, aligned, damaged) from error
            raise
        return values[: self.n_stimuli, start - aligned.start : stop - aligned.start]

    def require_blocks(self, layer: str, columns: slice | None = None) -> None:
        """Make sure that the files of a layer are there and, when it is first read, are its own.

        Parameters
        ----------
        layer
            Name of the layer.
        columns
            Which features are wanted, by default all: what the error says.

        Raises
        ------
        FeatureError
            If there is no such layer.
        DamagedChunkError
            If row blocks are missing, or their files are those of others.
        """
        lost = self._missing_blocks([self.layer(layer)])
        if layer not in self._whole_shards:
            present = set(range(self.n_blocks)) - set(lost)
            lost += [block for block in present if not self._is_own(layer, block)]
        if lost:
            columns = columns or slice(0, self.layer(layer).n_features)
            raise self._damage(layer, columns, sorted(lost))

    def require_sound(self, layer: str) -> None:
        """Read a layer once; raises what :meth:`read` does."""
        for columns in self.column_blocks(layer, _CHECKED_BYTES):
            self.read(layer, columns)

    def column_blocks(self, layer: str, max_bytes: int) -> list[slice]:
        """Slices of whole chunks for :meth:`read`, each of at most ``max_bytes`` once read.

        A slice is never narrower than one chunk, whatever ``max_bytes``.
        """
        n_features = self.layer(layer).n_features
        width = layout.chunk_features(n_features)
        n_rows = self.n_blocks * self.block_rows
        chunk_column_bytes = n_rows * width * np.dtype(self.dtype).itemsize
        step = max(1, max_bytes // chunk_column_bytes) * width
        return [slice(start, min(start + step, n_features)) for start in range(0, n_features, step)]

    def _array_of_whole_shards(self, name: str) -> zarr.Array:
        """Return the array as if its shape were a whole number of shards, for the zarrs pipeline.

        zarrs decodes a part of a chunk without looking at the checksum; it never does as long as
        every access covers whole chunks.
        """
        if name not in self._whole_shards:
            with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
                array = self.array(name)
                shape = (self.n_blocks * self.block_rows, array.shards[1])
                self._whole_shards[name] = zarr.Array(
                    zarr.AsyncArray(array.metadata.update_shape(shape), array.store_path)
                )
        return self._whole_shards[name]

    @contextmanager
    def _damage_if_unreadable(self, path: Path) -> Iterator[None]:
        """What the body reads of the store's metadata may be absent or damaged."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            what = "there is no feature store" if path == self.path else "a layer is absent"
            raise DamagedStoreError(f"{what} at {path}; a run extracts it by itself") from error
        except (MemoryError, OSError):
            raise
        except Exception as error:  # of JSON, of codecs, of zarr's checks
            what = f"{type(error).__name__}: {error}"[:300]
            raise DamagedStoreError(
                f"the feature store {path} is damaged ({what}); a run extracts it again by itself"
            ) from error

    def _require_own(self, array: zarr.Array, layer: LayerInfo | None = None) -> None:
        """The array's form follows from what it is called, from its layer's shape and the ids."""
        (found,) = _layers_of({array.metadata.dimension_names[1].removesuffix(".feature"): array})
        form = (array.shape, array.chunks, str(array.dtype))
        shape = (self.n_stimuli, found.n_features)
        chunks = (self.block_rows, layout.chunk_features(found.n_features))
        if form != (shape, chunks, self.dtype) or found != (layer or self.layer(found.name)):
            raise ValueError(f"the array of layer {found.name!r} is not as its metadata say")

    def _owner(self, layer: str, block: int) -> bytes:
        """Whose a file is: what tells row blocks of one shape apart."""
        whose = json.dumps([self.provenance, layer, block], sort_keys=True)
        return hashlib.blake2b(whose.encode(), digest_size=layout.OWNER_BYTES).digest()

    def _is_own(self, layer: str, block: int) -> bool:
        with self._shard_path(layer, block).open("rb", buffering=0) as file:
            return file.read(layout.OWNER_BYTES) == self._owner(layer, block)

    def _shard_path(self, layer: str, block: int) -> Path:
        return self.path / layer / _CHUNK_KEY.format(block=block)

    def _not_finite(self, layer: str, rows: slice, values: NDArray[np.floating]) -> str:
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        ids = [self.stimulus_ids[rows.start + row] for row in bad]
        what = "NaN or infinity"
        if self.dtype == "float16":
            what += " in float16 (nothing beyond 65504: features: {dtype: bfloat16} has no limit)"
        return f"layer {layer!r} gave {what} for {len(ids)} stimuli: {listed(ids)}"

    def _damaged_blocks(self, layer: str, aligned: slice) -> list[int]:
        array = self._array_of_whole_shards(layer)
        return [block for block in range(self.n_blocks) if not _is_sound(array, block, aligned)]

    def _damage(self, layer: str, columns: slice, blocks: Sequence[int]) -> DamagedChunkError:
        paths = [self._shard_path(layer, block) for block in blocks]
        return DamagedChunkError(layer, blocks, columns, paths)


def _file_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name


def _layers_of(arrays: Mapping[str, zarr.Array]) -> tuple[LayerInfo, ...]:
    return stored(
        LayerInfo(name, array.attrs["layer_shape"], array.attrs["layer_index"])
        for name, array in arrays.items()
    )


def _is_sound(array: zarr.Array, block: int, columns: slice) -> bool:
    n_rows = array.chunks[0]
    try:
        array[block * n_rows : (block + 1) * n_rows, columns]
    except Exception:  # zarrs raises RuntimeError, IndexError …, depending on the damage
        return False
    return True
