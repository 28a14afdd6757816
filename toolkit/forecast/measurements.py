"""Seconds that done tasks took, in this run folder and in those beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from toolkit.cluster.records import BAD_JSON
from toolkit.cluster.run_folder import RunFolder
from toolkit.forecast.reasons import former_tasks
from toolkit.plan import form_of
from toolkit.task import Task, TaskKind

# Bounds on what is read of each run folder, and of the run folders beside one.
_MOST_FILES = 200
_MOST_SIBLINGS = 20
_MOST_PLAN_BYTES = 2**25

Likeness = tuple[str, str, str]


@dataclass(frozen=True)
class Measured:
    """What one task took.

    Parameters
    ----------
    kind
        The stage.
    likeness
        From the most general to the most special: see :func:`likeness_of`.
    size
        Images, for an extraction; features of the layer, for a read-out.
    seconds
        Wall time of the task itself, without the start of its job.
    """

    kind: TaskKind
    likeness: Likeness
    size: float
    seconds: float


def likeness_of(task: Task, device: str) -> Likeness:
    """What tasks share that take about as long.

    The kind of device with, for an extraction, the network and what is kept of it; for a read-out,
    its name and the data set.
    """
    if task.kind is TaskKind.EXTRACT:
        return device, f"{task.params['library']}/{task.options['model']}", form_of(task).name
    if task.kind is TaskKind.TRAIN:
        columns = task.columns
        return device, f"{columns['library']}/{columns['model']}", columns["readout"]
    return device, task.columns["readout"], task.columns["dataset"]


def size_of(task: Task) -> float:
    """Images of an extract task, if it shares them its own part; features of an encode task."""
    if task.kind is TaskKind.EXTRACT:
        _, n_parts = task.params.get("part", (0, 1))
        return float(task.columns["n_stimuli"]) / n_parts
    if task.kind is TaskKind.TRAIN:
        return float(task.options["image_passes"])
    return float(task.columns["n_features"])


def measured_in(
    run: RunFolder, tasks: Mapping[str, Task], wanted: Callable[[Task], bool]
) -> list[Measured]:
    """What done tasks of a run folder took; results that cannot be read are left out.

    The collected table is read whole; of results that are not in it at most some hundreds.

    Parameters
    ----------
    run
        The run folder.
    tasks
        Its tasks by id; results of others are left out.
    wanted
        Whose results to read first.
    """
    try:
        done = run.done_ids()
    except OSError:
        return []
    collected: dict[str, Measured] = {}
    for task_id, measured in _collected(run.path / "results.parquet"):
        collected.setdefault(task_id, measured)  # a task may have several rows
    rest = [task_id for task_id in done if task_id in tasks and task_id not in collected]
    first = sorted(rest, key=lambda task_id: (not wanted(tasks[task_id]), task_id))
    found = list(collected.values())
    for kind in TaskKind:
        ids = islice((i for i in first if tasks[i].kind is kind), _MOST_FILES)
        found += _from_files(run, {task_id: tasks[task_id] for task_id in ids})
    return found


def measured_beside(run: RunFolder, wanted: Callable[[Task], bool]) -> Iterator[Measured]:
    """What done tasks took in the newest run folders that lie in the same folder."""
    budget_bytes = _MOST_PLAN_BYTES
    plans = (path for path in run.path.parent.glob("*/plan.json") if path != run.plan_path)
    newest = sorted(plans, key=lambda path: path.stat().st_mtime, reverse=True)
    for plan_path in newest[:_MOST_SIBLINGS]:
        budget_bytes -= plan_path.stat().st_size
        if budget_bytes < 0:
            return
        sibling = RunFolder(plan_path.parent)
        yield from measured_in(sibling, former_tasks(sibling), wanted)


def _collected(table_path: Path) -> Iterator[tuple[str, Measured]]:
    """Read-outs of the table of a run's results, by task id."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = ["task_id", "device", "readout", "dataset", "n_features", "seconds"]
    try:
        table = pq.read_table(table_path, columns=columns).drop_null()
    except (OSError, UnicodeDecodeError, pa.ArrowException):
        return
    for task_id, device, readout, dataset, n_features, seconds in zip(
        *(table.column(name).to_pylist() for name in columns), strict=True
    ):
        likeness = (_device_kind(device), readout, dataset)
        yield task_id, Measured(TaskKind.ENCODE, likeness, float(n_features), seconds)


def _from_files(run: RunFolder, tasks: Mapping[str, Task]) -> Iterator[Measured]:
    from toolkit.results.damage import read_report
    from toolkit.results.scores import read_summary

    for task_id, task in tasks.items():
        path = run.result_path(task_id)
        try:
            report = read_summary(path) if task.kind.gives_scores else read_report(path)
            likeness = likeness_of(task, _device_kind(report["device"]))
            size = size_of(task) * report.get("share", 1)  # what the last attempt had left to do
            if size:
                yield Measured(task.kind, likeness, size, float(report["seconds"]))
        except BAD_JSON:
            continue


def _device_kind(device: str) -> str:
    return device.partition(":")[0]
