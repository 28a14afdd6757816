"""Networks of small modules in parallel, stacked in stages: what hierarchical optimisation builds.

Yamins et al. 2014, Performance-optimized hierarchical models predict neural responses in higher
visual cortex.
"""

from __future__ import annotations

import torch
from torch import nn

from toolkit.models.network_spec import ModularTrunk, SmallModule, Stack, Stage
from toolkit.models.shallow import pooling

# Positions on a side to which the stacks' outputs are averaged before they meet.
_TOP_PX = 2


class ModularNetwork(nn.Module):
    """The stacks of a :class:`~toolkit.models.network_spec.ModularTrunk`, side by side.

    Parameters
    ----------
    spec
        Which stacks.
    """

    def __init__(self, spec: ModularTrunk) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(_stack(stack) for stack in spec.stacks)
        n_units = sum(_TOP_PX**2 * _n_channels(stack[-1]) for stack in spec.stacks)
        self.top: nn.Module = nn.Identity()
        if spec.n_features is not None:
            self.top = nn.Sequential(nn.Linear(n_units, spec.n_features), nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, units) of images (n, 3, height, width)."""
        outputs = [
            nn.functional.adaptive_avg_pool2d(stack(images), _TOP_PX).flatten(1)
            for stack in self.stacks
        ]
        return self.top(torch.cat(outputs, dim=1))

    def stage_of(self, name: str) -> int:
        """Stage of a module of this network: that within its stack; the top layer is the last."""
        if name.startswith("top"):
            return max(len(stack) for stack in self.stacks)  # type: ignore[arg-type]
        numbers = name.split(".")[1:]
        return int(numbers[1]) if len(numbers) > 1 else 0


class ParallelModules(nn.ModuleList):
    """The modules of one stage, which see the same input and whose channels are concatenated."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (n, channels of all modules, height, width), half as high and wide."""
        return torch.cat([module(maps) for module in self], dim=1)


def _stack(stages: Stack) -> nn.Sequential:
    inputs = (3, *map(_n_channels, stages[:-1]))
    return nn.Sequential(
        *(
            ParallelModules(_module(module, n_inputs) for module in stage)
            for n_inputs, stage in zip(inputs, stages, strict=True)
        )
    )


def _module(spec: SmallModule, n_inputs: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for n_outputs, kernel_px in zip(spec.channels, spec.kernels_px, strict=True):
        convolution = nn.Conv2d(n_inputs, n_outputs, kernel_px, padding=kernel_px // 2)
        parts += [convolution, nn.ReLU(inplace=True)]
        n_inputs = n_outputs
    parts.append(pooling(spec.pooling))
    if spec.normalised:
        parts.append(nn.BatchNorm2d(n_inputs))
    return nn.Sequential(*parts)


def _n_channels(stage: Stage) -> int:
    return sum(module.channels[-1] for module in stage)
