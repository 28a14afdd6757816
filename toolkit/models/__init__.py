"""Networks by name, with the preprocessing that belongs to their weights, and their layers.

Importing this room imports neither torch nor a network library; its functions do when they are
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolkit.models.names import match_names, model_names, names_of_this_process
from toolkit.models.seen import share_seen
from toolkit.models.selection import select_layers
from toolkit.models.spec import (
    CheckpointError,
    LayerError,
    LayerInfo,
    ModelError,
    ModelSpec,
    WeightsChangedError,
    WeightsUnavailableError,
)

if TYPE_CHECKING:
    from toolkit.models.layers import output_tensor, trace_layers
    from toolkit.models.network import (
        Network,
        fetch_weights,
        load_network,
        require_fit,
        weights_digest,
    )
    from toolkit.models.preprocessing import Preprocessing, preprocessing_of

_TORCH_MODULES = {
    "output_tensor": "layers",
    "trace_layers": "layers",
    "Network": "network",
    "fetch_weights": "network",
    "load_network": "network",
    "require_fit": "network",
    "weights_digest": "network",
    "Preprocessing": "preprocessing",
    "preprocessing_of": "preprocessing",
}

__all__ = [
    "CheckpointError",
    "LayerError",
    "LayerInfo",
    "ModelError",
    "ModelSpec",
    "Network",
    "Preprocessing",
    "WeightsChangedError",
    "WeightsUnavailableError",
    "fetch_weights",
    "load_network",
    "match_names",
    "model_names",
    "names_of_this_process",
    "output_tensor",
    "preprocessing_of",
    "require_fit",
    "select_layers",
    "share_seen",
    "trace_layers",
    "weights_digest",
]


def __getattr__(name: str) -> Any:
    if name not in _TORCH_MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_TORCH_MODULES[name]}"), name)
