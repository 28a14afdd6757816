"""Every key that a config or a site profile may have, from the models that validate them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from docs.generate.markdown import anchor, code, from_docstring, notice, table
from docs.generate.value_words import allowed, default_words, is_mapping, mappings_in
from toolkit.cluster.profiles import SiteProfile
from toolkit.config import HmoNetwork, SweepConfig, TrainingConfig
from toolkit.models.network_spec import DecoderSpec
from toolkit.training import Recipe
from toolkit.training.hmo.space import ModuleSpace

# Mappings that the config takes as they are, and planning reads as these.
_READ_AS: dict[tuple[type, str], type] = {
    (TrainingConfig, "recipe"): Recipe,
    (TrainingConfig, "decoder"): DecoderSpec,
    (HmoNetwork, "brief"): Recipe,
    (HmoNetwork, "space"): ModuleSpace,
}
# A config writes them as objectives and seeds, beside the recipe.
_NOT_OF_A_CONFIG = {(Recipe, "objectives"), (Recipe, "seed")}

_INTRODUCTION = """\
A config is a YAML mapping. Lists of networks, layers, features and read-outs are crossed. A value
alone stands for a list of one where the table says so. Paths may begin with `~` and hold
`$VARIABLES`. Beside the keys below, every config may have

- `extends`: the path of another config, or a list of them, relative to this file. Mappings are
  merged key by key, anything else replaces what was there.

`--set key=value` on the command line replaces a value; the key is dotted, and items of lists are
counted from 0: `--set dataset.seed=1 --set models.0.weights=pretrained`. An unknown key is refused
with the file, the line and the nearest valid name.

Numbers are decimal, truth values are `true` and `false`; `no`, `012`, `4:00`, `1_000` and
`2024-01-31` are texts, and where a text belongs, `1e3` is one too. Nothing else is guessed."""

_PROFILES = """\
How jobs are submitted on one cluster: a file of `slurm/profiles`, or a YAML file of your own
(`--profile my_site.yaml`); [On a Slurm cluster](cluster.md) says what follows from them."""


@dataclass(frozen=True)
class Key:
    """One key of a mapping."""

    name: str
    annotation: Any
    metadata: tuple[Any, ...]
    default: Any
    description: str


@dataclass
class Mapping:
    """The paths under which a mapping may be written, and which of several kinds it is."""

    paths: list[tuple[str, ...]]
    label: str

    @property
    def heading(self) -> str:
        """What it is called on the page, such as ``dataset: synthetic``."""
        first, *others = self.paths
        same_parent = [path[-1] for path in others if path[:-1] == first[:-1]]
        path = ", ".join([".".join(first), *same_parent])
        return f"{path}: {self.label}" if self.label else path


def page() -> str:
    """``docs/config.md``."""
    parts = [
        notice("the models in toolkit/config and toolkit/cluster/profiles.py"),
        "# Config keys",
        _INTRODUCTION,
        "## The whole config",
        *_sections(SweepConfig),
        "## Site profiles",
        _PROFILES,
        *_sections(SiteProfile),
    ]
    return "\n\n".join(parts) + "\n"


def keys_of(kind: type) -> list[Key]:
    """The keys of a section of the config, or of a dataclass that is written like one."""
    found = _model_keys(kind) if issubclass(kind, BaseModel) else _dataclass_keys(kind)
    return [
        dataclasses.replace(key, annotation=_READ_AS.get((kind, key.name), key.annotation))
        for key in found
        if (kind, key.name) not in _NOT_OF_A_CONFIG
    ]


def _sections(root: type) -> Iterator[str]:
    """Tables of the root's keys and of all mappings below it."""
    below = _mappings_below(root)
    yield from_docstring(_summary(root))
    yield _table_of(root, below)
    for kind, mapping in below.items():
        yield f"### {mapping.heading}"
        yield from_docstring(_summary(kind))
        yield _table_of(kind, below)


def _mappings_below(root: type) -> dict[type, Mapping]:
    """Each once, named by its shortest path; those of one key of the root together."""
    found: dict[type, Mapping] = {}
    waiting: list[tuple[type, tuple[str, ...]]] = [(root, ())]
    for kind, at in waiting:
        for key in keys_of(kind):
            members = mappings_in(key.annotation)
            is_named = typing.get_origin(key.annotation) is dict
            below = (*at, key.name, "NAME") if is_named else (*at, key.name)
            for member in members:
                if member not in found:
                    label = _label(member) if len(members) > 1 else ""
                    found[member] = Mapping([], label)
                    waiting.append((member, below))
                if below not in found[member].paths:
                    found[member].paths.append(below)
    order = [key.name for key in keys_of(root)]
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].paths[0][0])))


def _label(kind: type) -> str:
    """What tells a kind from its siblings: the values of its first key."""
    return ", ".join(typing.get_args(keys_of(kind)[0].annotation))


def _table_of(kind: type, below: dict[type, Mapping]) -> str:
    def link(member: Any) -> str:
        mapping = below[member]
        return f"[{mapping.label or 'mapping'}]({anchor(mapping.heading)})"

    rows = [
        (
            code(key.name),
            allowed(key.annotation, key.metadata, link),
            default_words(key.default),
            from_docstring(key.description),
        )
        for key in keys_of(kind)
    ]
    return table(("key", "may be", "if left out", "meaning"), rows)


def _model_keys(kind: type[BaseModel]) -> list[Key]:
    return [
        Key(
            name,
            field.annotation,
            tuple(field.metadata),
            field.get_default(call_default_factory=True),
            field.description or "",
        )
        for name, field in kind.model_fields.items()
    ]


def _dataclass_keys(kind: type) -> list[Key]:
    described = _parameters(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    keys = []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        text = _summary(hint) if is_mapping(hint) else described[field.name]
        keys.append(Key(field.name, hint, (), default, text))
    return keys


def _parameters(kind: type) -> dict[str, str]:
    """Descriptions in the section "Parameters" of a NumPy-style docstring, by name."""
    text = inspect.getdoc(kind) or ""
    section = re.split(r"\n\n\w+\n-+\n", text.split("Parameters\n----------\n")[1])[0]
    entries = re.findall(r"^(\S.*)\n((?:(?:    .*)?\n?)+)", section, flags=re.MULTILINE)
    return {
        name: text.replace("None", "null") for names, text in entries for name in names.split(", ")
    }


def _summary(kind: type) -> str:
    return (inspect.getdoc(kind) or "").split("\n\n")[0]
