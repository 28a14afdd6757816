"""A laboratory's own files: images, responses, and tables that say what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from toolkit.data.dataset import (
    DatasetSize,
    NeuralDataset,
    check_unique,
    positional_ids,
)
from toolkit.data.errors import DataError
from toolkit.data.framing import framed_as
from toolkit.data.images import (
    ImageFiles,
    ImageSource,
    default_id,
    located,
    require_readable,
    source_at,
)
from toolkit.data.naming import matched, natural_key, unmatched
from toolkit.data.response_tables import ResponseTable, are_numbers
from toolkit.data.responses import ResponseArray, Responses, open_responses
from toolkit.data.tables import (
    TABLE_SUFFIXES,
    read_neuroid_table,
    read_stimulus_table,
    split_indices,
)

_ORDERS = ("natural", "text", "table")
_N_PAIRS = 5  # rows that are shown with their images


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
        ``.npy``, ``.npz`` or ``.zarr`` array (matched to the images by an array ``stimulus_id``,
        ``image_id`` or ``stimulus`` beside it, if there is one), or a ``.csv``/``.parquet`` table
        with a column ``stimulus_id`` (matched to the images) and one column per neuroid.
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
        (matched by id to the columns of a response table, and to the neurons of an array whose
        file names them), and optionally ``region``.
    image_order
        Which order the stimulus axis of a response array follows: ``"table"``, the rows of the
        stimulus table; ``"natural"``, file names with numbers by value (``a2`` before ``a10``); or
        ``"text"``, file names by code point (``a10`` before ``a2``). None means the table where
        there is one, and names only if both of their orders are the same.
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
        of the responses' file, else of the neuroid table, else made from positions and the
        responses' content.

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
        notes=(found.pairing, *notes),
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
    pairing: str
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
    table_path = None if stimulus_table is None else Path(stimulus_table)
    if Path(images).suffix.lower() in TABLE_SUFFIXES:
        if table_path is not None:
            raise DataError(
                f"{images}: images is a table already; put the columns of {table_path} there, or "
                "give images as a folder or .zip"
            )
        table_path = Path(images)
    listing = _list_images(Path(images), table_path)
    path = Path(responses)
    neurons = None if neuroid_table is None else Path(neuroid_table)
    ids, regions = (None, None) if neurons is None else read_neuroid_table(neurons)
    found = open_responses(path, response_axes, neuroid_columns, ids)
    is_joined = found.stimulus_ids is not None
    if not isinstance(found, ResponseTable):
        found = found if ids is None else found.of_neuroids(ids)
        _refuse_other_sizes(found, ids, len(listing.ids), stimulus_table or images, neuroid_table)
    listing, pairing = _paired(listing, path, Path(images), table_path, image_order, is_joined)
    if isinstance(found, ResponseTable):
        names, are_positions = found.columns, ids is None and are_numbers(found.columns)
        values, notes = found.in_order_of(listing.ids)
        responses_found: ResponseArray | Responses = Responses(values, None, found.notes + notes)
    else:
        called = found.neuroid_ids or ids
        names = called or tuple(f"neuroid-{i:03d}" for i in range(found.n_neuroids))
        are_positions = ids is None and (called is None or are_numbers(called))
        responses_found = found.in_order_of(listing.ids)
    if regions is not None and region:
        raise DataError(f"{neuroid_table}: has a column region, so leave out region={region!r}")
    region_of = dict(zip(ids or (), regions or (), strict=False))
    return _Found(
        images=listing,
        pairing=pairing,
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
    if array.stimulus_ids is None and array.n_stimuli != n_images:
        raise DataError(
            f"{array.path}: responses to {array.n_stimuli} stimuli, but {images} gives {n_images} "
            "images; the numbers must be equal (response_axes says which axis of an array is which)"
        )
    if neuroid_ids is not None and len(neuroid_ids) != array.n_neuroids:
        raise DataError(
            f"{neuroid_table}: {len(neuroid_ids)} neuroids, but {array.path} has "
            f"{array.n_neuroids}; the numbers must be equal"
        )


def _list_images(images: Path, table_path: Path | None) -> _Images:
    """Images in the order of the table, or of their names as text."""
    if table_path is not None:
        folder = images.parent if images == table_path else images
        return _images_of_table(folder, source_at(folder), table_path)
    source = source_at(images)
    names = tuple(source.names())
    if not names:
        raise DataError(f"{images}: no images in it")
    ids = tuple(map(default_id, names))
    check_unique(ids, "file name (without suffix)", images)
    require_readable(source, names)
    return _Images(source, names, ids)


def _images_of_table(images: Path, source: ImageSource, table_path: Path) -> _Images:
    table = read_stimulus_table(table_path)
    names = (
        located(source, table.filenames, table_path, images)
        if table.filenames is not None
        else _files_called(table.ids or (), images, source, table_path)
    )
    return _Images(
        source=source,
        names=tuple(names),
        ids=table.ids or tuple(map(default_id, names)),
        object_names=table.object_names,
        category_names=table.category_names,
        split_names=table.split_names,
    )


def _files_called(
    ids: Sequence[str], images: Path, source: ImageSource, table_path: Path
) -> list[str]:
    """Files of a table without file names: those that are called after the stimulus id."""
    available = source.names()
    files = matched(ids, available, str(images))
    missing = [i for i, file in zip(ids, files, strict=True) if file is None]
    if missing:
        raise DataError(
            f"{table_path}: no image in {images} is called after {len(missing)} of its "
            f"stimulus_id: {unmatched(missing, available)}; add a column filename"
        )
    return located(source, [file for file in files if file is not None], table_path, images)


def _paired(
    listing: _Images,
    responses: Path,
    images: Path,
    table_path: Path | None,
    order: str | None,
    is_joined: bool,
) -> tuple[_Images, str]:
    """The images in the order of the responses, and a line that says why which belongs to which."""
    if order not in (None, *_ORDERS):
        raise DataError(f"image_order is {order!r}; write {' or '.join(map(repr, _ORDERS))}")
    if order == "table" and table_path is None:
        raise DataError(f"{images}: image_order is 'table', but there is no stimulus_table")
    by_name = {"natural": _sorted(listing, natural_key), "text": _sorted(listing, str)}
    if order is None and table_path is None:
        if not is_joined and by_name["natural"].names != by_name["text"].names:
            raise _two_orders(images, responses, by_name)
        why = "names"
    else:
        why = "rows of the table" if order in (None, "table") else f"{order} order of names"
    if table_path is None or order in by_name:
        listing = by_name[order or "text"]
    if is_joined:
        pairs = [f"{i} → {name}" for i, name in zip(listing.ids, listing.names, strict=True)]
        return listing, f"{responses.name} is joined to the images by stimulus_id: {_few(pairs)}"
    if why == "rows of the table":
        why += f" {table_path}"
    pairs = [f"{row} → {name}" for row, name in enumerate(listing.names)]
    return listing, f"row of {responses.name} → image, by the {why}: {_few(pairs)}"


def _two_orders(images: Path, responses: Path, by_name: Mapping[str, _Images]) -> DataError:
    natural, text = by_name["natural"].names, by_name["text"].names
    first = next(row for row in range(len(text)) if natural[row] != text[row])
    return DataError(
        f"{responses} has no ids, and the names in {images} have two orders, which differ from row "
        f"{first} on. natural: {_few(natural[first:])}; text: {_few(text[first:])}. Say which one "
        "the rows follow, image_order: natural or text; or give a stimulus_table with a row for "
        "each, and its order counts"
    )


def _few(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_N_PAIRS]) + (", …" if len(texts) > _N_PAIRS else "")


def _sorted(listing: _Images, key: Callable[[str], Any]) -> _Images:
    order = sorted(range(len(listing.names)), key=lambda i: (key(listing.names[i]), i))
    columns: dict[str, Any] = {
        column.name: tuple(values[i] for i in order)
        for column in fields(listing)
        if column.name != "source" and (values := getattr(listing, column.name)) is not None
    }
    return replace(listing, **columns)
