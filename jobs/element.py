"""One element of a Slurm job array: ``python -m jobs.element RUN MANIFEST``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.interruption import Interruption, JobEndingError
from jobs.run import work_through
from toolkit.cluster.code_snapshot import check_code
from toolkit.cluster.manifests import Submission, read_manifest, record_array_id
from toolkit.cluster.run_folder import RunFolder
from toolkit.task import TaskState
from toolkit.terminal import run_command


def main(arguments: Sequence[str]) -> int:
    """Run the tasks of this array element; requeue it if its end is announced before they are done.

    Returns
    -------
    The exit status: 0 if every task is done, so that what waits for this element may start.
    """
    run, manifest = RunFolder(arguments[0]), Path(arguments[1])
    submission = read_manifest(manifest)
    interruption = Interruption(submission.time_limit_s)
    interruption.listen()
    check_code(submission.code)
    if array_id := os.environ.get("SLURM_ARRAY_JOB_ID"):
        record_array_id(manifest, array_id)
    element = submission.elements[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
    tasks = run.find_tasks(element)
    task_ids = [task.id for task in tasks]
    for task_id in set(element).difference(task_ids):
        print(f"{task_id} is no longer planned", flush=True)
    try:
        work_through(run, tasks, submission.request.n_cpus, interruption)
    except JobEndingError as error:
        if not interruption.is_warning or _has_had_its_time(run, task_ids, submission):
            return 1
        print(f"{error}; requeueing", flush=True)
        return _requeue()
    return 0 if all(run.is_done(task_id) for task_id in task_ids) else 1


def _has_had_its_time(run: RunFolder, task_ids: Sequence[str], submission: Submission) -> bool:
    """Whether a task has used up its tries; that is then its failure."""
    attempts = [attempt for task_id in task_ids if (attempt := run.attempt(task_id)) is not None]
    spent = [a for a in attempts if a.n_timeouts > submission.timeouts_allowed]
    for attempt in spent:
        limit = f"the time limit of {submission.request.timeout_min} min"
        why = f"{limit} was reached {attempt.n_timeouts} times"
        run.record_end(attempt.task_id, TaskState.FAILED, "timeout", why)
    return bool(spent)


def _requeue() -> int:
    """Put this job back into the queue, which ends it."""
    variables = os.environ
    array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array else variables["SLURM_JOB_ID"]
    return subprocess.run(["scontrol", "requeue", job], check=False).returncode


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
