"""From what a user points at to a data set: a name, a recording, or the config that names one."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationError, create_model
from pydantic_core import ErrorDetails

from toolkit.data import KINDS, load
from toolkit.data.archive import ARCHIVES
from toolkit.data.dataset import NeuralDataset
from toolkit.data.errors import DataError, MissingDataError
from toolkit.yaml_source import (
    ConfigError,
    Source,
    StrictModel,
    nearest,
    validated,
    what_is_wrong,
)

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
    ConfigError
        With a line per problem, if a config or a parameter is wrong.
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
    kind, given = _pointed_at(source)
    for override in overrides:
        given.apply(override)
    try:
        params = validated(_parameters(kind), given)
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise ConfigError([_problem(detail, kind, given) for detail in details]) from error
    known = inspect.signature(KINDS[kind].load).parameters
    return kind, {
        key: _expanded(getattr(params, key))
        if "Path" in known[key].annotation
        else getattr(params, key)
        for key in params.model_fields_set
    }


def _pointed_at(source: str) -> tuple[str, Source]:
    path = _expanded(Path(source))
    if source in ARCHIVES:
        archive = ARCHIVES[source]
        path = Path(archive.folder) / (archive.files[0].name if len(archive.files) == 1 else "")
        if not path.exists():
            raise MissingDataError(
                f"{source} is not in {path}; fetch it (python -m toolkit.data fetch {source}) or "
                "give its path"
            )
        return source, Source({_PATH_KEY[source]: path}, {})
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
    return kind, Source({_PATH_KEY[kind]: path}, {})


def _kind_of_folder(path: Path) -> str | None:
    if any(path.glob("*.nc")):
        return "majaj_hong"
    return "xiao2024" if any(path.rglob("*.nwb")) else None


def _of_config(path: Path) -> tuple[str, Source]:
    config = Source.read(path)
    first = config.values.get("dataset")
    section = config.section(("dataset", 0) if isinstance(first, list) and first else ("dataset",))
    kind = section.values.get("kind") if isinstance(section.values, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise DataError(f"{path}: no dataset with a kind in it")
    for key in {"kind", "sizes"} & set(section.values):
        del section.values[key]
    return kind, section


@functools.cache
def _parameters(kind: str) -> type[StrictModel]:
    """What a kind's loader takes, in its signature's types; lists of one may be written short."""
    load = KINDS[kind].load
    hints = typing.get_type_hints(load)
    fields: dict[str, Any] = {}
    for name, parameter in inspect.signature(load).parameters.items():
        hint = hints[name]
        if "Sequence[" in parameter.annotation and "str | Path |" not in parameter.annotation:
            hint = Annotated[hint, BeforeValidator(_as_list)]
        fields[name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    return create_model(kind, __base__=StrictModel, **fields)


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple | None) else [value]


def _problem(detail: ErrorDetails, kind: str, given: Source) -> str:
    path, known = detail["loc"], _parameters(kind).model_fields
    if detail["type"] == "extra_forbidden":
        near = nearest(str(path[-1]), known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return given.problem(path, f"{kind} has no key {path[-1]}; it has {', '.join(known)}{hint}")
    if detail["type"] == "missing":
        return given.problem((), f"{kind} needs {path[-1]}; write --set {path[-1]}=…")
    return given.problem(given.existing(path), what_is_wrong(detail))


def _expanded(value: Any) -> Any:
    """Paths with ~ and $VARIABLES expanded."""
    if isinstance(value, list):
        return [_expanded(one) for one in value]
    if value is None:
        return None
    return Path(os.path.expanduser(os.path.expandvars(value)))  # noqa: PTH111
