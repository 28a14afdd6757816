"""From what a user points at to a data set: a name, a recording, or the config that names one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit.data import KINDS, load
from toolkit.data.archive import ARCHIVES
from toolkit.data.dataset import NeuralDataset
from toolkit.data.errors import DataError, MissingDataError
from toolkit.yaml_source import Source

_PATH_KEY = {"majaj_hong": "path", "nx414": "path", "xiao2024": "sessions"}
_KIND_OF_SUFFIX = {".nc": "majaj_hong", ".h5": "nx414", ".hdf5": "nx414", ".nwb": "xiao2024"}


def dataset_at(source: str, overrides: Sequence[str] = ()) -> NeuralDataset:
    """Load the data set that a name or path stands for.

    Parameters
    ----------
    source
        Name of a fetched data set; an ``.nwb`` file, or a folder with some; a folder with an
        assembly (``.nc``), or that; an NX-414 file (``.h5``); a config (``.yaml``), whose
        ``dataset`` (the first, if a list) is taken.
    overrides
        ``key=value`` texts for the parameters of the loader, values in YAML.

    Raises
    ------
    DataError
        If it is nothing of the kind, or the data set cannot be loaded.
    """
    return _load(*_described(source, overrides))


def before_onset_at(source: str, overrides: Sequence[str] = ()) -> NeuralDataset | None:
    """Load the same neuroids' responses in a window of equal length that ends at image onset.

    What is reliable in them is not due to the images. None where the source does not tell spikes
    from before, or responses are not aligned to images.

    Parameters
    ----------
    source, overrides
        As for :func:`dataset_at`.
    """
    kind, params = _described(source, overrides)
    if kind != "xiao2024" or params.get("align", "image") != "image":
        return None
    known = inspect.signature(KINDS[kind].load).parameters
    start_ms, stop_ms = params.get("window_ms", known["window_ms"].default)
    window = {"window_ms": (start_ms - stop_ms, 0), "baseline_ms": None}
    return _load(kind, {**params, **window, "images": None, "frame": None})


def _load(kind: str, params: dict[str, Any]) -> NeuralDataset:
    try:
        return load(kind, **params)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in params.items())
        raise DataError(f"{kind} cannot be loaded with {given}: {error}") from error


def _described(source: str, overrides: Sequence[str]) -> tuple[str, dict[str, Any]]:
    kind, params = _pointed_at(source)
    params.update(_parsed(override) for override in overrides)
    _refuse_unknown(kind, params)
    known = inspect.signature(KINDS[kind].load).parameters
    return kind, {key: _as_taken(value, known[key]) for key, value in params.items()}


def _pointed_at(source: str) -> tuple[str, dict[str, Any]]:
    path = Path(source).expanduser()
    if source in ARCHIVES:
        archive = ARCHIVES[source]
        path = Path(archive.folder) / (archive.files[0].name if len(archive.files) == 1 else "")
        if not path.exists():
            raise MissingDataError(
                f"{source} is not in {path}; fetch it (python -m toolkit.data fetch {source}) or "
                "give its path"
            )
        return source, {_PATH_KEY[source]: path}
    if not path.exists():
        raise MissingDataError(
            f"{source}: no such file or folder, and none of {', '.join(ARCHIVES)}"
        )
    if path.suffix in (".yaml", ".yml"):
        return _of_config(path)
    kind = _kind_of_folder(path) if path.is_dir() else _KIND_OF_SUFFIX.get(path.suffix)
    if kind is None:
        raise DataError(
            f"{path}: not known as a recording; give an .nwb file, an assembly (.nc), IT_data.h5, "
            "a folder of these, or a config (.yaml) with a dataset"
        )
    return kind, {_PATH_KEY[kind]: path}


def _kind_of_folder(path: Path) -> str | None:
    if any(path.glob("*.nc")):
        return "majaj_hong"
    return "xiao2024" if any(path.rglob("*.nwb")) else None


def _of_config(path: Path) -> tuple[str, dict[str, Any]]:
    values = Source.read(path).values
    section = values.get("dataset")
    section = section[0] if isinstance(section, list) and section else section
    if not isinstance(section, dict) or section.get("kind") not in KINDS:
        raise DataError(f"{path}: no dataset with a kind in it")
    params = {key: value for key, value in section.items() if key not in ("kind", "sizes")}
    return section["kind"], params


def _parsed(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals:
        raise DataError(f"--set {override}: write KEY=VALUE")
    return key, yaml.safe_load(value)


def _as_taken(value: Any, parameter: inspect.Parameter) -> Any:
    """A value as the loader takes it: paths with ~ and $VARIABLES expanded, lists of one as lists.

    Both may be written shorter in a config.
    """
    if "Path" in parameter.annotation and isinstance(value, str):
        value = Path(os.path.expandvars(value)).expanduser()
    if "Sequence[" in parameter.annotation and not isinstance(value, list | tuple | None):
        return [value]
    return value


def _refuse_unknown(kind: str, params: dict[str, Any]) -> None:
    known = inspect.signature(KINDS[kind].load).parameters
    unknown = [key for key in params if key not in known]
    if unknown:
        raise DataError(f"{kind} has no key {', '.join(unknown)}; it has {', '.join(known)}")
    missing = [k for k, p in known.items() if p.default is p.empty and k not in params]
    if missing:
        raise DataError(f"{kind} needs {', '.join(missing)}; write --set {missing[0]}=…")
