"""YAML to plain values, each with its place: what has one meaning, and nothing that runs or grows.

A scalar without quotes is null, true, false, a decimal number or text (the core schema of YAML 1.2,
without its octal and hexadecimal numbers); ``no``, ``012``, ``4:00``, ``1_000`` and ``2024-01-31``
are texts.
"""

from __future__ import annotations

import codecs
import difflib
import re
import reprlib
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

KeyPath = tuple[str | int, ...]

_MOST_BYTES, _MOST_VALUES, _DEEPEST = 2_000_000, 10_000, 40
_MOST_SHOWN, _MOST_OF_ONE = 950, 800
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and a 1-based line, or the command line.

    Parameters
    ----------
    file, line
        Where.
    text
        The characters of a scalar; None for mappings and lists.
    """

    file: str
    line: int | None = None
    text: str | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


Places = dict[KeyPath, Place]


class ConfigError(ValueError):
    """Everything that is wrong with a configuration, one problem a line.

    Its text is short: long problems are cut in the middle, many are counted.
    """

    error_class = "bad_config"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(_first_of(self.problems)))


def _first_of(problems: Sequence[str]) -> Iterator[str]:
    room = _MOST_SHOWN
    for i, problem in enumerate(problems):
        line = middle_cut(printable(problem), _MOST_OF_ONE)
        if len(line) > room:
            yield f"… and {len(problems) - i} more problems"
            return
        room -= len(line) + 1
        yield line


def printable(text: str) -> str:
    """A text with everything but printable characters and line ends escaped."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def middle_cut(text: str, most: int) -> str:
    """At most so many characters of a text: its beginning and its end."""
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]} … {text[-half:]}"


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 80
        self.maxlevel = 3

    def repr_NoneType(self, _value: None, _level: int) -> str:  # noqa: N802
        return "null"

    def repr_bool(self, value: bool, _level: int) -> str:
        return "true" if value else "false"


def shown(value: Any) -> str:
    """A value as messages show it: its beginning and its end where it is long."""
    return middle_cut(_Shown().repr(value), 200)


def format_key(path: KeyPath) -> str:
    """``("models", 0, "names")`` → ``models[0].names``."""
    text = ""
    for part in path:
        name = part if isinstance(part, int) else middle_cut(part.replace("\n", "\\n"), 80)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else str(name)
    return text


def nearest(name: str, candidates: Iterable[str], n: int = 3) -> list[str]:
    """Return up to ``n`` candidates spelled most like ``name``, best first."""
    return difflib.get_close_matches(name[:200], list(candidates), n=n, cutoff=0.5)


class _Loader(yaml.SafeLoader):
    """Composes nodes: no deeper than anybody writes, no anchor inside itself."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            raise _problem(f"*{event.anchor} stands inside what it names", event.start_mark)
        if len(self._open) == _DEEPEST:
            raise _problem(f"nested more than {_DEEPEST} deep", event.start_mark)
        self._open.append(event.anchor)
        node = super().compose_node(parent, index)
        self._open.pop()
        return node


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]{0,17})", list("-+0123456789")),
    (
        "float",
        r"[-+]?((0|[1-9][0-9]{0,17})?\.[0-9]+|(0|[1-9][0-9]{0,17})(\.|\.?(?=[eE])))"
        r"([eE][-+]?[0-9]{1,2})?",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), _first)


def _problem(text: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


def read_file(path: Path) -> tuple[Any, Places]:
    """Read a file's only document.

    Raises
    ------
    ConfigError
        If there is no such file, it cannot be read or is no text, is not YAML, holds a tag or a
        key given twice, or unfolds to more than anybody writes.
    """
    try:
        status = path.stat()
        is_file, is_small = stat.S_ISREG(status.st_mode), status.st_size <= _MOST_BYTES
        raw = path.read_bytes() if is_file and is_small else b""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError([f"{path}: cannot read the config: {reason}"]) from error
    if not is_file:
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise ConfigError([f"{path}: cannot read the config: this is {kind}"])
    if not is_small:
        raise ConfigError([f"{path}: {status.st_size} bytes are too many for a config"])
    has_utf16_mark = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if has_utf16_mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            [f"{path}:{line}: the byte {raw[error.start]:#04x} is not UTF-8; save it as UTF-8"]
        ) from error
    return read_text(text, str(path))


def read_text(text: str, file: str, *, has_lines: bool = True) -> tuple[Any, Places]:
    """Read the only document of a text; as :func:`read_file`.

    Parameters
    ----------
    text
        YAML.
    file
        What its places name.
    has_lines
        Whether they name lines, too.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            builder = _Builder(loader, file, has_lines)
            value = None if node is None else builder.value(node, ())
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        where = f"{file}:{text.count(chr(10), 0, error.position) + 1}" if has_lines else file
        raise ConfigError(
            [f"{where}: not valid YAML: the character U+{error.character:04X} is not allowed"]
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark and has_lines else file
        raise ConfigError([f"{where}: not valid YAML: {_reason(error)}"]) from error
    return value, builder.places


def _reason(error: yaml.MarkedYAMLError) -> str:
    reason = str(error.problem)
    if "'\\t'" in reason:
        return f"{reason}; indent with blanks instead of tabs"
    if reason == "but found another document":
        return "a second document begins here; a config is one"
    if reason == "second occurrence":
        return "this anchor is given twice"
    return reason


class _Builder:
    """Values of nodes, and their places."""

    def __init__(self, loader: _Loader, file: str, has_lines: bool) -> None:
        self._loader, self._file, self._has_lines = loader, file, has_lines
        self._n_built = 0
        self.places: Places = {(): Place(file, 1 if has_lines else None)}

    def value(self, node: yaml.Node, at: KeyPath) -> Any:
        self._n_built += 1
        if self._n_built > _MOST_VALUES:
            raise _problem(f"it unfolds to more than {_MOST_VALUES} values", node.start_mark)
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, at)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [self._placed(item, item, (*at, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        raise _problem(f"the tag {_short(node.tag)} means nothing here", node.start_mark)

    def _placed(self, key: yaml.Node, node: yaml.Node, at: KeyPath) -> Any:
        text = node.value if isinstance(node, yaml.ScalarNode) else None
        self.places[at] = self._place(key, text)
        return self.value(node, at)

    def _place(self, node: yaml.Node, text: str | None = None) -> Place:
        return Place(self._file, node.start_mark.line + 1 if self._has_lines else None, text)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        _refuse_controls(node)
        if kind in ("str", "merge"):
            return text
        if kind not in ("null", "bool", "int", "float"):
            raise _problem(f"the tag {_short(node.tag)} means nothing here", node.start_mark)
        looks_like = self._loader.resolve(yaml.ScalarNode, text, (True, False))
        if looks_like != node.tag and (kind, looks_like) != ("float", _TAG + "int"):
            raise _problem(f"{shown(text)} is no {_short(node.tag)}", node.start_mark)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        return int(text) if kind == "int" else float(text)

    def _mapping(self, node: yaml.MappingNode, at: KeyPath) -> dict[str, Any]:
        """A mapping's own keys, and those that it merges and does not have itself."""
        mapping: dict[str, Any] = {}
        for key, value in self._pairs(node, at):
            if key.value not in mapping:
                mapping[key.value] = self._placed(key, value, (*at, key.value))
        return mapping

    def _pairs(
        self, node: yaml.MappingNode, at: KeyPath
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """Keys and values, own ones first; one key may come again from what is merged."""
        seen = set()
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key is a name, not a list or mapping", key.start_mark)
            _refuse_controls(key)
            if key.tag == _TAG + "merge":
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if key.value in seen:
                where = self._place(key)
                name = format_key((*at, key.value))
                raise ConfigError([f"{where}: {name}: this key is given twice"])
            seen.add(key.value)
            yield key, value
        for one in merged:
            if not isinstance(one, yaml.MappingNode):
                raise _problem("<< merges a mapping or a list of them", one.start_mark)
            self._n_built += 1
            if self._n_built > _MOST_VALUES:
                raise _problem(f"it unfolds to more than {_MOST_VALUES} values", one.start_mark)
            yield from self._pairs(one, at)


def _short(tag: str) -> str:
    return middle_cut(tag.replace(_TAG, "!!"), 80)


def _refuse_controls(node: yaml.ScalarNode) -> None:
    """Quotes with a backslash can write what no name, path or shell line has."""
    for character in node.value:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise _problem(f"the character U+{ord(character):04X} is not allowed", node.start_mark)
