"""A config whose every key knows its file and line; ``extends`` and ``--set`` are resolved here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails

from toolkit.yaml_reader import (
    ConfigError,
    KeyPath,
    Place,
    Places,
    format_key,
    middle_cut,
    nearest,
    read_file,
    read_text,
    shown,
)

__all__ = [
    "ConfigError",
    "KeyPath",
    "Source",
    "StrictModel",
    "gathered_in",
    "nearest",
    "shown",
    "validated",
    "what_is_wrong",
]

_DEEPEST_EXTENDS = 20


@contextmanager
def gathered_in(problems: list[str]) -> Iterator[None]:
    """Add what the block refuses to the problems found so far, so that others are found, too."""
    try:
        yield
    except ConfigError as error:
        problems += error.problems


def _make_strict(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "float", "bool"):
            schema["strict"] = True
        for part in schema.values():
            _make_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_strict(part)


class StrictModel(BaseModel):
    """A mapping in which numbers are finite and only numbers are numbers.

    Numbers in quotes, ``true`` for 1, 3.0 for 3 and the like are refused; what is known to be
    wrong is better than what is taken to be meant.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """The schema with numbers and truth values as they are written.

        ``ConfigDict(strict=True)`` would refuse lists for tuples as well.
        """
        schema = handler(source)
        _make_strict(schema)
        return schema


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], source: Source) -> Model:
    """Values of a source as a model.

    A number, truth value or date that stands where a text belongs is the text as it was written:
    ``name: 1e3`` is called 1e3.

    Raises
    ------
    pydantic.ValidationError
        If they do not fit.
    """
    while True:
        try:
            return model.model_validate(source.values)
        except ValidationError as error:
            wanted = [e["loc"] for e in error.errors() if e["type"] == "string_type"]
            if not source.take_as_written(wanted):
                raise


_OR_OBJECT = re.compile(r" or (object to extract fields from|instance of \w+)")
_WHOLE_NUMBER = re.compile(r"[-+]?[0-9_]{1,18}")


def what_is_wrong(detail: ErrorDetails) -> str:
    """A validation's complaint in the words of YAML, the value, and what was perhaps meant."""
    value, message = detail["input"], detail["msg"].removeprefix("Value error, ")
    for ours, in_yaml in (("valid tuple", "list"), ("valid dictionary", "mapping")):
        message = message.replace(ours, in_yaml)
    message = _OR_OBJECT.sub("", message)
    meant = ""
    if detail["type"] == "int_type":
        if isinstance(value, float) and value.is_integer():
            meant = str(int(value))
        elif isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value) and value.strip("_+-"):
            meant = f"{int(value.replace('_', ''))} without quotes"
    elif detail["type"] == "bool_type":
        meant = "true or false"
    return f"{message}, not {shown(value)}" + (f"; write {meant}" if meant else "")


class Source:
    """A resolved configuration as plain values, with the place each one came from.

    Parameters
    ----------
    values
        Nested dicts, lists and scalars.
    places
        The place of every key path in ``values``.
    """

    def __init__(self, values: dict[str, Any], places: Places) -> None:
        self.values = values
        self._places = places

    @classmethod
    def read(cls, path: Path | str, overrides: Sequence[str] = ()) -> Source:
        """Read a YAML file with everything it extends, then apply ``key=value`` overrides.

        Raises
        ------
        ConfigError
            If a file cannot be read, is not a YAML mapping, repeats a key, extends itself, or an
            override is not of the form ``key=value``.
        """
        values, places = _read_with_bases(Path(path), ())
        source = cls(values, places)
        for override in overrides:
            source.apply(override)
        return source

    def place(self, path: KeyPath) -> Place:
        """Return where the value at ``path``, or the nearest enclosing one, was written."""
        for end in range(len(path), -1, -1):
            if path[:end] in self._places:
                return self._places[path[:end]]
        return Place("configuration")

    def problem(self, path: KeyPath, message: str) -> str:
        """One line naming the file, the line and the key."""
        key = format_key(path)
        return f"{self.place(path)}: {key}: {message}" if key else f"{self.place(path)}: {message}"

    def error(self, path: KeyPath, message: str) -> ConfigError:
        """A :class:`ConfigError` with the one problem."""
        return ConfigError([self.problem(path, message)])

    def existing(self, path: KeyPath) -> KeyPath:
        """``path`` without the parts that no key of the file corresponds to.

        Validation reports ``models[0].names[0]`` for a scalar that it read as a list of one, and
        names the member of a union; neither is in the file.
        """
        found: list[str | int] = []
        value: Any = self.values
        for part in path:
            if _has(value, part):
                found.append(part)
                value = value[part]
        return tuple(found)

    def section(self, path: KeyPath) -> Source:
        """What stands at ``path``, as a source of its own."""
        values: Any = self.values
        for part in path:
            values = values.get(part) if isinstance(values, dict) else values[part]
        below = {p[len(path) :]: at for p, at in self._places.items() if p[: len(path)] == path}
        return Source(values, below)

    def take_as_written(self, paths: Iterable[KeyPath]) -> bool:
        """Replace scalars by their texts; whether any was none before."""
        changed = False
        for path in map(self.existing, paths):
            text = self._places[path].text if path in self._places else None
            holder: Any = self.values
            for part in path[:-1]:
                holder = holder[part]
            if text is not None and path and holder[path[-1]] not in (None, text):
                holder[path[-1]] = text
                changed = True
        return changed

    def apply(self, override: str) -> None:
        """Set a value by a ``key=value`` text, the key dotted, as from the command line.

        Raises
        ------
        ConfigError
            If it is not of this form, or there is nothing of the kind to set.
        """
        where = f"--set {middle_cut(override, 120)}"
        key, equals, text = override.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError([f"{where}: write it as key=value, for example dataset.seed=1"])
        value, places = read_text(text, where, has_lines=False)
        path: KeyPath = ()
        container: Any = self.values
        for i, part in enumerate(parts):
            path = (*path, _as_index(container, part))
            if i < len(parts) - 1:
                if not _has(container, path[-1]):
                    self._places[path] = Place(where)
                container = _step(container, path, where)
        if isinstance(container, list):
            _step(container, path, where)
        elif not isinstance(container, dict):
            raise ConfigError([f"{where}: {format_key(path[:-1])} is a single value"])
        container[path[-1]] = value
        for known in [p for p in self._places if p[: len(path)] == path]:
            del self._places[known]
        self._places.update({path + below: place for below, place in places.items()})
        self._places[path] = Place(where, text=text.strip())


def _as_index(container: Any, part: str) -> str | int:
    is_index = isinstance(container, list) and re.fullmatch(r"[0-9]{1,9}", part)
    return int(part) if is_index else part


def _has(container: Any, part: str | int) -> bool:
    if isinstance(container, dict):
        return part in container
    return isinstance(container, list) and isinstance(part, int) and 0 <= part < len(container)


def _step(container: Any, path: KeyPath, where: str) -> Any:
    if isinstance(container, dict):
        return container.setdefault(path[-1], {})
    if _has(container, path[-1]):
        return container[path[-1]]
    size = f"it has {len(container)} entries, counted from 0" if isinstance(container, list) else ""
    raise ConfigError(
        [f"{where}: there is no {format_key(path)} to set{': ' + size if size else ''}"]
    )


def _read_with_bases(path: Path, chain: tuple[Path, ...]) -> tuple[dict[str, Any], Places]:
    values, places = read_file(path)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path}:1: a config is a mapping of keys, not {shown(values)}"])
    here = path.resolve()
    if here in chain:
        names = " -> ".join(str(p) for p in (*chain[chain.index(here) :], here))
        raise ConfigError([f"{path}: a config cannot extend itself: {names}"])
    if len(chain) == _DEEPEST_EXTENDS:
        raise ConfigError([f"{path}: more than {_DEEPEST_EXTENDS} configs extend each other"])
    given = values.pop("extends", [])
    bases = [given] if isinstance(given, str) else given
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(
            [f"{places['extends',]}: extends: write a file's name or a list, not {shown(given)}"]
        )
    merged: dict[str, Any] = {}
    merged_places: Places = {}
    for base in bases:
        base_path = path.parent / base
        if not _is_file(base_path):
            raise ConfigError([f"{places['extends',]}: extends: no file {base_path}"])
        base_values, base_places = _read_with_bases(base_path, (*chain, here))
        _merge(merged, merged_places, base_values, base_places, ())
    _merge(merged, merged_places, values, places, ())
    return merged, merged_places


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _merge(
    into: dict[str, Any],
    into_places: Places,
    new: dict[str, Any],
    new_places: Places,
    at: KeyPath,
) -> None:
    """Mappings merge key by key; anything else (lists too) replaces what was there."""
    into_places[at] = new_places.get(at, Place("configuration"))
    for key, value in new.items():
        path = (*at, key)
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], into_places, value, new_places, path)
            continue
        for known in [p for p in into_places if p[: len(path)] == path]:
            del into_places[known]
        into[key] = value
        into_places.update({p: at_ for p, at_ in new_places.items() if p[: len(path)] == path})
