"""Whether the layers of every torchvision classifier and timm architecture are found and delivered.

Each network is built and run on the meta device, without weights or arithmetic, so that the largest
fit any machine. A family is the source file of its library that defines its networks.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from rich.filesize import decimal
from rich.progress import track

from benchmarks.face import Record, main
from toolkit.features.hooks import LayerHooks
from toolkit.models import (
    LayerInfo,
    ModelSpec,
    model_names,
    preprocessing_of,
    select_layers,
    trace_layers,
)
from toolkit.models.layers import running_on, untrained
from toolkit.terminal import make_console

LIBRARIES = ("torchvision", "timm")

# Another number than the tracing uses: a layer whose first axis only looked like the batch differs.
_BATCH = 2
_MOST_AUTO_LAYERS = 12
_IMAGENET_CLASSES = 1000
_FLOAT32_BYTES = 4


class NotCoveredError(RuntimeError):
    """A network's layers are found, but not as they should be."""


@dataclass(frozen=True)
class Coverage:
    """How one network fared: its automatic layers, or why there are none."""

    spec: ModelSpec
    auto: tuple[LayerInfo, ...] = ()
    problem: str = ""


def check(spec: ModelSpec) -> list[LayerInfo]:
    """Trace a network, have all its layers delivered on the meta device, and choose its stages.

    Returns
    -------
    list of LayerInfo
        The layers that "auto" stands for.

    Raises
    ------
    NotCoveredError
        If "auto" gives fewer than two layers or more than twelve, out of order, none in the second
        half of the network, or the classifier.
    toolkit.models.ModelError
        If the network does not run.
    toolkit.features.errors.FeatureError
        If a layer does not run, or gives another shape than predicted.
    """
    network = untrained(spec, "meta")
    layers = trace_layers(spec)
    height, width = preprocessing_of(spec).input_px
    with running_on("meta"), LayerHooks(network, layers) as hooks:
        hooks.forward(torch.empty((_BATCH, 3, height, width)), lambda layer, output: None)
    auto = select_layers(layers, "auto", spec)
    require_stages(auto, getattr(network, "num_classes", _IMAGENET_CLASSES))
    return auto


def require_stages(auto: Sequence[LayerInfo], n_classes: int) -> None:
    """Raise :class:`NotCoveredError` unless the layers can be a network's stages, in order."""
    names = [layer.name for layer in auto]
    if not 2 <= len(auto) <= _MOST_AUTO_LAYERS:
        raise NotCoveredError(f"auto gives {len(auto)} layers: {names}")
    for before, after in pairwise(auto):
        if not (before.index < after.index and 0 <= before.depth < after.depth <= 1):
            raise NotCoveredError(f"auto gives {before.name!r} before {after.name!r}")
    if auto[-1].depth <= 0.5:
        raise NotCoveredError(f"auto ends at relative depth {auto[-1].depth:.2f}: {names}")
    if classifiers := [layer.name for layer in auto if layer.n_features == n_classes]:
        raise NotCoveredError(f"auto gives the classifier: {classifiers}")


def families() -> dict[str, list[ModelSpec]]:
    """All networks of both libraries, by library and family: "timm pnasnet"."""
    found: dict[str, list[ModelSpec]] = defaultdict(list)
    for library in LIBRARIES:
        for name in model_names(library):
            found[f"{library} {_family(library, name)}"].append(ModelSpec(library, name))
    return dict(sorted(found.items()))


def coverage(quick: bool) -> Iterator[Record]:
    """Check that the layers of each network are found, sized and delivered."""
    everything: list[Coverage] = []
    for family, specs in track(
        families().items(), "families", console=make_console(stderr=True), transient=True
    ):
        start = time.perf_counter()
        covered = [cover(spec) for spec in (specs[:1] if quick else specs)]
        yield _record(family, covered, time.perf_counter() - start)
        everything += covered
    yield from (_total(library, everything) for library in LIBRARIES)


def cover(spec: ModelSpec) -> Coverage:
    """Check one network; whatever is wrong with it is a result and not an exception."""
    try:
        return Coverage(spec, tuple(check(spec)))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        return Coverage(spec, problem=f"{type(error).__name__}: {reason}")


def _family(library: str, name: str) -> str:
    if library == "timm":
        import timm.models

        builder = timm.models.model_entrypoint(name)
    else:
        import torchvision.models

        builder = torchvision.models.get_model_builder(name)
    return builder.__module__.rpartition(".")[2]


def _record(family: str, covered: Sequence[Coverage], seconds: float) -> Record:
    working = [one.auto for one in covered if not one.problem]
    problems = [f"{one.spec.name}: {one.problem}" for one in covered if one.problem]
    parts = [f"{len(working)} of {len(covered)} networks"]
    if working:
        n_bytes = [_FLOAT32_BYTES * sum(one.n_features for one in auto) for auto in working]
        n_layers, size = _range(map(len, working), str), _range(n_bytes, decimal)
        parts.append(f"auto: {n_layers} layers, {size} per image")
    return Record(
        benchmark="coverage",
        case=family,
        system="toolkit",
        seconds=seconds,
        status="failed" if problems else "ok",
        note="; ".join([*parts, *problems]),
    )


def _total(library: str, everything: Sequence[Coverage]) -> Record:
    covered = [one for one in everything if one.spec.library == library]
    n_working = sum(not one.problem for one in covered)
    return Record(
        benchmark="coverage",
        case=f"{library}, all",
        system="toolkit",
        status="ok" if n_working == len(covered) else "failed",
        note=f"{n_working} of {len(covered)} networks",
    )


def _range(numbers: Iterable[int], shown: Callable[[int], str]) -> str:
    least, *_, most = map(shown, sorted([*numbers] * 2))
    return least if least == most else f"{least} to {most}"


if __name__ == "__main__":
    main(coverage)
