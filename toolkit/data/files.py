"""A laboratory's own files: images, responses, and tables that say what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.dataset import DatasetSize, NeuralDataset, check_unique, shortened
from toolkit.data.errors import DataError
from toolkit.data.framing import framed_as
from toolkit.data.images import ImageFiles, ImageSource, default_id, source_at
from toolkit.data.responses import read_header, read_responses
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
    response_axes: Sequence[str] = ("stimulus", "neuroid"),
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
        ``repetition``. NaN in a repetition means not presented.
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
        Stimulus ids are the table's, or the files' relative paths without suffix.

    Raises
    ------
    DataError
        If something is missing, unreadable or disagrees. Images are only read when asked for.
    """
    found = _inspect(
        images=images,
        responses=responses,
        response_axes=response_axes,
        region=region,
        stimulus_table=stimulus_table,
        neuroid_table=neuroid_table,
        image_order=image_order,
    )
    listing = found.images
    averaged, repetitions = read_responses(Path(responses), response_axes, listing.ids)
    return NeuralDataset(
        name=name,
        stimuli=framed_as(ImageFiles(listing.source, listing.names, listing.ids, framed), frame),
        responses=averaged,
        repetitions=repetitions,
        neuroid_ids=found.neuroid_ids,
        regions=found.regions,
        object_names=listing.object_names,
        category_names=listing.category_names,
        splits=split_indices(listing.split_names),
        source=str(responses),
        masks_missing=missing_responses == "mask",
    )


def size_of(
    *,
    name: str,
    images: str | Path,
    responses: str | Path,
    response_axes: Sequence[str] = ("stimulus", "neuroid"),
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
    neuroid_ids: tuple[str, ...]
    regions: tuple[str, ...]


def _inspect(
    *,
    images: str | Path,
    responses: str | Path,
    response_axes: Sequence[str],
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
    header = read_header(path, response_axes)
    if header.n_stimuli not in (None, len(listing.ids)):
        raise DataError(
            f"{path}: responses to {header.n_stimuli} stimuli, but {stimulus_table or images} "
            f"gives {len(listing.ids)} images; the numbers must be equal (response_axes says which "
            "axis of an array is which)"
        )
    neuroid_ids, regions = _neuroids(
        path,
        header.n_neuroids,
        header.neuroid_ids,
        None if neuroid_table is None else Path(neuroid_table),
        region,
    )
    return _Found(listing, neuroid_ids, regions)


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


def _neuroids(
    responses: Path,
    n_neuroids: int,
    columns: tuple[str, ...] | None,
    table_path: Path | None,
    region: str,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Id and region of each neuroid, in the order of the responses."""
    default = columns or tuple(f"neuroid-{i:03d}" for i in range(n_neuroids))
    if table_path is None:
        return default, (region,) * n_neuroids
    ids, regions = read_neuroid_table(table_path)
    if len(ids) != n_neuroids:
        raise DataError(
            f"{table_path}: {len(ids)} neuroids, but {responses} has {n_neuroids}; "
            "the numbers must be equal"
        )
    if columns is not None and set(ids) != set(columns):
        differing = sorted(map(repr, set(ids) ^ set(columns)))
        raise DataError(
            f"{table_path}: neuroid ids differ from the columns of {responses}: "
            f"{shortened(differing)}"
        )
    if regions is None:
        return columns or ids, (region,) * n_neuroids
    if region:
        raise DataError(f"{table_path}: has a column region, so leave out region={region!r}")
    region_of = dict(zip(ids, regions, strict=True))
    return columns or ids, tuple(region_of[i] for i in columns or ids)
