"""What follows a failure: another try with more memory or on other nodes, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveFloat

from toolkit.cluster.failures import FailureClass
from toolkit.yaml_source import StrictModel

Budget = Annotated[int, Field(ge=0)]


class RetryPolicy(StrictModel):
    """How often a task is tried again, for each class of failure."""

    out_of_memory: Budget = Field(default=3, description="Each with more memory.")
    cuda_out_of_memory: Budget = Field(
        default=1, description="After the job itself has halved its batches."
    )
    timeout: Budget = Field(default=5, description="Each goes on from what is done.")
    preempted: Budget | None = Field(default=None, description="Null: as often as it happens.")
    node_failure: Budget = Field(default=3, description="Each without the nodes that failed.")
    not_started: Budget = Field(
        default=3, description="Slurm gave a place, but could not start it."
    )
    import_error: Budget = Field(default=0, description="Environment or code is broken.")
    bad_data: Budget = Field(default=0, description="Data, config or features are at fault.")
    diverged: Budget = Field(default=0, description="Training has diverged.")
    damaged_features: Budget = Field(default=1, description="After a new extraction.")
    disk_full: Budget = Field(default=0, description="No space, or no quota, is left.")
    weights_unavailable: Budget = Field(default=1, description="A download failed.")
    cancelled: Budget = Field(default=0, description="Somebody stopped it.")
    blocked: Budget | None = Field(
        default=20, description="It was not tried: what its job waited for failed, or came first."
    )
    unknown: Budget = Field(default=1, description="Anything else.")
    stop_family: tuple[FailureClass, ...] = Field(
        default=(FailureClass.IMPORT_ERROR,),
        description="After a failure of these classes, nothing of the same family is tried.",
    )
    memory_factor: Annotated[float, Field(gt=1)] = Field(
        default=1.5, description="Memory after out_of_memory, over what was used or asked for."
    )
    max_memory_gb: PositiveFloat | None = Field(
        default=None, description="Most memory to ask for, GB; no bound if null."
    )

    def budget(self, failure: FailureClass) -> int | None:
        """Further tries after failures of a class; None where they are not counted."""
        found: int | None = getattr(self, failure)
        return found


@dataclass(frozen=True)
class PastAttempt:
    """One failed try of a task.

    Parameters
    ----------
    failure
        Its class.
    memory_gb
        What was asked for, GB.
    peak_memory_gb
        What was used, if it was measured, GB.
    node
        Where it ran; empty if it is not known.
    """

    failure: FailureClass
    memory_gb: float
    peak_memory_gb: float | None = None
    node: str = ""


@dataclass(frozen=True)
class Retry:
    """Try again, with this much memory and without these nodes."""

    memory_gb: float
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class GiveUp:
    """The task has failed."""

    reason: str


@dataclass(frozen=True)
class StopFamily:
    """The task has failed, and others like it would."""

    reason: str


NextStep = Retry | GiveUp | StopFamily


def next_step(history: Sequence[PastAttempt], policy: RetryPolicy) -> NextStep:
    """What follows the last of some failures.

    Parameters
    ----------
    history
        All failed tries of the task, oldest first; at least one.
    policy
        What to do about which failure.
    """
    last = history[-1]
    failure = last.failure
    if failure in policy.stop_family:
        return StopFamily(f"{failure}: others of the family would fail likewise")
    n_failures = sum(attempt.failure is failure for attempt in history)
    budget = policy.budget(failure)
    if budget is not None and n_failures > budget:
        return GiveUp(f"{failure}: {_times(n_failures)}, {_allowed(budget)}")
    memory_gb = last.memory_gb
    if failure is FailureClass.OUT_OF_MEMORY:
        memory_gb = _more_memory_gb(last, policy)
        if memory_gb <= last.memory_gb:
            return GiveUp(f"{failure}: with {last.memory_gb:g} GB, the most that is allowed")
    failed_nodes = [a.node for a in history if a.failure is FailureClass.NODE_FAILURE and a.node]
    return Retry(memory_gb, tuple(dict.fromkeys(failed_nodes)))


def _more_memory_gb(last: PastAttempt, policy: RetryPolicy) -> float:
    wanted_gb = policy.memory_factor * max(last.memory_gb, last.peak_memory_gb or 0.0)
    return round(min(wanted_gb, policy.max_memory_gb or wanted_gb), 2)


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _allowed(budget: int) -> str:
    if budget == 0:
        return "and it is not tried again"
    return f"after {budget} further " + ("try" if budget == 1 else "tries")
