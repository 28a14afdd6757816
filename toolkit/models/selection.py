"""Which of a network's layers to read: named ones, all of them, or its stages."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import Protocol

from toolkit.models.spec import LayerError, LayerInfo, ModelSpec

# A container is looked into when its children's outputs step down through at least this many
# resolutions: a whole trunk does, one stage with the step down to it does not.
_TRUNK_RESOLUTIONS = 3
_ISOTROPIC_LAYERS = 4
_MOST_STAGES = 12
_MOST_NAMED = 3

# Direct children of torchvision's networks that end in the classifier, and the commonest in timm.
_CLASSIFIERS = frozenset({"fc", "classifier", "head", "heads", "last_linear"})

# Classes that hand on what they got: regularisers that do nothing here, and changes of shape.
_PASSING_ON = re.compile(r"Drop|StochasticDepth|Identity|Flatten|Permute")


class NamedNetwork(Protocol):
    """What errors call a network: a :class:`~toolkit.models.ModelSpec`, for one."""

    @property
    def library(self) -> str:
        """Where it comes from."""

    @property
    def name(self) -> str:
        """Its name there."""


def select_layers(
    layers: Sequence[LayerInfo], request: str | Sequence[str], spec: NamedNetwork
) -> list[LayerInfo]:
    """Choose from a network's traced layers; always in execution order, each once.

    Parameters
    ----------
    layers
        From :func:`~toolkit.models.trace_layers`.
    request
        "auto": the stages of the network. Of the modules along its trunk, the last one at each
        spatial resolution, and the global pooling where that is a module; the classifier
        and what follows it are left out. A network of one or two resolutions (ViT, Mixer) gives
        four blocks evenly spaced in depth, the last block among them.
        "all": every module without traced children.
        A list: names and ``fnmatch`` patterns, where ``*`` crosses dots: "layer[1-4]", "*.conv1".
    spec
        The network, named in errors.

    Raises
    ------
    LayerError
        If names or patterns fit no layer; the message lists the nearest names of each.
    """
    if request == "auto":
        return _stages(layers, spec)
    if request == "all":
        return _leaves(layers)
    patterns = [request] if isinstance(request, str) else list(request)
    chosen: set[str] = set()
    problems = []
    for pattern in patterns:
        try:
            chosen |= set(_matching(layers, pattern, spec))
        except LayerError as error:
            problems.append(str(error))
    if problems:
        more = f"; and {len(problems) - _MOST_NAMED} more" if len(problems) > _MOST_NAMED else ""
        raise LayerError("; ".join(problems[:_MOST_NAMED]) + more)
    return [layer for layer in layers if layer.name in chosen]


def _matching(layers: Sequence[LayerInfo], pattern: str, spec: NamedNetwork) -> list[str]:
    names = [layer.name for layer in layers]
    if pattern in names:
        return [pattern]
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        nearest = get_close_matches(pattern, names, n=5, cutoff=0.4) or names[:5]
        untraced, what = _untraced(pattern, spec), f"has no layer {pattern!r}"
        if untraced:
            around = [parent for parent in reversed(_parents(untraced)) if parent in names]
            nearest = list(dict.fromkeys((*around[:1], *nearest)))
            what = f"has a module {untraced!r} without features: {_why_untraced(untraced, spec)}"
        raise LayerError(
            f"{spec.library} network {spec.name!r} {what}. Nearest: {', '.join(nearest)}"
        )
    return found


def _untraced(pattern: str, spec: NamedNetwork) -> str:
    """The first module of a library's network that the pattern means; empty if there is none."""
    if spec.library not in ("torchvision", "timm"):
        return ""
    from toolkit.models.layers import untrained

    modules = untrained(ModelSpec(spec.library, spec.name), "meta").named_modules()
    return next((name for name, _ in modules if name and fnmatchcase(name, pattern)), "")


def _why_untraced(module: str, spec: NamedNetwork) -> str:
    from toolkit.models.layers import is_called

    if is_called(ModelSpec(spec.library, spec.name), module):
        return "its output is not one row per image"
    return "it is never called, since the module around it does its work (as fused attention does)"


def _leaves(layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    parents = {parent for layer in layers for parent in _ancestors(layer)}
    return [layer for layer in layers if layer.name not in parents]


def _stages(layers: Sequence[LayerInfo], spec: NamedNetwork) -> list[LayerInfo]:
    classifiers = _classifiers(spec)
    body = list(takewhile(lambda layer: layer.name.split(".")[0] not in classifiers, layers))
    trunk = [layer for layer in _trunk(body) if not _PASSING_ON.search(layer.kind)]
    runs = _runs(trunk)
    resolutions = {_resolution(run[0]) for run in runs} - {1}
    blocks = _blocks(body)
    if len(resolutions) < _TRUNK_RESOLUTIONS and len(blocks) > 1:
        return _evenly_spaced(blocks, _ISOTROPIC_LAYERS)
    return _evenly_spaced([run[-1] for run in runs], _MOST_STAGES)


def _classifiers(spec: NamedNetwork) -> frozenset[str]:
    """Names of the network's direct children that end in the classifier."""
    if spec.library != "timm":
        return _CLASSIFIERS
    from toolkit.models.architecture import timm_config

    named = timm_config(spec.name).classifier or ()
    paths = [named] if isinstance(named, str) else named
    return _CLASSIFIERS | {path.split(".")[0] for path in paths}


def _trunk(layers: Sequence[LayerInfo], parent: str = "") -> Iterator[LayerInfo]:
    """The modules an image passes one after the other, from its pixels to the classifier."""
    for child in _children(layers, parent):
        if _steps_down(_children(layers, child.name)):
            yield from _trunk(layers, child.name)
        else:
            yield child


def _steps_down(siblings: Sequence[LayerInfo]) -> bool:
    resolutions = [_resolution(run[0]) for run in _runs(siblings)]
    n_spatial = sum(resolution > 1 for resolution in resolutions)
    return n_spatial >= _TRUNK_RESOLUTIONS and resolutions == sorted(resolutions, reverse=True)


def _children(layers: Sequence[LayerInfo], parent: str) -> list[LayerInfo]:
    """Traced modules under ``parent`` with no traced module between them and it."""
    prefix = f"{parent}." if parent else ""
    inside = [layer for layer in layers if layer.name.startswith(prefix)]
    names = {layer.name for layer in inside}
    return [layer for layer in inside if names.isdisjoint(_ancestors(layer))]


def _ancestors(layer: LayerInfo) -> list[str]:
    return _parents(layer.name)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def _runs(layers: Sequence[LayerInfo]) -> list[list[LayerInfo]]:
    """Split into runs of about one resolution: a border lost to padding starts no new one."""
    runs: list[list[LayerInfo]] = []
    for layer in layers:
        here = _resolution(layer)
        there = _resolution(runs[-1][0]) if runs else 0
        if 4 * min(here, there) > 3 * max(here, there):
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return runs


def _resolution(layer: LayerInfo) -> int:
    """Side of the square of positions in one output; 1 where it was pooled.

    Read from (channels, height, width), (height, width, channels) or (tokens, channels). Class
    and register tokens, at most a few, do not change the rounded-down root.
    """
    shape = layer.shape
    if len(shape) < 2:
        return 1
    if len(shape) == 2:
        return math.isqrt(shape[0])
    is_channels_last = shape[-3] == shape[-2] != shape[-1]
    return math.isqrt(shape[-3] * shape[-2] if is_channels_last else shape[-2] * shape[-1])


def _blocks(layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The least nested series of containers that is longer than what is chosen from it.

    A series has one shape, and names that differ by their numbers only. Less nested ones are the
    blocks, others what is in them. Of several equally nested, or if all are short, the longest.
    """
    containers = {parent for layer in layers for parent in _ancestors(layer)}
    series: dict[tuple[str, tuple[int, ...]], list[LayerInfo]] = {}
    for layer in layers:
        if layer.name in containers:
            pattern = re.sub(r"\d+", "#", layer.name)
            series.setdefault((pattern, layer.shape), []).append(layer)
    return max(series.values(), key=_block_likeness, default=[])


def _block_likeness(blocks: Sequence[LayerInfo]) -> tuple[float, int, int, int]:
    nesting = blocks[0].name.count(".")
    is_long = len(blocks) > _ISOTROPIC_LAYERS
    return (-nesting if is_long else -math.inf, len(blocks), -nesting, blocks[-1].index)


def _evenly_spaced(layers: Sequence[LayerInfo], most: int) -> list[LayerInfo]:
    """At most so many of the layers, evenly spaced and with the last one among them."""
    n_kept = min(most, len(layers))
    return [layers[len(layers) * (rank + 1) // n_kept - 1] for rank in range(n_kept)]
