"""Progress of a run as people see it: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from toolkit.cluster.queue import Queue
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.snapshot import TaskView, count_states, take_snapshot
from toolkit.task import Task, TaskState
from toolkit.terminal import one_line

_PROGRESS_LINE_S = 10.0
_MOST_ROWS = 20
_URGENCY = (
    TaskState.FAILED,
    TaskState.UNKNOWN,
    TaskState.BLOCKED,
    TaskState.CANCELLED,
    TaskState.PENDING,
)
_SHOWN_STATES = (
    TaskState.DONE,
    TaskState.RUNNING,
    TaskState.PENDING,
    TaskState.FAILED,
    TaskState.BLOCKED,
    TaskState.CANCELLED,
    TaskState.UNKNOWN,
)


def stage_table(views: Sequence[TaskView]) -> Table:
    """One row per stage: how many tasks stand where."""
    table = Table(box=None, pad_edge=False)
    table.add_column("stage")
    counts = count_states(views)
    shown = [
        s for s in _SHOWN_STATES if s in _SHOWN_STATES[:3] or any(c[s] for c in counts.values())
    ]
    for state in shown:
        table.add_column(str(state), justify="right")
    table.add_column("")
    for kind, counter in counts.items():
        bar = ProgressBar(total=counter.total(), completed=counter[TaskState.DONE], width=30)
        table.add_row(str(kind), *(str(counter[state]) for state in shown), bar)
    return table


def reason_table(views: Sequence[TaskView], most: int | None = None) -> Table | None:
    """Tasks that are neither done nor running, with the reason; None if there is none.

    Parameters
    ----------
    views
        All tasks.
    most
        Rows at most, those that somebody may have to do something about first; None for all.
    """
    rest = [v for v in views if v.state not in (TaskState.DONE, TaskState.RUNNING)]
    if not rest:
        return None
    rest.sort(key=lambda view: _URGENCY.index(view.state))
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "state", "what", "why"):
        table.add_column(heading, overflow="fold")
    for view in rest[:most]:
        table.add_row(view.task.id, str(view.state), view.task.label, view.reason)
    if most is not None and len(rest) > most:
        table.add_row("", "", f"and {len(rest) - most} more", "")
    return table


def scheduler_line(queue: Queue, done: AbstractSet[str]) -> str:
    """``40 jobs in Slurm's queue, 3 of them run; asked 4 s ago, 17 questions so far``."""
    report = queue.report
    elements = {e for task_id, e in queue.waiting_elements().items() if task_id not in done}
    views = [report.views[e] for e in elements if e in report.views]
    n_running = sum(view.state == "RUNNING" for view in views)
    parts = [f"{len(elements)} jobs in Slurm's queue, {n_running} of them run"]
    if report.answered_s is not None:
        parts.append(f"it answered {time.time() - report.answered_s:.0f} s ago")
    parts.append(f"{report.n_queries} questions so far")
    if report.failure is not None:
        parts.append(f"it does not answer: {report.failure.reason}")
    if report.accounting_failure is not None:
        parts.append(f"no accounting, the queue alone is asked: {report.accounting_failure.reason}")
    return "; ".join(parts)


def running_table(views: Sequence[TaskView]) -> Table | None:
    """Every running task with its progress; None if there is none."""
    running = [view for view in views if view.state is TaskState.RUNNING]
    if not running:
        return None
    table = Table(box=None, pad_edge=False, show_header=False)
    for view in running[:_MOST_ROWS]:
        table.add_row(str(view.task.kind), view.task.label, progress_text(view))
    return table


def progress_text(view: TaskView) -> str:
    """``320 of 500, 41.2/s``; empty for a task that does not count its progress."""
    attempt = view.attempt
    if attempt is None or not attempt.n_total:
        return ""
    rate = f", {attempt.n_done / attempt.seconds:.1f}/s" if attempt.seconds > 0 else ""
    return f"{attempt.n_done} of {attempt.n_total}{rate}"


@contextmanager
def following(
    run: RunFolder, tasks: Sequence[Task], console: Console, refresh_s: float = 0.5
) -> Iterator[None]:
    """Show the run's progress, looked up every ``refresh_s`` seconds, while the body runs."""
    if console.is_terminal:

        def render() -> RenderableType:
            views = take_snapshot(run, tasks)
            parts = (stage_table(views), running_table(views))
            return Group(*(part for part in parts if part is not None))

        with Live(
            get_renderable=render, console=console, refresh_per_second=1 / refresh_s, transient=True
        ):
            yield
        return
    say = partial(console.print, soft_wrap=True)
    lines = _PlainLines(run, tasks, say, refresh_s)
    stop = threading.Event()
    thread = threading.Thread(target=lines.follow, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        lines.look()


class _PlainLines:
    """Prints a line when a task changes its state, and now and then its progress."""

    def __init__(
        self,
        run: RunFolder,
        tasks: Sequence[Task],
        write: Callable[[str], None],
        refresh_s: float,
    ) -> None:
        self._run = run
        self._tasks = tasks
        self._write = write
        self._refresh_s = refresh_s
        self._states = {view.task.id: view.state for view in take_snapshot(run, tasks)}
        self._progress_s: dict[str, float] = {}

    def follow(self, stop: threading.Event) -> None:
        while not stop.wait(self._refresh_s):
            self.look()

    def look(self) -> None:
        for view in take_snapshot(self._run, self._tasks):
            changed = self._states[view.task.id] is not view.state
            self._states[view.task.id] = view.state
            if view.state is TaskState.RUNNING:
                self._show_progress(view)
            elif changed and view.state is not TaskState.PENDING:
                why = f": {view.reason}" if view.reason else ""
                self._write(one_line(f"{view.state} {view.task.kind} {view.task.label}{why}"))

    def _show_progress(self, view: TaskView) -> None:
        now = time.monotonic()
        has_moved = view.attempt is not None and 0 < view.attempt.n_done < view.attempt.n_total
        if has_moved and now - self._progress_s.get(view.task.id, -1e9) >= _PROGRESS_LINE_S:
            self._progress_s[view.task.id] = now
            label = one_line(view.task.label)
            self._write(f"running {view.task.kind} {label}: {progress_text(view)}")
