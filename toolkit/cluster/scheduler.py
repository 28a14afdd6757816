"""One question to the scheduler for a whole run, its answer shared by all who ask.

Slurm is a witness: what it said of an element is kept until it says something else, and a question
that has no answer says nothing about any element.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from toolkit.cluster.commands import SlurmCommandError, slurm_output
from toolkit.cluster.run_folder import write_text
from toolkit.cluster.scheduler_output import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Answer,
    SchedulerView,
    parse_sacct,
    parse_squeue,
)

MIN_INTERVAL_S = 30.0
_MAX_INTERVAL_S = 900.0
_MOST_SHOWN = 80  # characters of a line


@dataclass(frozen=True)
class QueryFailed:
    """A question without an answer, or with one that cannot be read.

    Parameters
    ----------
    reason
        What Slurm's program said.
    since_s, last_s
        When the first and the last of the failures in a row were, seconds since the epoch.
    n_failures
        How many they are.
    answered
        Elements about which the last answer said something all the same.
    """

    reason: str
    since_s: float
    last_s: float
    n_failures: int
    answered: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SchedulerReport:
    """What is known from the scheduler.

    Parameters
    ----------
    views
        What it said of each element that it knows, or knew until the element was over.
    unknown_since_s
        Elements that it does not know, though it answered, and since when (seconds since the
        epoch): they left the queue, and how they ended is not known from here.
    answered_s
        Time of the last answer; None if there was none yet.
    n_queries
        How many times its programs were called for this run.
    failure
        Set while questions have no answer.
    accounting_failure
        The same for ``sacct``, which is asked about elements that the queue has forgotten. A
        cluster without accounting is seen as one that fails.
    """

    views: dict[str, SchedulerView] = field(default_factory=dict)
    unknown_since_s: dict[str, float] = field(default_factory=dict)
    answered_s: float | None = None
    n_queries: int = 0
    failure: QueryFailed | None = None
    accounting_failure: QueryFailed | None = None


_REPORTS = TypeAdapter(SchedulerReport)


class Scheduler:
    """Slurm, as a witness of one run.

    Parameters
    ----------
    run_path
        The run folder, where the last answer is kept.
    min_interval_s
        Least seconds between two questions, of whichever process. It doubles with each failure in
        a row, up to 15 minutes.
    clock
        Gives seconds since the epoch.
    """

    def __init__(
        self,
        run_path: Path,
        *,
        min_interval_s: float = MIN_INTERVAL_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = run_path / "scheduler.json"
        self._min_interval_s = min_interval_s
        self._clock = clock

    def report(self) -> SchedulerReport:
        """What is known, without asking."""
        try:
            return _REPORTS.validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return SchedulerReport()

    def refresh(self, elements: Collection[str]) -> SchedulerReport:
        """Ask about elements, unless somebody did a moment ago, or does now.

        Parameters
        ----------
        elements
            Ids such as ``4711_3``. Nothing more is asked about those that are over.

        Returns
        -------
        SchedulerReport
            On all elements of the run that were ever asked about.
        """
        report = self.report()
        if self._is_due(report, elements):
            with self._asking(wait=report.answered_s is None) as is_mine:
                report = self.report()
                if is_mine and self._is_due(report, elements):
                    report = self._ask(report, elements)
                    write_text(self._path, _REPORTS.dump_json(report).decode())
        return report

    def _is_due(self, report: SchedulerReport, elements: Collection[str]) -> bool:
        last_s = report.failure.last_s if report.failure else report.answered_s
        return self._may_ask(last_s, report.failure) and bool(self._unfinished(report, elements))

    def _may_ask(self, last_s: float | None, failure: QueryFailed | None) -> bool:
        wait_s = self._min_interval_s * 2 ** min(failure.n_failures if failure else 0, 20)
        return last_s is None or self._clock() - last_s >= min(wait_s, _MAX_INTERVAL_S)

    def _unfinished(self, report: SchedulerReport, elements: Collection[str]) -> set[str]:
        now_s = self._clock()
        over = {element for element, view in report.views.items() if view.is_over(now_s)}
        return set(elements) - over

    @contextmanager
    def _asking(self, *, wait: bool) -> Iterator[bool]:
        """Whether this process may ask; others are left to it meanwhile."""
        with self._path.with_suffix(".lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except OSError:
                yield False
            else:
                yield True

    def _ask(self, report: SchedulerReport, elements: Collection[str]) -> SchedulerReport:
        unfinished = self._unfinished(report, elements)
        report = replace(report, n_queries=report.n_queries + 1)
        try:
            queue = _ask_queue(unfinished)
        except SlurmCommandError as error:
            return replace(report, failure=self._failed(str(error), report.failure))
        said = dict(queue.views)
        if queue.unreadable:  # who is not in the lines that can be read may be in the others
            failure = self._failed(_unreadable_text("squeue", queue), report.failure)
            failure = replace(failure, answered=frozenset(unfinished & said.keys()))
            return self._updated(replace(report, failure=failure), said, unknown=set())
        report = replace(report, answered_s=self._clock(), failure=None)
        forgotten = unfinished - said.keys()
        accounting = report.accounting_failure
        if forgotten and self._may_ask(accounting.last_s if accounting else None, accounting):
            report = replace(report, n_queries=report.n_queries + 1)
            try:
                answer = _ask_accounting(forgotten)
                reason = _unreadable_text("sacct", answer) if answer.unreadable else ""
                said |= answer.views
            except SlurmCommandError as error:
                reason = str(error)
            failed = self._failed(reason, accounting) if reason else None
            report = replace(report, accounting_failure=failed)
        return self._updated(report, said, unknown=unfinished - said.keys())

    def _failed(self, reason: str, before: QueryFailed | None) -> QueryFailed:
        now_s = self._clock()
        if before is None:
            return QueryFailed(reason, now_s, now_s, 1)
        return QueryFailed(reason, before.since_s, now_s, before.n_failures + 1)

    def _updated(
        self, report: SchedulerReport, said: Mapping[str, SchedulerView], unknown: set[str]
    ) -> SchedulerReport:
        now_s = self._clock()
        views = {element: v for element, v in report.views.items() if element not in unknown}
        views |= {e: _following(view, views.get(e), now_s) for e, view in said.items()}
        since = {e: s for e, s in report.unknown_since_s.items() if e not in said}
        since |= {element: since.get(element, now_s) for element in unknown}
        return replace(report, views=views, unknown_since_s=since)


def _following(view: SchedulerView, before: SchedulerView | None, now_s: float) -> SchedulerView:
    """A view with the time since which it holds."""
    if before is None:
        return replace(view, since_s=now_s)
    restarts = max(view.restarts, before.restarts)
    is_same = (view.state, restarts) == (before.state, before.restarts)
    return replace(view, restarts=restarts, since_s=before.since_s if is_same else now_s)


def _ask_queue(elements: Collection[str]) -> Answer:
    command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={_arrays(elements)}"]
    try:
        return parse_squeue(slurm_output([*command, f"--Format={SQUEUE_FORMAT}"]))
    except SlurmCommandError as error:
        # What it says of a single job that it has forgotten; of several it says nothing.
        if "Invalid job id specified" in str(error):
            return Answer({})
        raise


def _ask_accounting(elements: Collection[str]) -> Answer:
    """How elements ended that the queue has forgotten; without those of which it says otherwise."""
    command = ["sacct", "-X", "--noheader", "--parsable2", f"--jobs={_arrays(elements)}"]
    answer = parse_sacct(slurm_output([*command, f"--format={SACCT_FORMAT}"]))
    views = answer.views
    # An array that was cancelled as a whole before it began stays one line.
    found = ((element, views.get(element) or views.get(_array(element))) for element in elements)
    over = {e: replace(view, element=e) for e, view in found if view and view.is_over(now_s=0.0)}
    return replace(answer, views=over)


def _unreadable_text(program: str, answer: Answer) -> str:
    n_more = len(answer.unreadable) - 1
    more = f" and {n_more} more" if n_more else ""
    return f"{program} printed what cannot be read: {answer.unreadable[0][:_MOST_SHOWN]!r}{more}"


def _array(element: str) -> str:
    return element.partition("_")[0]


def _arrays(elements: Collection[str]) -> str:
    return ",".join(sorted(set(map(_array, elements)), key=int))
