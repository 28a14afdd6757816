"""What Slurm says about elements of job arrays, read from the output of its programs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Nothing follows these.
_OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"})
# A job that may be requeued passes through these for some seconds.
_OVER_UNLESS_REQUEUED = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL"})
_REQUEUE_GRACE_S = 120.0
_NEVER = "DependencyNeverSatisfied"

SQUEUE_FORMAT = ",".join(
    f"{column}:|"
    for column in ("JobArrayID", "State", "Reason", "NodeList", "RestartCnt", "exit_code",
                   "Requeue")
)  # fmt: skip
SACCT_FORMAT = "JobID,State,ExitCode,NodeList,Reason"


@dataclass(frozen=True)
class SchedulerView:
    """What the scheduler said of one element.

    Parameters
    ----------
    element
        Array and index: ``4711_3``.
    state
        Slurm's word, such as ``PENDING``.
    reason
        Why it waits or ended, in Slurm's words; empty where there is none.
    node
        Where it runs or ran.
    restarts
        How often it was requeued; 0 from accounting, which does not say.
    exit_code
        ``code:signal``.
    may_requeue
        Whether Slurm starts it again where it had to stop it.
    since_s
        When it was first seen so, seconds since the epoch.
    """

    element: str
    state: str
    reason: str = ""
    node: str = ""
    restarts: int = 0
    exit_code: str = "0:0"
    may_requeue: bool = False
    since_s: float = 0.0

    def is_over(self, now_s: float) -> bool:
        """Whether nothing follows: only for states known to be final.

        Parameters
        ----------
        now_s
            Seconds since the epoch. A job that was stopped and may be requeued is given two
            minutes to come back.
        """
        if self.state in _OVER_UNLESS_REQUEUED:
            return not self.may_requeue or now_s - self.since_s >= _REQUEUE_GRACE_S
        return self.state in _OVER

    @property
    def is_blocked(self) -> bool:
        """Whether it was cancelled because something that it waited for failed."""
        return self.state == "CANCELLED" and self.reason == _NEVER


def parse_squeue(text: str) -> dict[str, SchedulerView]:
    """Elements by id, from ``squeue --noheader --array --Format=`` :data:`SQUEUE_FORMAT`."""
    return {view.element: view for view in map(_squeue_view, text.splitlines())}


def _squeue_view(line: str) -> SchedulerView:
    element, state, reason, node, restarts, status, requeue, *_ = line.split("|")
    return SchedulerView(
        element=element,
        state=state,
        reason="" if reason == "None" else reason,
        node=node,
        restarts=int(restarts),
        exit_code=f"{int(status) >> 8}:{int(status) & 0x7F}",
        may_requeue=requeue == "1",
    )


def parse_sacct(text: str) -> dict[str, SchedulerView]:
    """Elements by id, from ``sacct -X --noheader --parsable2 --format=`` :data:`SACCT_FORMAT`.

    Elements that accounting writes as one line (``4711_[5-9]``) come one by one.
    """
    return {view.element: view for line in text.splitlines() for view in _sacct_views(line)}


def _sacct_views(line: str) -> Iterator[SchedulerView]:
    job, state, exit_code, node, waited_for = line.split("|")
    word, _, detail = state.partition(" ")
    # Who cancels a job is named, unless Slurm itself does.
    reason = _NEVER if (word, detail, waited_for) == ("CANCELLED", "", "Dependency") else detail
    node = "" if node == "None assigned" else node
    for element in _elements(job):
        yield SchedulerView(element, word, reason, node, exit_code=exit_code)


def _elements(job: str) -> Iterator[str]:
    """``4711_[5,7-8%2]`` → ``4711_5``, ``4711_7``, ``4711_8``."""
    array_id, _, indices = job.partition("_")
    for part in re.sub(r"[\[\]]|%\d+", "", indices).split(","):
        first, _, last = part.partition("-")
        if not first:
            yield array_id
        else:
            yield from (f"{array_id}_{i}" for i in range(int(first), int(last or first) + 1))
