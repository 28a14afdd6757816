"""What a job asks a scheduler for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class JobRequest:
    """What one job asks for.

    Parameters
    ----------
    n_cpus, n_gpus
        Cores and GPUs, on each node.
    memory_gb
        Memory, GB, on each node.
    timeout_min
        Time limit, minutes.
    exclude
        Nodes it must not run on.
    n_nodes
        Nodes. The job's command runs once, on the first of them.
    """

    n_cpus: int
    n_gpus: int
    memory_gb: float
    timeout_min: int
    exclude: tuple[str, ...] = ()
    n_nodes: int = 1

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> JobRequest:
        """Read one whose ``vars`` were written as JSON."""
        return cls(**{**raw, "exclude": tuple(raw["exclude"])})
