"""YAML whose every key knows its file and line; ``extends`` and ``--set`` are resolved here."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and a 1-based line, or the command line."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one problem a line."""

    error_class = "bad_config"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def format_key(path: KeyPath) -> str:
    """``("models", 0, "names")`` → ``models[0].names``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` candidates spelled most like ``name``, best first."""
    return difflib.get_close_matches(name, list(candidates), n=n, cutoff=0.5)


class Source:
    """A resolved configuration as plain values, with the place each one came from.

    Parameters
    ----------
    values
        Nested dicts, lists and scalars.
    places
        The place of every key path in ``values``.
    """

    def __init__(self, values: dict[str, Any], places: dict[KeyPath, Place]) -> None:
        self.values = values
        self._places = places

    @classmethod
    def read(cls, path: Path | str, overrides: Sequence[str] = ()) -> Source:
        """Read a YAML file with everything it extends, then apply ``key=value`` overrides.

        Raises
        ------
        ConfigError
            If a file is missing, is not a YAML mapping, repeats a key, extends itself, or an
            override is not of the form ``key=value``.
        """
        values, places = _read_with_bases(Path(path), ())
        source = cls(values, places)
        for override in overrides:
            source._apply(override)
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

    def _apply(self, override: str) -> None:
        where = Place(f"--set {override}")
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError([f"{where}: write it as key=value, for example dataset.seed=1"])
        path = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError([f"{where}: the value is not YAML: {error}"]) from error
        container: Any = self.values
        for i, part in enumerate(path[:-1]):
            container = _step(container, part, path[: i + 1], where)
        last = path[-1]
        if isinstance(container, list):
            _step(container, last, path, where)
        elif not isinstance(container, dict):
            raise ConfigError([f"{where}: {format_key(path[:-1])} is a single value"])
        container[last] = value
        for known in [p for p in self._places if p[: len(path)] == path]:
            del self._places[known]
        self._places[path] = where


def _has(container: Any, part: str | int) -> bool:
    if isinstance(container, dict):
        return part in container
    return isinstance(container, list) and isinstance(part, int) and 0 <= part < len(container)


def _step(container: Any, part: str | int, path: KeyPath, where: Place) -> Any:
    if isinstance(container, dict):
        return container.setdefault(part, {})
    if isinstance(container, list) and isinstance(part, int) and part < len(container):
        return container[part]
    size = f"it has {len(container)} entries, counted from 0" if isinstance(container, list) else ""
    raise ConfigError(
        [f"{where}: there is no {format_key(path)} to set{': ' + size if size else ''}"]
    )


def _read_with_bases(
    path: Path, chain: tuple[Path, ...]
) -> tuple[dict[str, Any], dict[KeyPath, Place]]:
    if path.resolve() in chain:
        names = " -> ".join(str(p) for p in (*chain, path))
        raise ConfigError([f"{path}: a config cannot extend itself: {names}"])
    values, places = _read_one(path)
    bases = values.pop("extends", [])
    merged: dict[str, Any] = {}
    merged_places: dict[KeyPath, Place] = {}
    for base in [bases] if isinstance(bases, str) else bases:
        base_path = path.parent / str(base)
        if not base_path.is_file():
            raise ConfigError([f"{places[('extends',)]}: extends: no file {base_path}"])
        base_values, base_places = _read_with_bases(base_path, (*chain, path.resolve()))
        _merge(merged, merged_places, base_values, base_places, ())
    _merge(merged, merged_places, values, places, ())
    return merged, merged_places


def _merge(
    into: dict[str, Any],
    into_places: dict[KeyPath, Place],
    new: dict[str, Any],
    new_places: dict[KeyPath, Place],
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


def _read_one(path: Path) -> tuple[dict[str, Any], dict[KeyPath, Place]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([f"{path}: cannot read the config: {reason}"]) from error
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        places: dict[KeyPath, Place] = {(): Place(str(path), 1)}
        values = {} if node is None else _construct(loader, node, (), places, str(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError([f"{path}:{line}: not valid YAML: {error.problem}"]) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise ConfigError(
            [f"{path}:1: a config is a mapping of keys, this is a {type(values).__name__}"]
        )
    return values, places


def _construct(
    loader: yaml.SafeLoader,
    node: yaml.Node,
    at: KeyPath,
    places: dict[KeyPath, Place],
    file: str,
) -> Any:
    if isinstance(node, yaml.SequenceNode):
        items = []
        for i, item in enumerate(node.value):
            places[(*at, i)] = Place(file, item.start_mark.line + 1)
            items.append(_construct(loader, item, (*at, i), places, file))
        return items
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    loader.flatten_mapping(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(loader.construct_object(key_node))
        line = key_node.start_mark.line + 1
        if key in mapping:
            raise ConfigError([f"{file}:{line}: {format_key((*at, key))}: this key is given twice"])
        places[(*at, key)] = Place(file, line)
        mapping[key] = _construct(loader, value_node, (*at, key), places, file)
    return mapping
