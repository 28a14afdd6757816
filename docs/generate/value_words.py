"""What a value may be, said in plain words from its type."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

import annotated_types as bounds
import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.generate.markdown import code
from toolkit.config.base import expand_path

_NOUNS: dict[Any, str] = {str: "text", int: "integer", float: "number", Any: "any value"}
_PLURALS = {"text": "texts", "integer": "integers", "number": "numbers", "path": "paths"}
_MOST_SHOWN = 6

Link = Callable[[Any], str]


def is_mapping(kind: Any) -> bool:
    """Whether a type stands for a mapping of its own: a section, or a dataclass like one."""
    return isinstance(kind, type) and (
        issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)
    )


def mappings_in(annotation: Any) -> list[Any]:
    """The mappings that an annotation mentions, in order."""
    if is_mapping(annotation):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in mappings_in(part)]


def allowed(annotation: Any, metadata: Sequence[Any], link: Link) -> str:
    """What may be written, such as "integer (1 or more) or a list of them".

    Parameters
    ----------
    annotation, metadata
        The type, and what :data:`typing.Annotated` says about it.
    link
        How a mapping is referred to.
    """
    return _one_of(list(_alternatives(annotation, metadata, link)))


def default_words(default: Any) -> str:
    """A default as it would be written."""
    if default is PydanticUndefined or default is dataclasses.MISSING:
        return "required"
    if isinstance(default, tuple) and len(default) > _MOST_SHOWN:
        return f"{len(default)} values, {default[0]:g} to {default[-1]:g}"
    plain = _plain(default[0] if isinstance(default, tuple) and len(default) == 1 else default)
    if plain in ({}, [], ""):
        return "its defaults" if is_mapping(type(default)) or default else "empty"
    return code(yaml.safe_dump(plain, default_flow_style=True, width=1000).split("\n")[0])


def _alternatives(annotation: Any, metadata: Sequence[Any], link: Link) -> Iterator[str]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        yield from _alternatives(arguments[0], (*arguments[1:], *metadata), link)
    elif is_mapping(annotation):
        yield link(annotation)
    elif annotation is type(None):
        yield code("null")
    elif annotation is bool:
        yield from (code("true"), code("false"))
    elif origin is Literal:
        yield from map(code, arguments)
    elif isinstance(annotation, type) and issubclass(annotation, StrEnum):
        yield from map(code, annotation)
    elif origin in (typing.Union, types.UnionType):
        for one in arguments:
            yield from _alternatives(one, metadata, link)
    elif origin is dict:
        is_closed = typing.get_origin(arguments[0]) is Literal
        names = _one_of(list(_alternatives(arguments[0], (), link))) if is_closed else "names"
        to = _one_of([_plural(words) for words in _alternatives(arguments[1], (), link)])
        yield f"mapping of {names} to {to}"
    elif origin is tuple:
        yield from _lists(arguments, metadata, link)
    else:
        is_path = any(isinstance(m, AfterValidator) and m.func is expand_path for m in metadata)
        noun = "path" if is_path else _NOUNS[annotation]
        yield noun + _bounds(metadata, is_whole=annotation is int)


def _lists(arguments: Sequence[Any], metadata: Sequence[Any], link: Link) -> Iterator[str]:
    of = list(_alternatives(arguments[0], (), link))
    alone = _read_alone(metadata)
    if alone is not None:
        yield from of
        if isinstance(alone, dict):
            yield "a name"
        yield "a list of them"
    else:
        number = "" if arguments[-1] is Ellipsis else f"{len(arguments)} "
        yield f"list of {number}{_one_of([_plural(words) for words in of])}"


def _read_alone(metadata: Sequence[Any]) -> Any:
    """What a text that stands alone becomes the only item of a list as; None where it does not."""
    for validator in metadata:
        if isinstance(validator, BeforeValidator):
            read = validator.func("word")  # type: ignore[call-arg]
            if isinstance(read, list):
                return read[0]
    return None


def _bounds(metadata: Sequence[Any], *, is_whole: bool) -> str:
    words = []
    for bound in _flat(metadata):
        if isinstance(bound, bounds.Gt):
            edge: Any = bound.gt
            words.append(f"{edge + 1} or more" if is_whole else f"above {edge:g}")
        elif isinstance(bound, bounds.Ge):
            words.append(f"{bound.ge} or more")
        elif isinstance(bound, bounds.Lt):
            words.append(f"below {bound.lt:g}")
        elif isinstance(bound, bounds.Le):
            words.append(f"at most {bound.le}")
        elif getattr(bound, "pattern", None):
            words.append(f"matching {code(bound.pattern)}")
    return f" ({', '.join(words)})" if words else ""


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    for one in metadata:
        yield from one.metadata if isinstance(one, FieldInfo) else (one,)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        kind = {"kind": value.kind} if hasattr(value, "kind") else {}
        return kind | value.model_dump(mode="json", exclude_defaults=True)
    if dataclasses.is_dataclass(value):
        return {}
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value


def _plural(words: str) -> str:
    first, space, rest = words.partition(" ")
    return _PLURALS.get(first, first) + space + rest


def _one_of(words: Sequence[str]) -> str:
    *others, last = dict.fromkeys(words)
    return f"{', '.join(others)} or {last}" if others else last
