"""Trunks: networks without their classifiers, whole, cut after a layer, or made of blocks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from toolkit.models.architecture import build
from toolkit.models.layers import built_on, running_on, trace_layers, traced
from toolkit.models.modular import ModularNetwork
from toolkit.models.network import load_network
from toolkit.models.network_spec import ModularTrunk, ShallowTrunk, TrunkSpec, ZooTrunk
from toolkit.models.preprocessing import Preprocessing, preprocessing_of
from toolkit.models.selection import select_layers
from toolkit.models.shallow import ShallowCNN
from toolkit.models.spec import LayerError, LayerInfo, ModelError, ModelSpec

# Of ImageNet, which torchvision's networks and this project's own are given.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_GLOBAL_POOLING = ("AdaptiveAvgPool2d", "SelectAdaptivePool2d")


def build_trunk(spec: TrunkSpec, seed: int) -> nn.Module:
    """The trunk, with its weights; what is drawn is drawn from torch's global generator.

    Parameters
    ----------
    spec
        Which trunk.
    seed
        Of a library's random weights.

    Returns
    -------
    Module whose output :func:`features_of` reads. The names of a library's modules are kept.

    Raises
    ------
    ModelError
        If the network does not exist or cannot be cut as asked.
    WeightsUnavailableError
        As :func:`toolkit.models.load_network`.
    """
    if not isinstance(spec, ZooTrunk):
        return _own(spec)
    model = ModelSpec(spec.library, spec.name, spec.weights, seed, spec.digest)
    return _trunk_of(load_network(model).module.requires_grad_(True), spec)


def trace_trunk(spec: TrunkSpec) -> list[LayerInfo]:
    """The layers of a trunk, as :func:`toolkit.models.trace_layers`; no weights are needed.

    Raises
    ------
    ModelError
        If the network does not exist, cannot be cut as asked or does not run.
    """
    input_px = trunk_preprocessing(spec).input_px
    return list(traced(partial(_without_weights, spec), input_px, trunk_name(spec)))


def trunk_shape(spec: TrunkSpec) -> tuple[int, ...]:
    """Shape of a trunk's output for one image; no weights are needed.

    Raises
    ------
    ModelError
        As :func:`trace_trunk`.
    """
    height, width = trunk_preprocessing(spec).input_px
    failures = []
    for device in ("meta", "cpu"):
        trunk = built_on(partial(_without_weights, spec), device)
        try:
            with running_on(device):
                return tuple(features_of(trunk, torch.zeros(1, 3, height, width)).shape[1:])
        except RuntimeError as error:
            failures.append(error)
    raise ModelError(
        f"{trunk_name(spec)} does not run on images of {height} x {width} px: {failures[-1]}. "
        "Write another input_px"
    )


def n_trunk_stages(spec: TrunkSpec) -> int:
    """How many stages with weights a trunk has."""
    return max(stage_of_modules(spec, untrained_trunk(spec)).values()) + 1


def untrained_trunk(spec: TrunkSpec) -> nn.Module:
    """The trunk on the meta device: names and shapes, no values."""
    return built_on(partial(_without_weights, spec), "meta")


def trunk_name(spec: TrunkSpec) -> str:
    """What errors call it."""
    if isinstance(spec, ZooTrunk):
        return f"{spec.library} network {spec.name!r}"
    return f"the {spec.kind} network"


def _own(spec: ShallowTrunk | ModularTrunk) -> nn.Module:
    return ShallowCNN(spec) if isinstance(spec, ShallowTrunk) else ModularNetwork(spec)


def _without_weights(spec: TrunkSpec) -> nn.Module:
    if not isinstance(spec, ZooTrunk):
        return _own(spec)
    return _trunk_of(build(ModelSpec(spec.library, spec.name)), spec)


def _trunk_of(network: nn.Module, spec: ZooTrunk) -> nn.Module:
    if spec.n_blocks is not None:
        return _cut(network, _block_end(network, spec), spec)
    if spec.layer is not None:
        model = ModelSpec(spec.library, spec.name)
        (layer,) = select_layers(trace_layers(model), [spec.layer], model)
        return _cut(network, layer.name, spec)
    return _without_classifier(network, spec)


def features_of(trunk: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The trunk's output: (n, features) or (n, channels, height, width)."""
    output = trunk(images)
    if isinstance(output, Mapping):
        (output,) = output.values()
    return output


def trunk_preprocessing(spec: TrunkSpec) -> Preprocessing:
    """What the trunk's images must be; downloads nothing."""
    if not isinstance(spec, ZooTrunk):
        side = (spec.input_px, spec.input_px)
        return Preprocessing(side, side, "center", "bilinear", _MEAN, _STD)
    own = preprocessing_of(ModelSpec(spec.library, spec.name))
    if spec.input_px is None:
        return own
    scale = spec.input_px / own.input_px[0]
    height, width = own.resize_px
    return replace(
        own,
        input_px=(spec.input_px, spec.input_px),
        resize_px=(round(height * scale), round(width * scale)),
    )


def stage_of_modules(spec: TrunkSpec, trunk: nn.Module) -> dict[str, int]:
    """Which stage each module of the trunk belongs to, from 0 at the images.

    Stages of a library's network are those of its "auto" layers: a stage ends with such a
    layer, and what comes after the last one belongs to it. Only stages with weights count.
    Stages of the project's own networks are their blocks, or the stages of their stacks.
    """
    names = [name for name, _ in trunk.named_modules() if name]
    if isinstance(trunk, ShallowCNN | ModularNetwork):
        stages = {name: trunk.stage_of(name) for name in names}
    else:
        assert isinstance(spec, ZooTrunk)
        stages = _stages_of_zoo(spec, names)
    weighted = sorted({stages[name] for name in names if _has_weights(trunk, name)})
    return {name: min(bisect_left(weighted, stages[name]), len(weighted) - 1) for name in names}


def _has_weights(trunk: nn.Module, name: str) -> bool:
    return any(True for _ in trunk.get_submodule(name).parameters(recurse=False))


def _stages_of_zoo(spec: ZooTrunk, names: list[str]) -> dict[str, int]:
    model = ModelSpec(spec.library, spec.name)
    layers = trace_layers(model)
    ends = [layer.index for layer in select_layers(layers, "auto", model)]
    first: dict[str, int] = {}
    for layer in layers:  # in the order in which they finish
        for name in _within_each_other(layer.name):
            first.setdefault(name, layer.index)
    return {
        name: min(bisect_left(ends, _first_index(name, first)), len(ends) - 1) for name in names
    }


def _first_index(name: str, first: Mapping[str, int]) -> int:
    """When the first traced module in this one finishes, or in the nearest one around it."""
    return next((first[around] for around in _within_each_other(name) if around in first), 0)


def _within_each_other(name: str) -> Iterator[str]:
    """A module's name, and those of the modules around it: a.b.c, a.b, a."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _without_classifier(network: nn.Module, spec: ZooTrunk) -> nn.Module:
    if spec.library == "timm":
        network.reset_classifier(0)  # type: ignore[operator]
        return network
    name = _last_weighted(network)
    if name is None:
        raise ModelError(f"{spec.library} network {spec.name!r} has no classifier: name a layer")
    network.set_submodule(name, nn.Identity())
    return network


def _last_weighted(network: nn.Module) -> str | None:
    """The last linear layer or convolution of a torchvision network, which gives its logits."""
    found = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            found = name
    return found


def _block_end(network: nn.Module, spec: ZooTrunk) -> str:
    ends = block_ends(network)
    if not ends:
        raise ModelError(
            f"{spec.library} network {spec.name!r} is not a sequence of blocks: write layer "
            "instead of n_blocks"
        )
    assert spec.n_blocks is not None
    if spec.n_blocks > len(ends):
        raise ModelError(
            f"n_blocks is {spec.n_blocks}, but {spec.library} network {spec.name!r} has "
            f"{len(ends)} blocks, which end in {', '.join(ends)}"
        )
    return ends[spec.n_blocks - 1]


def block_ends(network: nn.Module) -> list[str]:
    """Names of the last modules of a sequential trunk's blocks; empty if it is not sequential.

    The trunk is the network's ``features``, or its children before the global average pooling.
    """
    features = getattr(network, "features", None)
    if isinstance(features, nn.Sequential):
        return [f"features.{name}" for name in _block_ends(list(features.named_children()))]
    children = list(network.named_children())
    kinds = [type(child).__name__ for _, child in children]
    pooling = next((kinds.index(kind) for kind in _GLOBAL_POOLING if kind in kinds), 0)
    return _block_ends(children[:pooling])


def _block_ends(children: Sequence[tuple[str, nn.Module]]) -> list[str]:
    ends: list[str] = []
    for name, child in children:
        if any(isinstance(module, nn.Conv2d) for module in child.modules()):
            ends.append(name)
        elif ends:
            ends[-1] = name
    return ends


def _cut(network: nn.Module, layer: str, spec: ZooTrunk) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor

    try:
        return create_feature_extractor(network, [layer], suppress_diff_warning=True)
    except Exception as error:  # symbolic tracing fails in as many ways as networks are written
        raise LayerError(
            f"{spec.library} network {spec.name!r} cannot be cut after {layer!r}: "
            f"{type(error).__name__}: {error}. Leave layer and n_blocks out, or cut elsewhere"
        ) from error
