"""Dataclasses read from JSON that somebody else may have written, or a crash damaged."""

from __future__ import annotations

from dataclasses import Field, fields
from typing import Any, ClassVar, Protocol

# What reading JSON, and the values in it, may raise.
BAD_JSON = (ValueError, KeyError, TypeError, AttributeError, RecursionError)

_TYPES: dict[Any, Any] = {"str": str, "int": int, "float": (int, float)}


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def check_types(record: _Dataclass) -> None:
    """Assert that text and numbers of a dataclass are what its fields say.

    Raises
    ------
    TypeError
        If one is not.
    """
    for field in fields(record):
        value, expected = getattr(record, field.name), _TYPES.get(field.type, object)
        if not isinstance(value, expected):
            raise TypeError(f"{field.name} is {value!r}, not {field.type}")
