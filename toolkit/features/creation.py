"""Making a store on disk, and what differs when one that is there was made for other content."""

from __future__ import annotations

import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from toolkit.features import layout, shards
from toolkit.features.errors import FeatureError, listed
from toolkit.features.layout import STIMULUS
from toolkit.models import LayerInfo


@dataclass(frozen=True)
class Content:
    """What a store is created for: the same content may share a store, other content may not.

    Parameters
    ----------
    layers
        In the order of execution, as :func:`stored` gives them.
    stimulus_ids
        One per row.
    provenance
        JSON values.
    dtype
        Of the numbers on disk, "float32" or "float16".
    shuffle
        Whether compression groups bytes by significance: "noshuffle" or "shuffle".
    """

    layers: tuple[LayerInfo, ...]
    stimulus_ids: tuple[str, ...]
    provenance: dict[str, Any]
    dtype: str = "float32"
    shuffle: str = "noshuffle"


def stored(layers: Iterable[LayerInfo]) -> tuple[LayerInfo, ...]:
    """Layers as a store knows them: name, shape and index, in the order of execution."""
    known = (LayerInfo(layer.name, tuple(layer.shape), layer.index) for layer in layers)
    return tuple(sorted(known, key=lambda layer: layer.index))


def create_group(path: Path, content: Content) -> None:
    """Make the group under another name and move it, so that it is complete or absent.

    Of several processes that create it at once, one succeeds and the others find it there.

    Raises
    ------
    FeatureError
        If layers or ids are missing or repeat, or a layer's name is that of no file.
    """
    _require_unique("layer", [layer.name for layer in content.layers])
    _require_unique("stimulus id", content.stimulus_ids)
    for layer in content.layers:
        if why := layout.why_unstorable(layer.name):
            raise FeatureError(f"layer {layer.name[:60]!r}: {why}")
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        _fill_group(partial, content)
        partial.rename(path)
    except OSError:
        if not path.exists():
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_store(path: Path) -> None:
    """Remove a feature store, or what damage has left of one; it disappears at once.

    Raises
    ------
    FeatureError
        If what is there does not look like a store: it has neither metadata nor ids.
    """
    if not path.exists():
        return
    if not ((path / "zarr.json").exists() or (path / STIMULUS).exists()):
        raise FeatureError(f"{path} is in the way of a feature store; move or remove it")
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        path.rename(aside)
    except FileNotFoundError:  # another process was faster
        return
    if aside.is_symlink():
        aside.unlink()
    else:
        shutil.rmtree(aside, ignore_errors=True)


def _fill_group(path: Path, content: Content) -> None:
    n_stimuli = len(content.stimulus_ids)
    block_rows = layout.block_rows(content.layers, content.dtype)
    group = zarr.create_group(path, zarr_format=3, attributes={"provenance": content.provenance})
    ids_array = group.create_array(
        STIMULUS,
        shape=(n_stimuli,),
        chunks=(n_stimuli,),
        dtype="string",
        dimension_names=(STIMULUS,),
    )
    ids_array[:] = np.array(content.stimulus_ids, object)
    for layer in content.layers:
        width = layout.chunk_features(layer.n_features)
        group.create_array(
            layer.name,
            shape=(n_stimuli, layer.n_features),
            chunks=(block_rows, width),
            shards=(block_rows, width * layout.chunks_across(layer.n_features)),
            chunk_key_encoding={"name": "default", "separator": "."},
            dtype=content.dtype,
            fill_value=float("nan"),
            filters=None,
            compressors=[
                BloscCodec(cname=shards.CODEC, clevel=shards.LEVEL, shuffle=content.shuffle),
                Crc32cCodec(),
            ],
            dimension_names=(STIMULUS, f"{layer.name}.feature"),
            attributes={"layer_shape": list(layer.shape), "layer_index": layer.index},
        )
    with warnings.catch_warnings():
        # Readers without consolidated metadata ignore it; with it none lists the folder.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(path)


def differences(old: Content, new: Content) -> list[str]:
    """Say what the store in ``old`` has that ``new`` has not, and the reverse; empty if nothing."""
    return [
        *_layer_differences(old.layers, new.layers),
        *_id_differences(old.stimulus_ids, new.stimulus_ids),
        *_provenance_differences(old.provenance, new.provenance),
        *([] if old.dtype == new.dtype else [f"its dtype is {old.dtype}, not {new.dtype}"]),
    ]


def _require_unique(what: str, names: Sequence[str]) -> None:
    if not names:
        raise FeatureError(f"a feature store needs at least one {what}")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise FeatureError(f"{what} repeats: {listed(repeated)}")


def _layer_differences(old: Sequence[LayerInfo], new: Sequence[LayerInfo]) -> list[str]:
    old_names, new_names = ([layer.name for layer in layers] for layers in (old, new))
    if absent := [name for name in new_names if name not in old_names]:
        return [f"it has no layers {listed(absent)}"]
    if surplus := [name for name in old_names if name not in new_names]:
        return [f"it also has layers {listed(surplus)}"]
    return [
        f"its layer {o.name!r} has shape {o.shape} at index {o.index}, not {n.shape} at {n.index}"
        for o, n in zip(old, new, strict=True)
        if o != n
    ]


def _id_differences(old: tuple[str, ...], new: tuple[str, ...]) -> list[str]:
    if len(old) != len(new):
        return [f"it has {len(old)} stimuli, not {len(new)}"]
    for row, (old_id, new_id) in enumerate(zip(old, new, strict=True)):
        if old_id != new_id:
            return [f"its stimulus {row} is {old_id!r}, not {new_id!r}"]
    return []


def _provenance_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"its provenance {key!r} is {old.get(key)!r}, not {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
