"""From what a user points at to a data set: a name, a recording, or the config that names one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from toolkit.data import KINDS, load
from toolkit.data.archive import ARCHIVES
from toolkit.data.dataset import NeuralDataset
from toolkit.data.errors import DataError, MissingDataError

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
    kind, params = _describe(source)
    params.update(_parsed(override) for override in overrides)
    _refuse_unknown(kind, params)
    return load(kind, **params)


def _describe(source: str) -> tuple[str, dict[str, Any]]:
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
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid YAML ({error})") from error
    section = values.get("dataset") if isinstance(values, dict) else None
    section = section[0] if isinstance(section, list) and section else section
    if not isinstance(section, dict) or section.get("kind") not in KINDS:
        raise DataError(
            f"{path}: no dataset with a kind in it; if it extends another config, describe that one"
        )
    params = {key: value for key, value in section.items() if key not in ("kind", "sizes")}
    return section["kind"], params


def _parsed(override: str) -> tuple[str, Any]:
    key, equals, value = override.partition("=")
    if not equals:
        raise DataError(f"--set {override}: write KEY=VALUE")
    return key, yaml.safe_load(value)


def _refuse_unknown(kind: str, params: dict[str, Any]) -> None:
    known = inspect.signature(KINDS[kind].load).parameters
    unknown = [key for key in params if key not in known]
    if unknown:
        raise DataError(f"{kind} has no key {', '.join(unknown)}; it has {', '.join(known)}")
    missing = [k for k, p in known.items() if p.default is p.empty and k not in params]
    if missing:
        raise DataError(f"{kind} needs {', '.join(missing)}; write --set {missing[0]}=…")
