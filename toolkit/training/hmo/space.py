"""The small modules that there are, and a sample of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from toolkit.models.network_spec import SmallModule
from toolkit.models.plain import Plain
from toolkit.training.errors import RecipeError


@dataclass(frozen=True)
class ModuleSpace(Plain):
    """What a module may be: each choice is as likely as any other.

    Parameters
    ----------
    n_layers
        Numbers of convolutions.
    channels, kernels_px
        Filters of a convolution, and their sides.
    poolings, normalised
        How a module ends.

    Raises
    ------
    RecipeError
        If there is nothing to choose from.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    n_layers: tuple[int, ...] = (1, 2, 3)
    channels: tuple[int, ...] = (16, 32, 64)
    kernels_px: tuple[int, ...] = (3, 5, 7)
    poolings: tuple[Literal["max", "average", "soft"], ...] = ("max", "average", "soft")
    normalised: tuple[bool, ...] = (False, True)

    def __post_init__(self) -> None:
        for name in ("n_layers", "channels", "kernels_px", "poolings", "normalised"):
            if not getattr(self, name):
                raise RecipeError(f"{name} is empty; write at least one choice")

    @property
    def size(self) -> int:
        """Number of different modules."""
        n_convolutions = len(set(self.channels)) * len(set(self.kernels_px))
        n_ends = len(set(self.poolings)) * len(set(self.normalised))
        return n_ends * sum(n_convolutions**n for n in set(self.n_layers))


def sample_modules(space: ModuleSpace, n_modules: int, seed: int) -> list[SmallModule]:
    """Different modules, in an order that the seed decides; a longer sample begins as a shorter.

    Raises
    ------
    RecipeError
        If the space has fewer.
    """
    if n_modules > space.size:
        raise RecipeError(
            f"{n_modules} different modules are asked for, but the space has {space.size}"
        )
    rng = np.random.default_rng(seed)
    found: dict[SmallModule, None] = {}
    while len(found) < n_modules:
        n_layers = int(rng.choice(space.n_layers))
        found[
            SmallModule(
                channels=tuple(int(n) for n in rng.choice(space.channels, n_layers)),
                kernels_px=tuple(int(side) for side in rng.choice(space.kernels_px, n_layers)),
                pooling=space.poolings[int(rng.integers(len(space.poolings)))],
                normalised=bool(rng.choice(space.normalised)),
            )
        ] = None
    return list(found)
