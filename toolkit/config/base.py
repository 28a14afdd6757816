"""What every section of a config shares: strict keys, lists of one, expanded paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from toolkit.yaml_source import StrictModel, nearest


def as_list(value: Any) -> Any:
    """A list or tuple as it is; anything else as a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def expand_path(path: str) -> str:
    """Absolute path, ``~`` and ``$VARIABLES`` expanded, so that a run can go on from anywhere."""
    # Path.expanduser dies of the name of nobody's home, which is a folder like any other here.
    whole = Path(os.path.expanduser(os.path.expandvars(path))).absolute()  # noqa: PTH111
    if len(os.fsencode(whole)) > 4095 or any(len(os.fsencode(part)) > 255 for part in whole.parts):
        raise ValueError("no file system has paths or names of this length")
    return str(whole)


Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
FilePath = Annotated[str, AfterValidator(expand_path)]


class Section(StrictModel):
    """A mapping in the file: unknown keys are refused with the nearest valid name."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            unknown = [str(key) for key in value if key not in cls.model_fields]
            if unknown:
                raise PydanticCustomError(
                    "unknown_key",
                    "{text}",
                    {"text": _unknown_key_text(unknown[0], cls), "key": unknown[0]},
                )
        return value


def _unknown_key_text(key: str, section: type[Section]) -> str:
    near = nearest(key, section.model_fields, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(section.model_fields)}"
