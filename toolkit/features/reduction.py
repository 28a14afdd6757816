"""From a layer's output to the features that are kept of it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from toolkit.features.forms import FeatureForm, channel_axis, n_prefix_tokens
from toolkit.features.projection import SparseProjection
from toolkit.models import LayerInfo

Reduce = Callable[[torch.Tensor], torch.Tensor]


def reducer(layer: LayerInfo, form: FeatureForm) -> Reduce:
    """Give the function from (batch, *layer.shape) to (batch, n_features) as ``form`` keeps it.

    The result is float32, or float16 if the form says so, on the device of the output; for a form
    that keeps everything it may be a view of the output.
    """
    values = _values(layer, form)
    dtype = torch.float16 if form.dtype == "float16" else torch.float32
    if form.dtype == "bfloat16":
        return lambda output: values(output).to(torch.bfloat16).to(dtype)
    return lambda output: values(output).to(dtype)


def _values(layer: LayerInfo, form: FeatureForm) -> Reduce:
    if form.kind == "cls":
        return lambda output: output[:, 0]
    if form.kind in ("average", "max"):
        return _pooling(layer, form.kind)
    if form.projects(layer):
        project = SparseProjection(layer.n_features, form.n_dims or 0, form.seed)
        return lambda output: project(output.flatten(1).float())
    return lambda output: output.flatten(1)


def _pooling(layer: LayerInfo, kind: str) -> Reduce:
    axes = [1 + axis for axis in range(len(layer.shape)) if axis != channel_axis(layer)]
    if not axes:
        return lambda output: output
    n_prefix = n_prefix_tokens(layer.shape)
    if kind == "average":
        return lambda output: output[:, n_prefix:].float().mean(axes)
    return lambda output: output[:, n_prefix:].amax(axes)
