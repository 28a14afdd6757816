"""Majaj, Hong et al. 2015: macaque IT and V4 sites, images of the HvM set (public part)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from toolkit.data.assembly import Assembly, repetition_array
from toolkit.data.dataset import DatasetSize, NeuralDataset, shortened
from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.framing import MID_GREY, FramedStimuli, VisualField
from toolkit.data.images import ImageFiles, located, source_at
from toolkit.data.responses import mean_over_repetitions
from toolkit.data.stimuli import Stimuli

# Width at which the animals saw an image (Majaj et al. 2015, doi:10.1523/JNEUROSCI.5181-14.2015).
VISUAL_DEGREES = 8.0

_FILE_SUFFIXES = {"assembly": ".nc", "stimulus table": ".csv", "images": ".zip"}
# Column of the stimulus table → how its versions spell it.
_TABLE_COLUMNS = {
    "stimulus_id": ("stimulus_id", "image_id"),
    "filename": ("filename", "image_file_name"),
}
_NOT_METADATA = frozenset({"stimulus_id", "image_id", "repetition", "presentation"})


def load(
    *,
    path: str | Path,
    regions: Sequence[str] = ("IT",),
    animals: Sequence[str] | None = None,
    variations: Sequence[int] | None = None,
    val_variation: int | None = None,
    field_of_view_deg: float | None = None,
    background: Sequence[int] = MID_GREY,
    name: str = "majaj_hong",
) -> NeuralDataset:
    """Load the assembly, averaged over repetitions, with its stimuli.

    Stimuli are sorted by id, as Brain-Score sorts them. The repetitions are kept for the ceiling.
    Object and category are labels; variation, pose and all else that the assembly or the table
    knows of an image are ``metadata``.

    Parameters
    ----------
    path
        The folder of the assembly (``.nc``), the stimulus table (``.csv``) and the images
        (``.zip``), or the assembly in it.
    regions
        Brain areas to take: ``"IT"``, ``"V4"``.
    animals
        Animals to take; all if None.
    variations
        Levels of variation to take; all (public: 0 and 3) if None.
    val_variation
        Images of this level become the split ``val``, the others ``train``; no splits if None.
    field_of_view_deg
        Degrees of visual angle that a network is taken to see: the 8° images are padded or cropped
        to it. None shows the images as they are.
    background
        RGB of the padding.
    name
        What tables call the data set.

    Raises
    ------
    DataError
        If a file is missing or they do not fit together, or nothing is left to load.
    """
    files = _find_files(Path(path))
    with Assembly(files["assembly"]) as assembly:
        chosen = _select(assembly, regions, animals, variations)
        images = _join_images(assembly, chosen, files)
        repetitions = repetition_array(
            assembly, chosen.neuroids, chosen.stimulus_of, chosen.repetition_of
        )
        neuroid_ids = assembly.column("neuroid", "neuroid_id")[chosen.neuroids]
        areas = assembly.column("neuroid", "region")[chosen.neuroids]
    return NeuralDataset(
        name=name,
        stimuli=_stimuli(files, images, field_of_view_deg, background),
        responses=mean_over_repetitions(repetitions),
        repetitions=repetitions,
        neuroid_ids=tuple(map(str, neuroid_ids)),
        regions=tuple(map(str, areas)),
        object_names=_labels(images, "object_name"),
        category_names=_labels(images, "category_name"),
        splits=_splits(images, val_variation, files["assembly"]),
        visual_degrees=VISUAL_DEGREES,
        metadata={
            str(column): images[column].to_numpy()
            for column in images
            if column not in ("filename", "object_name", "category_name")
        },
        source=str(files["assembly"]),
        notes=(
            f"{files['assembly'].name} is joined to the rows of {files['stimulus table'].name} by "
            "stimulus_id, and these to the images by filename",
        ),
    )


def size_of(
    *,
    path: str | Path,
    regions: Sequence[str] = ("IT",),
    animals: Sequence[str] | None = None,
    variations: Sequence[int] | None = None,
    val_variation: int | None = None,
    field_of_view_deg: float | None = None,
    background: Sequence[int] = MID_GREY,
    name: str = "majaj_hong",
) -> DatasetSize:
    """Size of what :func:`load` would give, from the coordinates; the same checks of them."""
    files = _find_files(Path(path))
    with Assembly(files["assembly"]) as assembly:
        chosen = _select(assembly, regions, animals, variations)
        images = _join_images(assembly, chosen, files)
    splits = _splits(images, val_variation, files["assembly"])
    return DatasetSize(
        n_stimuli=len(images),
        n_neuroids=len(chosen.neuroids),
        split_sizes={split: len(index) for split, index in splits.items()},
    )


@dataclass(frozen=True)
class _Selection:
    """What is taken of an assembly; -1 marks presentations that are left out."""

    neuroids: np.ndarray
    ids: np.ndarray
    stimulus_of: np.ndarray
    repetition_of: np.ndarray


def _find_files(path: Path) -> dict[str, Path]:
    folder = path if path.is_dir() else path.parent
    found = {}
    for what, suffix in _FILE_SUFFIXES.items():
        if suffix == path.suffix:
            found[what] = path
            continue
        candidates = sorted(folder.glob(f"*{suffix}"))
        if len(candidates) != 1:
            kind = MissingDataError if not candidates else DataError
            raise kind(
                f"{folder}: {len(candidates)} files *{suffix} for the {what}, expected one"
                f"{': ' if candidates else ''}{shortened([c.name for c in candidates])}"
            )
        found[what] = candidates[0]
    return found


def _select(
    assembly: Assembly,
    regions: Sequence[str],
    animals: Sequence[str] | None,
    variations: Sequence[int] | None,
) -> _Selection:
    in_region = _among(assembly, "neuroid", "region", regions)
    of_animal = True if animals is None else _among(assembly, "neuroid", "animal", animals)
    neuroids = np.flatnonzero(in_region & of_animal)
    if not len(neuroids):
        raise DataError(f"{assembly.path}: no site of animals {animals} lies in {list(regions)}")
    shown = np.ones(assembly.n_presentations, dtype=bool)
    if variations is not None:
        shown = _among(assembly, "presentation", "variation", variations)
    stimuli = assembly.column("presentation", assembly.id_column)
    repetitions = assembly.column("presentation", "repetition")
    ids, stimulus_of = _codes(stimuli, shown)
    _, repetition_of = _codes(repetitions, shown)
    _refuse_doubles(assembly.path, ids, stimulus_of[shown], repetition_of[shown])
    return _Selection(neuroids, ids, stimulus_of, repetition_of)


def _among(assembly: Assembly, dimension: str, column: str, wanted: Sequence[object]) -> np.ndarray:
    """Where a coordinate has one of the wanted values; each of them must occur."""
    values = assembly.column(dimension, column)
    known = sorted(set(values.tolist()))
    unknown = [value for value in wanted if value not in known]
    if unknown or not wanted:
        raise DataError(
            f"{assembly.path}: {column} {shortened(list(map(repr, unknown))) or 'none'} asked for; "
            f"it has {', '.join(map(repr, known))}"
        )
    return np.isin(values, np.array(list(wanted), dtype=values.dtype))


def _codes(values: np.ndarray, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct values of the shown presentations, and which one each has (-1: not shown)."""
    distinct, codes = np.unique(values[shown], return_inverse=True)
    code_of = np.full(len(values), -1)
    code_of[shown] = codes
    return distinct, code_of


def _refuse_doubles(
    path: Path, ids: np.ndarray, stimulus_of: np.ndarray, repetition_of: np.ndarray
) -> None:
    place = stimulus_of * (repetition_of.max() + 1) + repetition_of
    order = np.argsort(place, kind="stable")
    doubles = order[1:][np.diff(place[order]) == 0]
    if len(doubles):
        named = shortened([f"{ids[stimulus_of[i]]!r}" for i in doubles])
        raise DataError(
            f"{path}: {len(doubles)} presentations have the stimulus and repetition of another: "
            f"{named}"
        )


def _join_images(assembly: Assembly, chosen: _Selection, files: dict[str, Path]) -> pd.DataFrame:
    """One row per stimulus, in the order of the responses: what assembly and table say of it."""
    _, first_rows = np.unique(chosen.stimulus_of, return_index=True)
    first_rows = first_rows[-len(chosen.ids) :]  # without that of -1
    known = pd.DataFrame(
        {
            column: assembly.column("presentation", column)[first_rows]
            for column in assembly.columns("presentation")
            if column not in _NOT_METADATA
        },
        index=pd.Index(chosen.ids),
    )
    path = files["stimulus table"]
    table = _read_table(path)
    missing = [repr(i) for i in chosen.ids if i not in table.index]
    if missing:
        raise DataError(
            f"{path}: no row for stimulus_id {shortened(missing)} of {files['assembly']}"
        )
    table = table.loc[chosen.ids]
    _refuse_other_objects(path, files["assembly"], table, known)
    known = known.drop(columns="filename", errors="ignore")
    return pd.concat([table, known[known.columns.difference(table.columns, sort=False)]], axis=1)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(chain(*_TABLE_COLUMNS.values()), str))
    except ValueError as error:
        raise DataError(f"{path}: not a readable table ({error})") from error
    for column, spellings in _TABLE_COLUMNS.items():
        found = [name for name in spellings if name in table]
        if not found:
            raise DataError(f"{path}: no column {column}; it has {', '.join(map(str, table))}")
        table = table.rename(columns={found[0]: column})
    if not table["stimulus_id"].is_unique:
        doubles = table["stimulus_id"][table["stimulus_id"].duplicated()]
        raise DataError(f"{path}: stimulus_id used more than once: {shortened(list(doubles))}")
    return table.set_index("stimulus_id")


def _refuse_other_objects(
    table_path: Path, assembly_path: Path, table: pd.DataFrame, known: pd.DataFrame
) -> None:
    if "object_name" not in table or "object_name" not in known:
        return
    differing = table.index[table["object_name"].astype(str) != known["object_name"].astype(str)]
    if len(differing):
        raise DataError(
            f"{table_path}: object_name of {len(differing)} stimuli is not that of "
            f"{assembly_path}: {shortened(list(differing))}; the two are of different versions"
        )


def _stimuli(
    files: dict[str, Path],
    images: pd.DataFrame,
    field_of_view_deg: float | None,
    background: Sequence[int],
) -> Stimuli:
    source = source_at(files["images"])
    names = located(source, list(images["filename"]), files["stimulus table"], files["images"])
    stimuli = ImageFiles(source, tuple(names), tuple(images.index), framed=True)
    if field_of_view_deg is None:
        return stimuli
    field = VisualField(VISUAL_DEGREES, field_of_view_deg, background)
    return FramedStimuli(stimuli, field)


def _labels(images: pd.DataFrame, column: str) -> tuple[str, ...] | None:
    return tuple(images[column].astype(str)) if column in images else None


def _splits(
    images: pd.DataFrame, val_variation: int | None, assembly: Path
) -> dict[str, np.ndarray]:
    if val_variation is None:
        return {}
    if "variation" not in images:
        raise DataError(f"{assembly}: no variation of the images is known, so none can be held out")
    is_val = images["variation"].to_numpy() == val_variation
    if not is_val.any() or is_val.all():
        levels = sorted(set(images["variation"].tolist()))
        raise DataError(
            f"{assembly}: val_variation is {val_variation}, the images have {levels}; hold out one "
            "of several"
        )
    return {"train": np.flatnonzero(~is_val), "val": np.flatnonzero(is_val)}
