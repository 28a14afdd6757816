"""A laboratory's own files: images, responses, and tables that say what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.dataset import (
    DatasetSize,
    NeuralDataset,
    check_unique,
    positional_ids,
    shortened,
)
from toolkit.data.errors import DataError
from toolkit.data.framing import framed_as
from toolkit.data.images import ImageFiles, ImageSource, default_id, source_at
from toolkit.data.response_tables import ResponseTable
from toolkit.data.responses import ResponseArray, Responses, open_responses
from toolkit.data.tables import (
    TABLE_SUFFIXES,
    StimulusTable,
    read_neuroid_table,
    read_stimulus_table,
    split_indices,
)


def load(
    *,
    name: str,
    images: str | Path,
    responses: str | Path,
    response_axes: Sequence[str] | None = None,
    neuroid_columns: Sequence[str] | None = None,
    region: str = "",
    stimulus_table: str | Path | None = None,
    neuroid_table: str | Path | None = None,
    image_order: str | None = None,
    framed: bool = False,
    frame: Mapping[str, Any] | None = None,
    missing_responses: str = "refuse",
) -> NeuralDataset:
    """Load images and responses from files.

    Parameters
    ----------
    name
        What tables and figures call the data set.
    images
        A folder (searched at any depth), a ``.zip``, or a ``.csv``/``.parquet`` stimulus table
        whose column ``filename`` names the files relative to the table.
    responses
        ``.npy``, ``.npz`` or ``.zarr`` array, or a ``.csv``/``.parquet`` table with a column
        ``stimulus_id`` (matched to the images) and one column per neuroid.
    response_axes
        What each axis of a response array is, in its order: ``stimulus``, ``neuroid`` and perhaps
        ``repetition``. NaN in a repetition means not presented. None means what the file calls its
        axes, or stimulus, neuroid.
    neuroid_columns
        Names, or patterns such as ``unit_*``, of the columns of a response table that are neuroids.
        None means those of the neuroid table, or a guess that ``notes`` tell; see
        :func:`toolkit.data.response_tables.read_response_table`.
    region
        Brain area of every neuroid, unless the neuroid table has a column ``region``.
    stimulus_table
        ``.csv`` or ``.parquet``; columns ``stimulus_id`` and/or ``filename`` (relative to the
        folder or archive), and optionally ``object_name``, ``category_name`` (or ``label``),
        ``split``. Images that it does not name are left out.
    neuroid_table
        ``.csv`` or ``.parquet`` with a column ``neuroid_id``, in the order of the array's axis
        (matched by id to the columns of a response table), and optionally ``region``.
    image_order
        Which order the stimulus axis of a response array follows: ``"table"``, the rows of the
        stimulus table; or ``"name"``, file names sorted by code point (``a10`` before ``a2``).
        None means the table where there is one.
    framed
        Whether the images are already cropped to what a network should see.
    frame
        Makes images of any size square; the parameters of
        :class:`toolkit.data.framing.SquareFrame`. They then show what a network should see.
    missing_responses
        What NaN responses mean: ``"refuse"``, an error that names them; ``"mask"``, images that a
        neuron was not recorded for.

    Returns
    -------
    NeuralDataset
        Stimulus ids are the table's, or the files' relative paths without suffix; neuroid ids those
        of the neuroid table or the columns, or made from positions and the responses' content.

    Raises
    ------
    DataError
        If something is missing, unreadable or disagrees. Images are only read when asked for.
    """
    found = _inspect(
        images=images,
        responses=responses,
        response_axes=response_axes,
        neuroid_columns=neuroid_columns,
        region=region,
        stimulus_table=stimulus_table,
        neuroid_table=neuroid_table,
        image_order=image_order,
    )
    listing = found.images
    stored = found.responses
    read = stored.read() if isinstance(stored, ResponseArray) else stored
    neuroid_ids, notes = found.neuroid_ids, read.notes
    if found.are_positions:
        neuroid_ids = positional_ids(neuroid_ids, read.averaged)
        notes += (
            f"{responses}: neurons have no names but their positions: {neuroid_ids[0]}, …; give a "
            "neuroid_table to know them again in other files",
        )
    return NeuralDataset(
        name=name,
        stimuli=framed_as(ImageFiles(listing.source, listing.names, listing.ids, framed), frame),
        responses=read.averaged,
        repetitions=read.repetitions,
        neuroid_ids=neuroid_ids,
        regions=found.regions,
        object_names=listing.object_names,
        category_names=listing.category_names,
        splits=split_indices(listing.split_names),
        source=str(responses),
        notes=notes,
        masks_missing=missing_responses == "mask",
    )


def size_of(
    *,
    name: str,
    images: str | Path,
    responses: str | Path,
    response_axes: Sequence[str] | None = None,
    neuroid_columns: Sequence[str] | None = None,
    region: str = "",
    stimulus_table: str | Path | None = None,
    neuroid_table: str | Path | None = None,
    image_order: str | None = None,
    framed: bool = False,
    frame: Mapping[str, Any] | None = None,
    missing_responses: str = "refuse",
) -> DatasetSize:
    """Size of what :func:`load` would give, from listings, tables and array headers alone.

    Takes the same parameters and makes the same checks, except those of response values.
    """
    found = _inspect(
        images=images,
        responses=responses,
        response_axes=response_axes,
        neuroid_columns=neuroid_columns,
        region=region,
        stimulus_table=stimulus_table,
        neuroid_table=neuroid_table,
        image_order=image_order,
    )
    splits = split_indices(found.images.split_names)
    return DatasetSize(
        n_stimuli=len(found.images.ids),
        n_neuroids=len(found.neuroid_ids),
        split_sizes={split: len(index) for split, index in splits.items()},
    )


@dataclass(frozen=True)
class _Images:
    """The image files in the order of the responses, with what a table says of each."""

    source: ImageSource
    names: tuple[str, ...]
    ids: tuple[str, ...]
    object_names: tuple[str, ...] | None = None
    category_names: tuple[str, ...] | None = None
    split_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Found:
    images: _Images
    responses: ResponseArray | Responses
    neuroid_ids: tuple[str, ...]
    are_positions: bool
    regions: tuple[str, ...]


def _inspect(
    *,
    images: str | Path,
    responses: str | Path,
    response_axes: Sequence[str] | None,
    neuroid_columns: Sequence[str] | None,
    region: str,
    stimulus_table: str | Path | None,
    neuroid_table: str | Path | None,
    image_order: str | None,
) -> _Found:
    """Everything that can be known and checked without reading images or responses."""
    listing = _list_images(
        Path(images), None if stimulus_table is None else Path(stimulus_table), image_order
    )
    path = Path(responses)
    table = None if neuroid_table is None else Path(neuroid_table)
    ids, regions = (None, None) if table is None else read_neuroid_table(table)
    found = open_responses(path, response_axes, neuroid_columns, ids)
    if isinstance(found, ResponseTable):
        names, are_positions = found.columns, ids is None and found.is_numbered
        values, notes = found.in_order_of(listing.ids)
        responses_found: ResponseArray | Responses = Responses(values, None, found.notes + notes)
    else:
        names = ids or tuple(f"neuroid-{i:03d}" for i in range(found.n_neuroids))
        are_positions = ids is None
        _refuse_other_sizes(found, ids, len(listing.ids), stimulus_table or images, neuroid_table)
        responses_found = found
    if regions is not None and region:
        raise DataError(f"{neuroid_table}: has a column region, so leave out region={region!r}")
    region_of = dict(zip(ids or (), regions or (), strict=False))
    return _Found(
        images=listing,
        responses=responses_found,
        neuroid_ids=names,
        are_positions=are_positions,
        regions=tuple(region_of.get(name, region) for name in names),
    )


def _refuse_other_sizes(
    array: ResponseArray,
    neuroid_ids: Sequence[str] | None,
    n_images: int,
    images: str | Path,
    neuroid_table: str | Path | None,
) -> None:
    if array.n_stimuli != n_images:
        raise DataError(
            f"{array.path}: responses to {array.n_stimuli} stimuli, but {images} gives {n_images} "
            "images; the numbers must be equal (response_axes says which axis of an array is which)"
        )
    if neuroid_ids is not None and len(neuroid_ids) != array.n_neuroids:
        raise DataError(
            f"{neuroid_table}: {len(neuroid_ids)} neuroids, but {array.path} has "
            f"{array.n_neuroids}; the numbers must be equal"
        )


def _list_images(images: Path, table_path: Path | None, order: str | None) -> _Images:
    if order not in (None, "name", "table"):
        raise DataError(f"image_order is {order!r}; write 'name' or 'table', or leave it out")
    if images.suffix.lower() in TABLE_SUFFIXES:
        if table_path is not None:
            raise DataError(
                f"{images}: images is a table already; put the columns of {table_path} there, or "
                "give images as a folder or .zip"
            )
        table_path, source = images, source_at(images.parent)
    else:
        source = source_at(images)
    if table_path is not None:
        listing = _images_of_table(images, source, table_path)
        return _sorted_by_name(listing) if order == "name" else listing
    if order == "table":
        raise DataError(f"{images}: image_order is 'table', but there is no stimulus_table")
    names = tuple(source.names())
    if not names:
        raise DataError(f"{images}: no images in it")
    ids = tuple(map(default_id, names))
    check_unique(ids, "file name (without suffix)", images)
    return _Images(source, names, ids)


def _images_of_table(images: Path, source: ImageSource, table_path: Path) -> _Images:
    table = read_stimulus_table(table_path)
    names = table.filenames or _names_by_id(images, source, table_path, table)
    missing = [repr(name) for name in source.missing(names)]
    if missing:
        raise DataError(
            f"{table_path}: names {len(missing)} images that are not in "
            f"{images.parent if images == table_path else images}: {shortened(missing)}"
        )
    return _Images(
        source=source,
        names=names,
        ids=table.ids or tuple(map(default_id, names)),
        object_names=table.object_names,
        category_names=table.category_names,
        split_names=table.split_names,
    )


def _names_by_id(
    images: Path, source: ImageSource, table_path: Path, table: StimulusTable
) -> tuple[str, ...]:
    """Files of a table without file names: those whose default id is the stimulus id."""
    available = source.names()
    check_unique([default_id(name) for name in available], "file name (without suffix)", images)
    by_id = {default_id(name): name for name in available}
    missing = [repr(i) for i in table.ids or () if i not in by_id]
    if missing:
        raise DataError(
            f"{table_path}: no image in {images} is called after stimulus_id {shortened(missing)}; "
            "add a column filename"
        )
    return tuple(by_id[i] for i in table.ids or ())


def _sorted_by_name(listing: _Images) -> _Images:
    order = np.argsort(np.array(listing.names, dtype=object))
    columns = {f.name: getattr(listing, f.name) for f in fields(listing) if f.name != "source"}
    return _Images(
        listing.source,
        **{key: column and tuple(column[i] for i in order) for key, column in columns.items()},
    )
