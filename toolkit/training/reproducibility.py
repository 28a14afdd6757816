"""Random numbers and algorithms that give the same bits again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's generators and, on the CPU, allow only algorithms that repeat their bits.

    Everything is as it was afterwards.
    """
    was_strict = torch.are_deterministic_algorithms_enabled()
    memory: Any = torch.utils.deterministic
    was_filled = memory.fill_uninitialized_memory
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        try:
            if device.type == "cpu":
                torch.use_deterministic_algorithms(True)
                # Nothing here reads memory that nobody wrote, and filling it takes time.
                memory.fill_uninitialized_memory = False
            yield
        finally:
            torch.use_deterministic_algorithms(was_strict)
            memory.fill_uninitialized_memory = was_filled


def rng_states(device: torch.device) -> list[torch.Tensor]:
    """States of the CPU's generator and of the device's."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_rng_states(device: torch.device, states: list[torch.Tensor]) -> None:
    """Go on drawing where :func:`rng_states` was called."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
