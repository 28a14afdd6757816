"""One folder holds everything about a run; alone it is enough to see, resume, retry and collect.

A task is done when its result file is there, and by nothing else: the file appears whole, by a
rename. The record of the last attempt says what happened otherwise.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from toolkit.atomic import atomic_path
from toolkit.cluster.ownership import NotHeldError, Owner, find_process, held, read_owner
from toolkit.cluster.records import BAD_JSON, check_types
from toolkit.task import Task, TaskKind, TaskState
from toolkit.terminal import control_character, one_line

HEARTBEAT_S = 20.0
_MISSED_HEARTBEATS = 4
_PLAN_END = "]}"
# "%j" and "\\" mean something in patterns of Slurm and submitit, ":" in PYTHONPATH.
_UNUSABLE = "%\\:"
_MOST_NAME_BYTES, _MOST_PATH_BYTES = 255, 3500  # of the file system; files inside have names too
_MOST_JOB_NAME = 100

_RESULT_SUFFIX = {
    TaskKind.EXTRACT: ".json",
    TaskKind.ENCODE: ".parquet",
    TaskKind.TRAIN: ".parquet",
    TaskKind.PROBE: ".json",
}


class RunFolderError(RuntimeError):
    """The folder is not what a command needs it to be."""

    error_class = "bad_run_folder"


@dataclass(frozen=True)
class Attempt:
    """What is recorded of the last attempt at a task that is not done.

    Parameters
    ----------
    task_id, number
        Which task, and the how-manieth attempt, from 1.
    state
        ``RUNNING``, ``FAILED`` or ``CANCELLED``; ``PENDING`` when it is to be tried again.
    host, pid, process_started_s
        The process; its start time (seconds since the epoch) tells it from a later one that
        got the same pid.
    job
        The scheduler's id of the job ("4711_3"), and how often it had been requeued ("4711_3.1");
        empty without a scheduler.
    started, seconds
        UTC time of the start (ISO 8601) and seconds since then, when last recorded.
    n_done, n_total
        Progress within the task.
    error_class, error_message
        Why it failed.
    n_timeouts
        How often the job's time limit ended a try, after which it was continued.
    """

    task_id: str
    number: int
    state: TaskState
    host: str
    pid: int
    process_started_s: float
    started: str
    job: str = ""
    seconds: float = 0.0
    n_done: int = 0
    n_total: int = 0
    error_class: str = ""
    error_message: str = ""
    n_timeouts: int = 0

    @property
    def element(self) -> str:
        """The element of a job array in which it was made: ``job`` without the count."""
        return self.job.partition(".")[0]


def write_text(path: Path, text: str) -> None:
    """Make ``text`` appear at ``path`` whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


class RunFolder:
    """Paths and records of one run.

    Parameters
    ----------
    path
        The folder; :meth:`create` makes it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._tasks: tuple[int, dict[str, Task]] | None = None

    @classmethod
    def open(cls, path: Path | str, *, needs_plan: bool = True) -> RunFolder:
        """An existing run folder.

        Parameters
        ----------
        path
            The folder.
        needs_plan
            Whether one that has lost its plan is refused.

        Raises
        ------
        RunFolderError
            If it has no plan; without need of one, if no sweep made the folder.
        """
        run = cls(path)
        if not (run.plan_path.is_file() or (not needs_plan and run._is_run_folder())):
            raise RunFolderError(
                f"{path} is not a run folder (it has no plan.json); "
                "give the folder that a sweep printed, such as runs/quickstart"
            )
        return run

    def check_path(self) -> None:
        """Refuse a folder that jobs could not be given.

        Raises
        ------
        RunFolderError
            If its path is too long, or holds a character that a scheduler, a job's script or the
            search for code take for something else.
        """
        path = str(self.path)
        found = control_character(path) or next((c for c in path if c in _UNUSABLE), None)
        if found is not None:
            raise RunFolderError(
                f"run folder {one_line(path)}: its path must not hold the character {found}, which "
                "jobs and their scheduler would take for something else; choose another --out"
            )
        longest = max(len(os.fsencode(part)) for part in self.path.parts)
        if longest > _MOST_NAME_BYTES or len(os.fsencode(path)) > _MOST_PATH_BYTES:
            raise RunFolderError(
                f"run folder {path[:40]}...: its path of {len(path)} characters is too long; "
                "choose another --out"
            )

    @property
    def job_name(self) -> str:
        """What the names of the run's jobs begin with, in letters that every scheduler takes."""
        return re.sub("[^A-Za-z0-9_.]+", "_", self.path.name)[:_MOST_JOB_NAME]

    @property
    def plan_path(self) -> Path:
        """The planned tasks, in order."""
        return self.path / "plan.json"

    @property
    def catalog_path(self) -> Path:
        """Remembered networks and layers."""
        return self.path / "catalog.json"

    @property
    def results_folder(self) -> Path:
        """Published results, one file per task."""
        return self.path / "results"

    @property
    def jobs_folder(self) -> Path:
        """What the dispatcher leaves per job."""
        return self.path / "logs" / "jobs"

    def features_path(self, extract_id: str) -> Path:
        """The Zarr group of an extraction."""
        return self.path / "features" / f"{extract_id}.zarr"

    def gram_path(self, extract_id: str, layer: str) -> Path:
        """The cached Gram matrix of one layer, with the sums of its rows."""
        return self.path / "grams" / extract_id / f"{layer}.npz"

    @property
    def images_folder(self) -> Path:
        """Images decoded for training."""
        return self.path / "images"

    def checkpoints_path(self, task_id: str) -> Path:
        """The folder of a training that is not done."""
        return self.path / "checkpoints" / task_id

    def network_path(self, task_id: str) -> Path:
        """The weights that a training gave."""
        return self.path / "networks" / task_id / "weights.safetensors"

    def curve_path(self, task_id: str) -> Path:
        """What a training measured in each epoch."""
        return self.path / "curves" / f"{task_id}.parquet"

    def predictions_path(self, task_id: str) -> Path:
        """Responses predicted for images that have none."""
        return self.path / "predictions" / f"{task_id}.parquet"

    def result_path(self, task_id: str) -> Path:
        """The file whose appearance means that the task is done."""
        kind = TaskKind(task_id.split("-", 1)[0])
        return self.results_folder / f"{task_id}{_RESULT_SUFFIX[kind]}"

    def attempt_path(self, task_id: str) -> Path:
        """The record of the last attempt."""
        return self.path / "states" / f"{task_id}.json"

    def log_path(self, task_id: str) -> Path:
        """The task's own log."""
        return self.path / "logs" / f"{task_id}.log"

    # The plan

    def create(self) -> None:
        """Make the folder and its parts.

        Raises
        ------
        RunFolderError
            If the folder cannot be made, or holds files of something else.
        """
        if self.path.is_dir() and any(self.path.iterdir()) and not self._is_run_folder():
            raise RunFolderError(
                f"{self.path} holds files that no sweep wrote; choose another --out"
            )
        try:
            for part in ("results", "states", "features", "logs/jobs"):
                (self.path / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot make the run folder {self.path}: {error}") from error

    def _is_run_folder(self) -> bool:
        return (self.path / "states").is_dir() and (self.path / "results").is_dir()

    def write_plan(self, tasks: Sequence[Task], summary: dict[str, Any]) -> None:
        """Record the tasks, and what else there is to know of the plan.

        The file is JSON with the summary in its first line and a line for each task, so that a
        job finds its own among thousands without reading the others.
        """
        head = _to_json({**summary, "tasks": []}).removesuffix(_PLAN_END)
        lines = ",\n".join(_to_json(task.to_dict()) for task in tasks)
        write_text(self.plan_path, f"{head}\n{lines}\n{_PLAN_END}\n")

    def read_summary(self) -> dict[str, Any]:
        """The summary given to :meth:`write_plan`.

        Raises
        ------
        RunFolderError
            If the plan is damaged, or written by another version.
        """
        with self.reading_plan(), self.plan_path.open(encoding="utf-8") as plan:
            summary = dict(json.loads(plan.readline() + _PLAN_END))
            del summary["tasks"]
            return summary

    def task(self, task_id: str) -> Task:
        """One planned task."""
        return self._tasks_by_id()[task_id]

    def tasks(self) -> list[Task]:
        """Every planned task, parents before children."""
        return list(self._tasks_by_id().values())

    def find_tasks(self, task_ids: Sequence[str]) -> list[Task]:
        """Those of these tasks that are planned; no others are read."""
        with self.reading_plan():
            plan = self.plan_path.read_bytes()
            starts = (plan.find(b'\n{"id":"%s"' % task_id.encode()) + 1 for task_id in task_ids)
            lines = (plan[start : plan.index(b"\n", start)] for start in starts if start)
            return [Task.from_dict(json.loads(line.removesuffix(b","))) for line in lines]

    def _tasks_by_id(self) -> dict[str, Task]:
        with self.reading_plan():
            written_ns = self.plan_path.stat().st_mtime_ns
            if self._tasks is None or self._tasks[0] != written_ns:
                plan = json.loads(self.plan_path.read_bytes())
                tasks = map(Task.from_dict, plan["tasks"])
                self._tasks = (written_ns, {task.id: task for task in tasks})
            return self._tasks[1]

    @contextmanager
    def reading_plan(self) -> Iterator[None]:
        """What the body reads of the plan may be damaged.

        Raises
        ------
        RunFolderError
            If it is, or was written by another version.
        """
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"{self.plan_path} cannot be read: {error.strerror}") from error
        except BAD_JSON as error:
            raise RunFolderError(
                f"{self.plan_path} is damaged or was written by another version; "
                "run the sweep again to write it anew"
            ) from error

    # What happened

    def done_ids(self) -> set[str]:
        """Ids of all tasks whose results are published."""
        suffixes = tuple(_RESULT_SUFFIX.values())
        with os.scandir(self.results_folder) as entries:
            return {
                entry.name.rsplit(".", 1)[0]
                for entry in entries
                if entry.name.endswith(suffixes) and not entry.name.startswith(".")
            }

    def is_done(self, task_id: str) -> bool:
        """Whether the task's result is published."""
        return self.result_path(task_id).is_file()

    def attempts(self) -> dict[str, Attempt]:
        """The recorded attempts by task id."""
        found = {}
        for path in (self.path / "states").glob("[!.]*.json"):
            attempt = self.attempt(path.stem)
            if attempt is not None:
                found[path.stem] = attempt
        return found

    def attempt(self, task_id: str) -> Attempt | None:
        """The record of the last attempt at a task; None if there is none that can be read."""
        try:
            raw = json.loads(self.attempt_path(task_id).read_bytes())
            attempt = Attempt(**{**raw, "state": TaskState(raw["state"])})
            check_types(attempt)
        except (OSError, *BAD_JSON):
            return None
        return attempt

    def start_attempt(self, task_id: str) -> Attempt:
        """Record that this process starts on a task."""
        last = self.attempt(task_id)
        attempt = Attempt(
            task_id=task_id,
            number=last.number + 1 if last else 1,
            state=TaskState.RUNNING,
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started_s=psutil.Process().create_time(),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            job=scheduler_job(),
            n_timeouts=last.n_timeouts if last else 0,
        )
        self.record(attempt)
        return attempt

    def is_alive(self, attempt: Attempt) -> bool:
        """Whether the recorded process still runs.

        On this machine its pid tells; on another, whether its record has been touched lately.
        """
        if attempt.host == socket.gethostname():
            return find_process(attempt.pid, attempt.process_started_s) is not None
        try:
            touched_s = self.attempt_path(attempt.task_id).stat().st_mtime
        except FileNotFoundError:
            return False
        return self._now_s() - touched_s < _MISSED_HEARTBEATS * HEARTBEAT_S

    @contextmanager
    def heartbeat(self, task_id: str) -> Iterator[None]:
        """Touch a task's record now and then while the body runs."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(HEARTBEAT_S):
                with suppress(OSError):
                    os.utime(self.attempt_path(task_id))

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _now_s(self) -> float:
        """Time by the clock of the file server, which need not agree with this machine's.

        Who may not write there has only this machine's.
        """
        clock = self.path / "states" / ".clock"
        try:
            clock.touch()
            return clock.stat().st_mtime
        except OSError:
            return time.time()

    def record(self, attempt: Attempt) -> None:
        """Replace the record of a task's last attempt."""
        # A file name in it may be of bytes that are no text, which no table takes.
        message = attempt.error_message.encode("utf-8", "backslashreplace").decode("utf-8")
        values = {**asdict(attempt), "error_message": message}
        write_text(self.attempt_path(attempt.task_id), json.dumps(values))

    def record_end(
        self, task_id: str, state: TaskState, error_class: str = "", error_message: str = ""
    ) -> None:
        """Record how an attempt ended whose process could not say so itself."""
        attempt = self.attempt(task_id) or self.start_attempt(task_id)
        self.record(
            replace(attempt, state=state, error_class=error_class, error_message=error_message)
        )

    def reopen(self, task_id: str) -> None:
        """Let a task that failed or was cancelled be tried again; attempts go on counting."""
        attempt = self.attempt(task_id)
        if attempt is not None:
            fresh = replace(attempt, error_class="", error_message="", n_timeouts=0)
            self.record(replace(fresh, state=TaskState.PENDING))

    def set_aside(self, task_id: str, error_class: str, error_message: str) -> None:
        """Let a task be done no more whose result cannot be used; the file is kept beside."""
        result = self.result_path(task_id)
        with suppress(FileNotFoundError):
            result.replace(result.with_name(f"{result.name}.damaged"))
        self.record_end(task_id, TaskState.FAILED, error_class, error_message)

    def forget_attempt(self, task_id: str) -> None:
        """Drop the record: the result has been published, or the task is to start afresh."""
        self.attempt_path(task_id).unlink(missing_ok=True)

    # One owner at a time

    @contextmanager
    def owned(self, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the run for this process.

        Parameters
        ----------
        wait_s
            How long to wait for another that holds it.

        Raises
        ------
        RunFolderError
            If another living process holds it, which the message names, or it cannot be held.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self._owner_path, wait_s))
            except NotHeldError as error:
                raise RunFolderError(str(error)) from error
            yield

    def owner(self) -> Owner | None:
        """The process that holds the run, if one is known to."""
        return read_owner(self._owner_path)

    @property
    def _owner_path(self) -> Path:
        return self.path / "owner.json"


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def scheduler_job() -> str:
    """Slurm's id of the job this process belongs to, with the count of its requeues."""
    variables = os.environ
    array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array else variables.get("SLURM_JOB_ID", "")
    restarts = variables.get("SLURM_RESTART_COUNT", "0")
    return f"{job}.{restarts}" if job and restarts != "0" else job
