"""From a YAML file to a validated sweep, or to a line for each problem in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from toolkit.config.sweep import SweepConfig
from toolkit.terminal import control_character, one_line
from toolkit.yaml_source import (
    ConfigError,
    KeyPath,
    Source,
    nearest,
    shown,
    validated,
    what_is_wrong,
)


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> tuple[SweepConfig, Source]:
    """Read and validate a sweep's YAML.

    Parameters
    ----------
    path
        The YAML file; its ``extends`` are relative to it, data paths to the working folder.
    overrides
        ``key=value`` texts, the key dotted (``dataset.seed``, ``models.0.weights``).

    Raises
    ------
    ConfigError
        With a line per problem: file, line, key, what is allowed, the nearest valid name.
    """
    source = Source.read(path, overrides)
    if problems := list(_control_characters(source.values, (), source)):
        raise ConfigError(problems)
    try:
        return validated(SweepConfig, source), source
    except ValidationError as error:
        problems = [_describe(detail, source) for detail in error.errors(include_url=False)]
        raise ConfigError(list(dict.fromkeys(problems))) from error


def _control_characters(value: Any, path: KeyPath, source: Source) -> Iterator[str]:
    """A line for each text that is not one line of readable text."""
    if isinstance(value, str) and (found := control_character(value)):
        yield source.problem(path, f"a name, path or word must not hold the character {found}")
    inside = enumerate(value) if isinstance(value, list) else ()
    for key, item in value.items() if isinstance(value, dict) else inside:
        if control_character(str(key)):
            yield source.problem(path, f"the key {one_line(str(key))[:40]} is not a readable word")
        else:
            yield from _control_characters(item, (*path, key), source)


def _describe(detail: ErrorDetails, source: Source) -> str:
    path: KeyPath = source.existing(detail["loc"])
    context = detail.get("ctx", {})
    if detail["type"] == "unknown_key":
        return source.problem((*path, context["key"]), context["text"])
    if detail["type"] == "missing":
        return source.problem((*path, detail["loc"][-1]), "this key is required")
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = context["discriminator"].strip("'")
        text = _describe_kind(detail["input"], key, path)
        return source.problem((*path, key), text)
    if detail["type"] == "literal_error":
        allowed = context["expected"].replace("'", "")
        near = nearest(str(detail["input"]), allowed.replace(" or ", ", ").split(", "), n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return source.problem(path, f"{shown(detail['input'])} is not one of {allowed}{hint}")
    if not path:
        return source.problem(path, detail["msg"].removeprefix("Value error, "))
    return source.problem(path, what_is_wrong(detail))


_KINDS = {
    "dataset": ("synthetic", "nx414", "majaj_hong", "xiao2024", "files"),
    "protocol": ("fixed", "kfold", "stratified", "leave_one_object_out"),
    "readouts": ("ridge", "linear", "pls", "rdm", "cka"),
    "training": ("torchvision", "timm", "shallow", "hmo"),
}


def _describe_kind(value: Any, key: str, path: KeyPath) -> str:
    if not isinstance(value, dict):
        return f"write a mapping with the key '{key}', not {shown(value)}"
    kinds = _KINDS[str(path[0])]
    if key not in value:
        return f"this key is required: one of {', '.join(kinds)}"
    near = nearest(str(value[key]), kinds, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{shown(value[key])} is not one of {', '.join(kinds)}{hint}"
