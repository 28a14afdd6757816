"""Bring a run on Slurm one step further: look at what is over, submit what can be submitted.

Whoever holds the run does it: a command that watches, or a job of the run's own
(:mod:`toolkit.cluster.keeper`). Doing it twice does nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolkit.cluster.arrays import ArrayPlan, plan_arrays
from toolkit.cluster.batches import Batch, make_batches
from toolkit.cluster.code_snapshot import take_code_snapshot
from toolkit.cluster.commands import scancel
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.limits import ArrayLimits, ask_limits
from toolkit.cluster.manifests import Submission
from toolkit.cluster.profiles import SiteProfile
from toolkit.cluster.queue import Queue, ask_queue
from toolkit.cluster.retries import GiveUp, Retry, StopFamily
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.settling import Verdicts, family_of, judge, settle
from toolkit.cluster.submission import ids_in_queue, recover_submissions, submit_arrays
from toolkit.task import Task, TaskKind, TaskState

_N_KEEPERS = 2  # one that runs, and the next one that it submits
_OTHERS_S = 60.0  # longer than another process needs for one step


class TakenOverError(RunFolderError):
    """A run that was meant for a cluster runs elsewhere now."""


@dataclass(frozen=True)
class SlurmSettings:
    """What a run on Slurm needs of its config.

    Parameters
    ----------
    profile
        The site.
    requests
        What a job of each stage asks for.
    canary_above
        The jobs of a family of more tasks than this wait for its first one; None: none does.
    git_sha
        The commit of the code, for the results.
    """

    profile: SiteProfile
    requests: Mapping[TaskKind, JobRequest]
    canary_above: int | None
    git_sha: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            # What a stage leaves out must stay left out: it is taken from the default.
            "profile": self.profile.model_dump(mode="json", exclude_unset=True),
            "requests": {str(kind): vars(request) for kind, request in self.requests.items()},
            "canary_above": self.canary_above,
            "git_sha": self.git_sha,
        }

    @classmethod
    def of_run(cls, run: RunFolder) -> SlurmSettings:
        """Those that the run folder remembers.

        Raises
        ------
        RunFolderError
            If the plan is damaged, or written by another version.
        TakenOverError
            If the run is not meant for a cluster any more.
        """
        summary = run.read_summary()
        if "slurm" not in summary:
            raise TakenOverError(
                f"{run.path} is not run on Slurm any more, since somebody has run it with another "
                "--executor"
            )
        with run.reading_plan():
            raw = summary["slurm"]
            return cls(
                profile=SiteProfile.model_validate(raw["profile"]),
                requests={
                    TaskKind(kind): JobRequest.from_dict(request)
                    for kind, request in raw["requests"].items()
                },
                canary_above=raw["canary_above"],
                git_sha=raw["git_sha"],
            )


@dataclass(frozen=True)
class Standing:
    """What is left of a run after a step.

    Parameters
    ----------
    n_submitted
        Tasks that were submitted by this step.
    n_queued
        Tasks whose jobs are not over.
    n_waiting
        Tasks for which there was no room in the queue.
    queue
        How the jobs stand, before the submission.
    """

    n_submitted: int
    n_queued: int
    n_waiting: int
    queue: Queue

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens unless somebody asks for it."""
        return not (self.n_queued or self.n_waiting)


def advance(run: RunFolder, settings: SlurmSettings | None = None) -> Standing:
    """Settle what is over, and submit what is neither done, nor in the queue, nor given up.

    Parameters
    ----------
    run
        The run folder.
    settings
        Those of the run if left out.

    Raises
    ------
    SlurmCommandError
        If Slurm cannot be asked; nothing is submitted then.
    SubmissionError
        If it refuses an array.
    RunFolderError
        If another process holds the run and does not let go.
    """
    settings = settings or SlurmSettings.of_run(run)
    with run.owned(wait_s=_OTHERS_S):
        queue = look(run, settings)
        tasks = run.tasks()
        verdicts = judge(run, tasks, settings.profile.retries)
        _stop_families(run, tasks, queue, verdicts)
        done = run.done_ids()
        in_queue = {i: e for i, e in queue.waiting_elements().items() if i not in done}
        todo = _to_submit(tasks, done, in_queue, verdicts)
        n_submitted = len(_submit(run, todo, in_queue, verdicts, settings)) if todo else 0
    return Standing(n_submitted, len(in_queue) + n_submitted, len(todo) - n_submitted, queue)


def look(run: RunFolder, settings: SlurmSettings) -> Queue:
    """Ask how the jobs stand, and record why those that are over left no result."""
    recover_submissions(run)
    queue = ask_queue(run, settings.profile.min_query_interval_s)
    settle(run, run.tasks(), queue, settings.profile.retries)
    return queue


def _to_submit(
    tasks: Sequence[Task], done: set[str], in_queue: Mapping[str, str], verdicts: Verdicts
) -> list[Task]:
    """Parents before children. What waits for a task that was given up is left out."""
    hopeless: set[str] = set()
    todo = []
    for task in tasks:
        if task.id in done or task.id in in_queue:
            continue
        if verdicts.is_given_up(task) or not hopeless.isdisjoint(task.inputs):
            hopeless.add(task.id)
        else:
            todo.append(task)
    return todo


def _submit(
    run: RunFolder,
    todo: Sequence[Task],
    in_queue: Mapping[str, str],
    verdicts: Verdicts,
    settings: SlurmSettings,
) -> set[str]:
    """Submit as much as there is room for; the ids of these tasks."""
    limits = ask_limits(settings.profile).without(_N_KEEPERS)
    plan = arrays_of_tasks(todo, limits, settings, verdicts, in_queue)
    wave = plan.waves[0]
    if not wave:
        return set()
    code = take_code_snapshot(run.path, settings.git_sha)
    ids = {task_id for array in wave for element in array.task_ids for task_id in element}
    for task_id in ids & run.attempts().keys():
        run.reopen(task_id)
    submit_arrays(run, wave, settings.profile, code)
    return ids


def arrays_of_tasks(
    tasks: Sequence[Task],
    limits: ArrayLimits,
    settings: SlurmSettings,
    verdicts: Verdicts | None = None,
    in_queue: Mapping[str, str] | None = None,
) -> ArrayPlan:
    """The job arrays that tasks become.

    Parameters
    ----------
    tasks
        Those to submit, parents before children.
    limits
        Of the cluster.
    settings
        Of the run.
    verdicts
        What earlier failures call for.
    in_queue
        For tasks that are in the queue already, the element that will do them.
    """
    by_id = {task.id: task for task in tasks}
    verdicts = verdicts or Verdicts({}, {}, {})
    return plan_arrays(
        make_batches(tasks),
        limits,
        _requests(settings, verdicts),
        tasks_per_job=settings.profile.tasks_per_job,
        family_of=lambda batch: family_of(by_id[batch.task_ids[0]]),
        canary_above=settings.canary_above,
        in_flight=in_queue or {},
    )


def _requests(settings: SlurmSettings, verdicts: Verdicts) -> Callable[[Batch], JobRequest]:
    def request_of(batch: Batch) -> JobRequest:
        base = settings.requests[batch.kind]
        retries = [step for i in batch.task_ids if isinstance(step := verdicts.steps.get(i), Retry)]
        return replace(
            base,
            memory_gb=max([base.memory_gb, *(step.memory_gb for step in retries)]),
            exclude=tuple(dict.fromkeys(node for step in retries for node in step.exclude)),
        )

    return request_of


def _stop_families(run: RunFolder, tasks: Sequence[Task], queue: Queue, verdicts: Verdicts) -> None:
    """Take the jobs of stopped families out of the queue, and say so of each of their tasks."""
    if not verdicts.stopped:
        return
    done = run.done_ids()
    in_queue = queue.waiting_elements()
    stopped = [
        task for task in tasks if task.id not in done and family_of(task) in verdicts.stopped
    ]
    cancel_jobs(queue.submissions, {in_queue[t.id] for t in stopped if t.id in in_queue})
    for task in stopped:
        if not isinstance(verdicts.steps.get(task.id), GiveUp | StopFamily):
            why = f"{family_of(task)} is stopped after {verdicts.stopped[family_of(task)]}"
            run.record_end(task.id, TaskState.BLOCKED, "blocked", why)


def cancel_jobs(submissions: Sequence[Submission], elements: Collection[str]) -> None:
    """Cancel elements of a run's job arrays, or whole arrays; those that are over stay as they are.

    Slurm's ids are used again where its records were reset, so an array must have its name too.

    Parameters
    ----------
    submissions
        Of the run.
    elements
        Ids such as ``4711_3``, or ``4711`` for all of an array.

    Raises
    ------
    SlurmCommandError
        If Slurm cannot be asked or told.
    """
    if not elements:
        return
    names = {submission.array_id: submission.job_name for submission in submissions}
    array_of = {element: element.partition("_")[0] for element in elements}
    found = ids_in_queue({names[array] for array in array_of.values()})
    ours = sorted(e for e, array in array_of.items() if found.get(names[array]) == array)
    if ours:
        scancel(ours)
