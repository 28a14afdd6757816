"""A run's tasks in the scheduler's queue: which job is to do which, and how the jobs stand."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.cluster.manifests import Submission, read_submissions
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler import Scheduler, SchedulerReport
from toolkit.cluster.scheduler_output import SchedulerView

# Accounting comes some seconds after the queue has forgotten a job.
_UNKNOWN_GRACE_S = 10.0
# A file on a network file system is seen that much later by other machines.
_RESULT_GRACE_S = 60.0


@dataclass(frozen=True)
class Place:
    """An element of a submitted job array."""

    submission: Submission
    index: int

    @property
    def element(self) -> str:
        """Slurm's id of it: ``4711_3``."""
        return self.submission.element_id(self.index)


class Queue:
    """What is known of the jobs of a run, without asking.

    Parameters
    ----------
    submissions
        Oldest first.
    report
        What the scheduler said.
    now_s
        Seconds since the epoch.
    """

    def __init__(
        self, submissions: Sequence[Submission], report: SchedulerReport, now_s: float
    ) -> None:
        self.submissions = [s for s in submissions if s.array_id]
        self.report = report
        self._now_s = now_s
        self._places = {
            task_id: Place(submission, index)
            for submission in self.submissions
            for index, task_ids in enumerate(submission.elements)
            for task_id in task_ids
        }

    def place(self, task_id: str) -> Place | None:
        """The element to which a task was given last."""
        return self._places.get(task_id)

    def view(self, task_id: str) -> SchedulerView | None:
        """What the scheduler said of it."""
        place = self._places.get(task_id)
        return self.report.views.get(place.element) if place else None

    def has_ended(self, task_id: str) -> bool:
        """Whether the job that was to do a task is over, and its result would be here.

        Never decided on one reading that only says that the job is not there. Jobs about which was
        not asked yet are in the queue.
        """
        place = self._places.get(task_id)
        if place is None:
            return False
        since_s = self.report.unknown_since_s.get(place.element)
        if since_s is not None:
            answered_s = self.report.answered_s or since_s
            return answered_s > since_s and self._now_s - since_s >= _UNKNOWN_GRACE_S
        view = self.report.views.get(place.element)
        if view is None or not view.is_over(self._now_s):
            return False
        return view.state != "COMPLETED" or self._now_s - view.since_s >= _RESULT_GRACE_S

    def waiting_elements(self) -> dict[str, str]:
        """For tasks whose jobs are not over, the job."""
        return {
            task_id: place.element
            for task_id, place in self._places.items()
            if not self.has_ended(task_id)
        }


def read_queue(run: RunFolder) -> Queue | None:
    """What is recorded; None if nothing of the run was ever submitted."""
    if not (run.path / "submissions").is_dir():
        return None
    return Queue(read_submissions(run), Scheduler(run.path).report(), time.time())


def ask_queue(run: RunFolder, min_interval_s: float) -> Queue:
    """Ask the scheduler about what is not done, unless somebody did a moment ago."""
    submissions = read_submissions(run)
    done = run.done_ids()
    unfinished = [
        submission.element_id(index)
        for submission in submissions
        if submission.array_id
        for index, task_ids in enumerate(submission.elements)
        if not done.issuperset(task_ids)
    ]
    report = Scheduler(run.path, min_interval_s=min_interval_s).refresh(unfinished)
    return Queue(submissions, report, time.time())
