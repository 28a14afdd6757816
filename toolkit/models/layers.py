"""Which layers a network has, in which order, and how large their outputs are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from toolkit.models.architecture import build
from toolkit.models.preprocessing import preprocessing_of
from toolkit.models.spec import LayerInfo, ModelError, ModelSpec

# Not a size that windows, heads or stacked projections have, so that a first axis of this
# length is the batch.
_META_BATCH = 7
_CPU_BATCH = 2

_ALLOCATORS = (torch.empty, torch.zeros, torch.ones)

# What initialisation spends its time on; on the meta device there is nothing to fill.
_FILLERS = frozenset(
    {
        torch.Tensor.normal_,
        torch.Tensor.uniform_,
        torch.Tensor.fill_,
        torch.Tensor.zero_,
        torch.Tensor.erfinv_,
        torch.Tensor.clamp_,
        torch.Tensor.mul_,
        torch.Tensor.add_,
        nn.init.uniform_,
        nn.init.normal_,
        nn.init.constant_,
        nn.init.kaiming_uniform_,
    }
)

_NORMS = frozenset({functional.batch_norm, functional.layer_norm, functional.group_norm})


def output_tensor(output: Any) -> torch.Tensor | None:
    """The tensor that stands for a module's output: the first floating one found in it.

    Tuples, lists and mappings are searched in order, depth first. ``None`` if there is none.

    The next module may change the tensor in place (``ReLU(inplace=True)``, ``out += identity``):
    a forward hook has to copy what it keeps before it returns.
    """
    if isinstance(output, torch.Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        return next((t for t in map(output_tensor, output) if t is not None), None)
    return None


def trace_layers(spec: ModelSpec) -> list[LayerInfo]:
    """Every module whose output is one row per image, in the order in which they finish.

    The network is built and run on the meta device, without weights or arithmetic. One that
    cannot run there runs once on the CPU with random weights.

    A module that is called several times (the ReLU of a residual block) counts once, with its last
    call: its shape, and its place in the order. A module whose output holds no floating tensor
    (:func:`output_tensor`), or one whose first axis is not the batch (windows folded into the
    batch, sequence-first transformers), is left out, and so is the whole network.

    Raises
    ------
    ModelError
        If the network does not exist, or runs on neither device.
    """
    return list(_trace(ModelSpec(spec.library, spec.name)))


@lru_cache(maxsize=256)
def _trace(spec: ModelSpec) -> tuple[LayerInfo, ...]:
    named = f"{spec.library} network {spec.name!r}"
    return traced(partial(build, spec), preprocessing_of(spec).input_px, named)


def traced(
    builder: Callable[[], nn.Module], input_px: tuple[int, int], named: str
) -> tuple[LayerInfo, ...]:
    """The layers of what ``builder`` builds, as :func:`trace_layers` gives them.

    Parameters
    ----------
    builder
        Builds the network with whatever weights; it is called under a context that allocates them
        on the meta device.
    input_px
        Height and width of its images.
    named
        What errors call it.

    Raises
    ------
    ModelError
        If it runs on neither device.
    """
    height, width = input_px
    try:
        outputs = _trace_on(builder, (_META_BATCH, 3, height, width), "meta")
    except Exception:  # whatever a network does that has no meta implementation
        try:
            outputs = _trace_on(builder, (_CPU_BATCH, 3, height, width), "cpu")
        except Exception as error:
            raise ModelError(
                f"{named} does not run on an image of {height} x {width} px: "
                f"{type(error).__name__}: {error}"
            ) from error
    last = max(len(outputs) - 1, 1)
    return tuple(
        LayerInfo(name, shape, index, kind, index / last)
        for index, (name, (shape, kind)) in enumerate(outputs.items())
    )


def is_called(spec: ModelSpec, module: str) -> bool:
    """Whether a network runs one of its modules by itself, on the CPU with random weights."""
    network, calls = untrained(spec, "cpu"), list[bool]()
    nn.Module.register_forward_hook(network.get_submodule(module), lambda *_: calls.append(True))
    with running_on("cpu"):
        network(torch.zeros(_CPU_BATCH, 3, *preprocessing_of(spec).input_px))
    return bool(calls)


def untrained(spec: ModelSpec, device: str) -> nn.Module:
    """The network in evaluation mode as its library initialises it; on "meta" without values."""
    return built_on(partial(build, spec), device)


def built_on(builder: Callable[[], nn.Module], device: str) -> nn.Module:
    """What ``builder`` builds, in evaluation mode; on "meta" without values."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        with _WeightsOn(device):
            network = builder()
        return network.eval().to(device)


def _trace_on(
    builder: Callable[[], nn.Module], input_shape: tuple[int, ...], device: str
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Run the untrained network once; shape and class by name, in the order of last finishing."""
    outputs: dict[str, tuple[tuple[int, ...], str]] = {}

    def recorder(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs.pop(name, None)
            tensor = output_tensor(output)
            if tensor is not None and tensor.shape[:1] == input_shape[:1] and tensor.numel():
                outputs[name] = tuple(tensor.shape[1:]), type(module).__name__

        return record

    network = built_on(builder, device)
    for name, module in network.named_modules():
        if name:
            # TorchScript modules refuse the method of their own, yet run hooks.
            nn.Module.register_forward_hook(module, recorder(name))
    with running_on(device):
        network(torch.zeros(input_shape))
    return outputs


@contextmanager
def running_on(device: str) -> Iterator[None]:
    """For a forward pass that is run for its shapes: new tensors lie on the device."""
    with (
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(),
        torch.device(device),
        _ShapesOfNorms(),
    ):
        yield


class _ShapesOfNorms(TorchFunctionMode):
    """Skip what keeps the shape and takes most of the time on meta, being many steps there."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _NORMS and args[0].is_meta:
            return torch.empty_like(args[0], memory_format=torch.contiguous_format)
        return func(*args, **(kwargs or {}))


class _WeightsOn(TorchFunctionMode):
    """Allocate weights on a device; leave the arithmetic that decides their sizes on the CPU.

    ``torch.device("meta")`` moves that arithmetic too, and RegNet's then has no numbers to use.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options = kwargs or {}
        if func in _FILLERS:
            filled = args[0] if args else options["tensor"]
            if filled.is_meta:
                return filled
        if func in _ALLOCATORS:
            options = {**options, "device": self.device}
        return func(*args, **options)
