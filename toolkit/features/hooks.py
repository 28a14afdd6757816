"""Outputs of chosen layers, delivered in the midst of a forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from toolkit.features.errors import FeatureError
from toolkit.models import LayerInfo, output_tensor

Deliver = Callable[[LayerInfo, torch.Tensor], None]


class _AllDelivered(BaseException):  # not an Exception: a network's own handlers must not stop it
    pass


class LayerHooks:
    """Forward hooks on a network's layers, for as long as the ``with`` block lasts.

    A hook delivers at once, because the next module may work in place. A module that runs several
    times in a forward pass (the ReLU of a residual block) gives its last output, which is also
    what :func:`toolkit.models.trace_layers` describes. The first forward pass counts how often
    each layer runs; later ones deliver only the last output and end once all layers have given
    theirs.

    Parameters
    ----------
    module
        The network.
    layers
        Which of its modules; their outputs must have the layer's shape after the batch axis.

    Raises
    ------
    FeatureError
        If the network has no module of that name.

    Notes
    -----
    A TorchScript module gives its own output as any other does, but those of the modules in it
    only to TorchScript: asking for one of these is an error.
    """

    def __init__(self, module: nn.Module, layers: Sequence[LayerInfo]) -> None:
        modules = dict(module.named_modules(remove_duplicate=False))
        for layer in layers:
            if layer.name not in modules:
                raise FeatureError(f"the network has no layer {layer.name!r}")
        self._module = module
        self._scripted = {n for n, m in modules.items() if isinstance(m, torch.jit.ScriptModule)}
        self._layers = tuple(layers)
        self._hooked = [(modules[layer.name], layer) for layer in layers]
        self._calls: Counter[str] = Counter()
        self._calls_per_pass: Counter[str] | None = None
        self._refused: dict[str, str] = {}
        self._batch = 0
        self._take: Deliver | None = None

    def __enter__(self) -> Self:
        self._handles = [
            # TorchScript modules refuse the method of their own, yet run hooks.
            nn.Module.register_forward_hook(module, partial(self._on_output, layer))
            for module, layer in self._hooked
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()

    def forward(self, images: torch.Tensor, deliver: Deliver) -> None:
        """Run the network once.

        Parameters
        ----------
        images
            Shape (batch, 3, height, width), float32, on the network's device.
        deliver
            Called as ``deliver(layer, output)`` in the midst of the forward pass, the output of
            shape (batch, *layer.shape). It may change as soon as this returns. In the first pass
            it is called for every call of a layer, the last of which counts.

        Raises
        ------
        FeatureError
            If a layer does not run, gives no tensor, or one of another shape.
        """
        self._calls.clear()
        self._refused.clear()
        self._batch, self._take = len(images), deliver
        with suppress(_AllDelivered):
            self._module(images)
        self._require_delivery()
        self._calls_per_pass = self._calls.copy()

    def _on_output(self, layer: LayerInfo, module: nn.Module, inputs: Any, output: Any) -> None:
        self._calls[layer.name] += 1
        expected = self._calls_per_pass
        if expected is None or self._calls[layer.name] >= expected[layer.name]:
            self._deliver(layer, output)
        if self._calls == expected:
            raise _AllDelivered

    def _deliver(self, layer: LayerInfo, output: Any) -> None:
        tensor = output_tensor(output)
        shape = (self._batch, *layer.shape)
        if tensor is None:
            self._refused[layer.name] = f"gave no tensor of floats but {type(output).__name__}"
        elif tensor.shape != shape:
            self._refused[layer.name] = f"gave shape {tuple(tensor.shape)}, not {shape}"
        elif self._take:
            self._refused.pop(layer.name, None)
            self._take(layer, tensor)

    def _require_delivery(self) -> None:
        for layer in self._layers:
            if not self._calls[layer.name]:
                raise FeatureError(self._not_run(layer.name))
            if layer.name in self._refused:
                raise FeatureError(f"layer {layer.name!r} {self._refused[layer.name]}")
            if self._calls_per_pass and self._calls[layer.name] != self._calls_per_pass[layer.name]:
                raise FeatureError(
                    f"layer {layer.name!r} runs {self._calls[layer.name]} times for some images "
                    f"and {self._calls_per_pass[layer.name]} times for others"
                )

    def _not_run(self, name: str) -> str:
        parts = name.split(".")
        for parent in (".".join(parts[:depth]) for depth in range(len(parts))):
            if parent in self._scripted:
                whole = f"module {parent!r}" if parent else "network"
                return (
                    f"layer {name!r} is part of a {whole} compiled by TorchScript, which shows no "
                    "outputs of its parts: build it from its Python code, or ask for the whole"
                )
        return f"layer {name!r} does not run in the forward pass"
