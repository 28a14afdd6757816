"""What is trained on what: all that decides the weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.data import NeuralDataset
from toolkit.models.network_spec import NetworkSpec
from toolkit.training.images import ImageBank
from toolkit.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Assignment:
    """One training.

    Parameters
    ----------
    spec
        The network.
    recipe
        How it is trained.
    dataset
        Responses and labels.
    rows
        Images of the data set that may be trained on, each once; the validation images are carved
        from them.
    bank
        All images of the data set, prepared for the network.
    initial
        Weights and buffers to start from, by their names in the network: those of an earlier
        training, or of parts of several. The others are drawn, or the library's.
    seen
        :meth:`toolkit.data.Stimuli.image_digests` of the images that those were trained on.
    pause_after
        Epochs after which training pauses, although the recipe has more: no part of the identity,
        so that it goes on from its checkpoint where a later pause, or none, is given.
    """

    spec: NetworkSpec
    recipe: Recipe
    dataset: NeuralDataset
    rows: NDArray[np.integer]
    bank: ImageBank
    initial: Mapping[str, torch.Tensor] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    pause_after: int | None = None

    def images(self) -> tuple[str, ...]:
        """Digests of every image that decides the weights, sorted: those it starts from, too."""
        digests = self.dataset.stimuli.image_digests()
        return tuple(sorted({*self.seen, *(digests[row] for row in self.rows)}))

    def identity(self) -> dict[str, Any]:
        """JSON values that tell this training from every other."""
        rows = np.ascontiguousarray(self.rows, dtype=np.int64)
        return {
            "network": self.spec.to_plain(),
            "recipe": self.recipe.to_plain(),
            "images": self.bank.key,
            "responses": self.dataset.responses_digest(),
            "rows": hashlib.sha256(rows.data).hexdigest(),
            "initial": _digest(self.initial),
        }


def _digest(weights: Mapping[str, torch.Tensor]) -> str | None:
    """SHA-256 (hexadecimal) over names and values; None if there are none."""
    if not weights:
        return None
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(name.encode())
        sha.update(weights[name].detach().cpu().contiguous().numpy().data)
    return sha.hexdigest()
