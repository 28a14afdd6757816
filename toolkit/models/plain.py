"""Frozen dataclasses that JSON values make, so that a task can carry them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from toolkit.models.spec import ModelError


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
            return TypeAdapter(cls).validate_json(json.dumps(plain), strict=True)
        except ValidationError as error:
            lines = [_complaint(detail["loc"], detail["msg"]) for detail in error.errors()]
            keys = ", ".join(cls.__dataclass_fields__)
            raise cls.refusal(f"{cls.__name__}: {'; '.join(lines)} (its keys: {keys})") from error

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON values; :meth:`from_plain` reads them back."""
        return json.loads(json.dumps(asdict(self)))


def _complaint(path: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(map(str, path))}: {message.removeprefix('Value error, ')}"
