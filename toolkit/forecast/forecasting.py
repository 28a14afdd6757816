"""What a run would do: for each stage how much and for how long, for each task why."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from toolkit.cluster.arrays import ArrayPlan
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.run_folder import RunFolder
from toolkit.forecast.durations import Measurements, Span, predict
from toolkit.forecast.measurements import likeness_of, measured_beside, measured_in, size_of
from toolkit.forecast.reasons import former_tasks, last_outcomes, why_to_run
from toolkit.forecast.space import Space, kept_sizes, space_to_write, total_size
from toolkit.forecast.splits import describe_arrays
from toolkit.task import Task, TaskKind

_S_PER_HOUR = 3600.0


class JobSize(Protocol):
    """Cores and GPUs of one job."""

    @property
    def n_cpus(self) -> int:
        """Cores."""

    @property
    def n_gpus(self) -> int:
        """GPUs."""


@dataclass(frozen=True)
class StageForecast:
    """What is left of one stage.

    Parameters
    ----------
    kind
        The stage.
    n_tasks, n_done, n_to_run
        Tasks, those whose results are there, and the others.
    n_blocked
        Of those to run, the ones that wait for a task that is not done.
    cpu_hours, gpu_hours
        Hours of the jobs times the cores or GPUs of each; None if unknown, see
        :func:`toolkit.forecast.durations.predict` for what the range means.
    basis
        What the hours rest on, or why they are unknown; empty if nothing is to run.
    kept_bytes, kept_files
        What all of its tasks leave when they are done, before compression; of read-outs, whose
        results are small, the files alone.
    """

    kind: TaskKind
    n_tasks: int
    n_done: int
    n_to_run: int
    n_blocked: int
    cpu_hours: Span | None
    gpu_hours: Span | None
    basis: str
    kept_bytes: int
    kept_files: int


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Parameters
    ----------
    stages
        In the order of the tasks.
    tasks
        All planned tasks by id.
    reasons
        For each task to run, why.
    space
        What it would write, and the room there is.
    arrays
        A line per stage, if it is to be split into job arrays.
    """

    stages: tuple[StageForecast, ...]
    tasks: Mapping[str, Task] = field(repr=False)
    reasons: Mapping[str, str] = field(repr=False)
    space: Space
    arrays: tuple[str, ...] = ()


def forecast(
    run: RunFolder,
    tasks: Sequence[Task],
    jobs: Mapping[TaskKind, JobSize],
    *,
    arrays: ArrayPlan | None = None,
    limits: ArrayLimits | None = None,
) -> Forecast:
    """Say what running the tasks in this folder would take; nothing is written.

    Parameters
    ----------
    run
        The run folder; it need not exist yet.
    tasks
        All planned tasks, parents before children.
    jobs
        What the jobs of each stage ask for.
    arrays, limits
        How what is to run would be submitted, and within which limits.
    """
    by_id = {task.id: task for task in tasks}
    before = former_tasks(run)
    done = run.done_ids() if run.results_folder.is_dir() else set()
    measurements = _measurements(run, before | by_id, by_id, done, jobs)
    sizes = kept_sizes(by_id)
    return Forecast(
        stages=tuple(
            _stage(kind, by_id, done, jobs[kind], measurements, sizes)
            for kind in dict.fromkeys(task.kind for task in tasks)
        ),
        tasks=by_id,
        reasons=why_to_run(by_id, before, done, last_outcomes(run)),
        space=space_to_write(run.path, by_id, done, sizes),
        arrays=tuple(describe_arrays(arrays, limits)) if arrays and limits else (),
    )


def _measurements(
    run: RunFolder,
    known: Mapping[str, Task],
    tasks: Mapping[str, Task],
    done: Collection[str],
    jobs: Mapping[TaskKind, JobSize],
) -> Measurements:
    def about(task: Task) -> tuple[object, ...]:
        size = size_of(task) if task.kind is TaskKind.ENCODE else None
        return task.kind, likeness_of(task, "")[1], size

    wanted = {about(task) for task_id, task in tasks.items() if task_id not in done}

    def is_wanted(task: Task) -> bool:
        return about(task) in wanted

    here = measured_in(run, known, is_wanted)
    return Measurements(here, lambda: measured_beside(run, is_wanted))


def _stage(
    kind: TaskKind,
    tasks: Mapping[str, Task],
    done: Collection[str],
    job: JobSize,
    measurements: Measurements,
    sizes: Mapping[str, tuple[float, float]],
) -> StageForecast:
    own = {task_id: task for task_id, task in tasks.items() if task.kind is kind}
    to_run = [task for task_id, task in own.items() if task_id not in done]
    prediction = predict(to_run, _device(to_run, job), measurements)
    kept_bytes, kept_files = total_size(sizes[i] for i in own if i in sizes)
    return StageForecast(
        kind=kind,
        n_tasks=len(own),
        n_done=len(own) - len(to_run),
        n_to_run=len(to_run),
        n_blocked=sum(any(parent not in done for parent in task.inputs) for task in to_run),
        cpu_hours=_hours(prediction.seconds, job.n_cpus),
        gpu_hours=_hours(prediction.seconds, job.n_gpus),
        basis=prediction.basis,
        kept_bytes=kept_bytes,
        kept_files=kept_files if kind is TaskKind.EXTRACT else len(own),
    )


def _hours(seconds: Span | None, n_devices: int) -> Span | None:
    if n_devices == 0:
        return Span(0.0, 0.0)
    return None if seconds is None else seconds * (n_devices / _S_PER_HOUR)


def _device(tasks: Sequence[Task], job: JobSize) -> str:
    """The kind of device that a stage's tasks will find."""
    if not tasks or tasks[0].kind is not TaskKind.EXTRACT:
        return "cpu"
    wanted = str(tasks[0].options["device"]).partition(":")[0]
    if wanted == "auto":
        return "cuda" if job.n_gpus else "cpu"
    return wanted
