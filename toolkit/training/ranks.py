"""A process among those that train one network together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from toolkit.models.trainable import Outputs, TrainableNetwork
from toolkit.training.errors import TrainingDataError
from toolkit.training.recipe import Objective

_SEED_RANK = 4


@dataclass(frozen=True)
class Rank:
    """Which of how many; the only one by default, for which nothing here does anything.

    Each rank has a copy of the network and sees its part of every batch. The outputs of all are
    gathered, so that any objective is that of the whole batch; the gradients are averaged.

    Parameters
    ----------
    index
        From 0.
    n_ranks
        Of all.
    """

    index: int = 0
    n_ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it writes what is written."""
        return self.index == 0

    def part(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """Its part of some images.

        Raises
        ------
        TrainingDataError
            If there are fewer images than ranks.
        """
        if len(rows) < self.n_ranks:
            raise TrainingDataError(
                f"{len(rows)} images cannot be shared among {self.n_ranks} devices: write a larger "
                "batch_size or validation_share, or train on fewer devices"
            )
        return np.array_split(rows, self.n_ranks)[self.index]

    def joined(self, network: TrainableNetwork, objectives: Iterable[Objective]) -> nn.Module:
        """The network to call in training, whose gradients are averaged over ranks.

        Of parts that no objective trains, gradients are not waited for.
        """
        if self.n_ranks == 1:
            return network
        kinds = {objective.kind for objective in objectives if objective.weight}
        untrained = [head for kind, head in network.heads.items() if kind not in kinds]
        if network.decoder is not None and kinds <= network.heads.keys():
            untrained.append(network.decoder)
        for module in untrained:
            module.requires_grad_(False)
        return DistributedDataParallel(network)

    def gathered(self, outputs: Outputs, n_images: int, device: torch.device) -> Outputs:
        """Outputs for all images of which each rank has its :meth:`part`.

        Parameters
        ----------
        outputs
            Its own. They alone pass gradients on.
        n_images
            Of all ranks.
        device
            Which the ranks talk through.
        """
        if self.n_ranks == 1:
            return outputs
        own = self.part(np.arange(n_images))

        def whole(values: torch.Tensor) -> torch.Tensor:
            everyone = values.new_zeros((n_images, *values.shape[1:]), device=device)
            everyone[own[0] : own[-1] + 1] = values.detach()
            distributed.all_reduce(everyone)
            everyone = everyone.to(values.device)
            return torch.cat([everyone[: own[0]], values, everyone[own[-1] + 1 :]])

        responses = None if outputs.responses is None else whole(outputs.responses)
        return Outputs(responses, {kind: whole(part) for kind, part in outputs.logits.items()})

    def take_over_buffers(self, network: TrainableNetwork) -> None:
        """Have the first rank's buffers, such as the statistics of batch normalisation."""
        if self.n_ranks > 1:
            for buffer in network.buffers():
                distributed.broadcast(buffer, 0)

    def seed(self, seed: int, n_steps: int) -> None:
        """Let torch draw other numbers than on the first rank, which keeps its own."""
        if not self.is_first:
            sequence = np.random.SeedSequence([seed, _SEED_RANK, self.index, n_steps])
            torch.manual_seed(int(sequence.generate_state(1)[0]))
