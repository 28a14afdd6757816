"""Frozen dataclasses that JSON values make, so that a task can carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolkit.models.spec import ModelError

_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(cls: type[Any]) -> TypeAdapter[Any]:
    """Made once of each class: making one takes milliseconds."""
    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


class Plain:
    """Base of frozen dataclasses whose fields are JSON values or dataclasses of their own.

    Attributes
    ----------
    refusal
        What :meth:`from_plain` raises.
    """

    refusal: ClassVar[type[ValueError]] = ModelError
    __dataclass_fields__: ClassVar[dict[str, Any]]
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Make it of JSON values; lists become tuples, numbers in quotes are refused.

        Raises
        ------
        refusal
            If a key is unknown or missing, or a value has another type or is out of range; every
            one of them is named by its path.
        """
        try:
            return _adapter(cls).validate_json(json.dumps(plain), strict=True)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, path))}: {text}" for path, text in _complaints(error)]
            keys = ", ".join(cls.keys())
            raise cls.refusal(f"{cls.__name__}: {'; '.join(lines)} (its keys: {keys})") from error

    @classmethod
    def keys(cls) -> list[str]:
        """Names of its fields."""
        return [field.name for field in fields(cls)]

    @classmethod
    def problems(cls, plain: Mapping[str, Any]) -> list[tuple[tuple[int | str, ...], str]]:
        """What :meth:`from_plain` would refuse: paths in ``plain``, and what is wrong there."""
        try:
            _adapter(cls).validate_json(json.dumps(plain), strict=True)
        except ValidationError as error:
            return _complaints(error)
        return []

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON values; :meth:`from_plain` reads them back."""
        return json.loads(json.dumps(asdict(self)))


def _complaints(error: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    return [
        (detail["loc"], detail["msg"].removeprefix("Value error, ")) for detail in error.errors()
    ]
