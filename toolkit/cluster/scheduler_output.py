"""What Slurm says about elements of job arrays, read from the output of its programs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

# Nothing follows these.
_OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE"})
# A job that may be requeued passes through these for some seconds.
_OVER_UNLESS_REQUEUED = frozenset({"NODE_FAIL", "PREEMPTED", "BOOT_FAIL"})
_REQUEUE_GRACE_S = 120.0
_NEVER = "DependencyNeverSatisfied"

# What is printed above a table or beside it: a cluster's name, columns' names, a site's greeting.
_NO_ROW = re.compile(
    r"\s*$|CLUSTER: "
    r"|(JOBID|JOBARRAYID|ARRAY_JOB_ID|NAME|JOBNAME)\s*\|"
    r"|(?!\d)(?!.*error)[^|]*$",
    re.IGNORECASE,
)
_STATE = re.compile(r"[A-Z_]+( .*)?")
_ELEMENTS = re.compile(r"(\d+)(?:_(?:(\d+)|\[(.*)\]))?", re.ASCII)
_INDICES = re.compile(r"(\d{1,9})(?:-(\d{1,9})(?::([1-9]\d{0,8}))?)?", re.ASCII)
_MOST_INDICES = 4_000_001  # the most that Slurm can be configured to take
_NOTHING = frozenset({"", "None", "None assigned", "(null)", "N/A", "n/a"})

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


@dataclass(frozen=True)
class Answer:
    """What a program of Slurm said of elements.

    Parameters
    ----------
    views
        By element.
    unreadable
        Lines that say nothing that can be read. Whichever elements they are about, their not being
        among the ``views`` says nothing of them.
    """

    views: dict[str, SchedulerView]
    unreadable: tuple[str, ...] = ()


def read_rows(text: str, n_columns: int) -> tuple[list[list[str]], tuple[str, ...]]:
    """Lines of ``|``-separated columns, and those that are not.

    Parameters
    ----------
    text
        What was printed, each line with or without a ``|`` at its end. What Slurm writes above a
        table (``CLUSTER: name``, the columns' names) is left out.
    n_columns
        How many there are to be, at least two.
    """
    rows: list[list[str]] = []
    unreadable: list[str] = []
    for line in text.splitlines():
        columns = [column.strip() for column in line.split("|")]
        if columns[n_columns:] == [""]:
            del columns[n_columns:]
        if len(columns) == n_columns and not _NO_ROW.match(line):
            rows.append(columns)
        elif not _NO_ROW.match(line):
            unreadable.append(line)
    return rows, tuple(unreadable)


def parse_squeue(text: str) -> Answer:
    """Elements from ``squeue --noheader --array --Format=`` :data:`SQUEUE_FORMAT`."""
    return _parse(text, SQUEUE_FORMAT.count("|"), _squeue_views)


def parse_sacct(text: str) -> Answer:
    """Elements from ``sacct -X --noheader --parsable2 --format=`` :data:`SACCT_FORMAT`.

    Elements that accounting writes as one line (``4711_[5-9]``) come one by one.
    """
    return _parse(text, SACCT_FORMAT.count(",") + 1, _sacct_views)


def _parse(
    text: str,
    n_columns: int,
    views_of: Callable[[Sequence[str], Sequence[str]], Iterable[SchedulerView]],
) -> Answer:
    rows, unreadable = read_rows(text, n_columns)
    views: dict[str, SchedulerView] = {}
    for row in rows:
        elements, is_whole = _elements(row[0])
        if not _STATE.fullmatch(row[1]):
            elements, is_whole = [], False
        views |= {view.element: view for view in views_of(elements, row)}
        if not is_whole:
            unreadable += ("|".join(row),)
    return Answer(views, unreadable)


def _squeue_views(elements: Sequence[str], row: Sequence[str]) -> Iterator[SchedulerView]:
    _, state, reason, node, restarts, status, requeue = row
    for element in elements:
        yield SchedulerView(
            element,
            state,
            reason=_said(reason),
            node=_said(node),
            restarts=int(restarts) if restarts.isdecimal() else 0,
            exit_code=_exit_code(status),
            may_requeue=requeue != "0",
        )


def _exit_code(status: str) -> str:
    """``code:signal`` of a status as ``wait`` gives it."""
    number = int(status) if status.isdecimal() else 0
    return f"{number >> 8}:{number & 0x7F}"


def _sacct_views(elements: Sequence[str], row: Sequence[str]) -> Iterator[SchedulerView]:
    _, state, exit_code, node, waited_for = row
    word, _, detail = state.partition(" ")
    # Who cancels a job is named, unless Slurm itself does.
    reason = _NEVER if (word, detail, waited_for) == ("CANCELLED", "", "Dependency") else detail
    for element in elements:
        yield SchedulerView(element, word, reason, _said(node), exit_code=exit_code)


def _said(value: str) -> str:
    """Empty where Slurm writes that there is nothing."""
    return "" if value in _NOTHING else value


def _elements(job: str) -> tuple[list[str], bool]:
    """``4711_[5,7-9:2%2]`` → ``4711_5``, ``4711_7``, ``4711_9``, and whether these are all.

    Of a list that was cut (``4711_[5,7,...]``) they are those that are there.
    """
    match = _ELEMENTS.fullmatch(job)
    if match is None:
        return [], False
    array_id, index, indices = match.groups()
    if indices is None:
        return [array_id if index is None else f"{array_id}_{index}"], True
    found: list[str] = []
    is_whole = True
    for part in re.sub(r"%\d+$", "", indices).split(","):
        bounds = _INDICES.fullmatch(part)
        first, last, step = (int(n or 0) for n in bounds.groups()) if bounds else (0, 0, 0)
        numbers = range(first, max(first, last) + 1, step or 1)
        if bounds is None or len(numbers) > _MOST_INDICES:
            is_whole = False
        else:
            found += (f"{array_id}_{i}" for i in numbers)
    return found, is_whole
