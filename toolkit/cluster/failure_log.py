"""Every failed try of a run, one line each, in the order in which they were noticed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError

from toolkit.cluster.failures import FailureClass
from toolkit.cluster.retries import PastAttempt
from toolkit.cluster.run_folder import RunFolder


@dataclass(frozen=True)
class Failure:
    """One failed try, or the word of somebody that earlier ones no longer count.

    Parameters
    ----------
    task_id
        Which task.
    noticed
        When, UTC (ISO 8601).
    element
        The element of a job array that was to do it; empty where failures are forgiven.
    failure, message
        Why there is no result; no class where failures are forgiven.
    memory_gb, peak_memory_gb
        Asked for, and used if that was measured.
    node
        Where it ran; empty if it is not known.
    """

    task_id: str
    noticed: str
    element: str = ""
    failure: FailureClass | None = None
    message: str = ""
    memory_gb: float = 0.0
    peak_memory_gb: float | None = None
    node: str = ""


_FAILURES = TypeAdapter(Failure)


def read_failures(run: RunFolder) -> list[Failure]:
    """All of a run, oldest first; a line that a killed process left unfinished is left out.

    So is any other that cannot be read.
    """
    try:
        lines = (run.path / "failures.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        with suppress(ValidationError):
            found.append(_FAILURES.validate_json(line))
    return found


def append_failures(run: RunFolder, failures: Iterable[Failure]) -> None:
    """Add to the log; by the process that holds the run.

    Each line begins with a line break, so that it stands alone after an unfinished one.
    """
    lines = [_FAILURES.dump_json(failure).decode() for failure in failures]
    if lines:
        with (run.path / "failures.jsonl").open("a", encoding="utf-8") as file:
            file.write("".join(f"\n{line}" for line in lines))
            file.flush()
            os.fsync(file.fileno())


def forgive(run: RunFolder, task_ids: Iterable[str]) -> None:
    """Let tasks be tried as if they had never failed."""
    now = utc_now()
    append_failures(run, [Failure(task_id, now) for task_id in task_ids])


def histories(failures: Sequence[Failure]) -> dict[str, list[PastAttempt]]:
    """For each task, the tries that count: those since it was forgiven last."""
    found: dict[str, list[PastAttempt]] = {}
    for f in failures:
        if f.failure is None:
            found.pop(f.task_id, None)
        else:
            attempt = PastAttempt(f.failure, f.memory_gb, f.peak_memory_gb, f.node)
            found.setdefault(f.task_id, []).append(attempt)
    return found


def utc_now() -> str:
    """ISO 8601, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
