"""One element of a Slurm job array: ``python -m jobs.element RUN MANIFEST``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.interruption import Interruption, JobEndingError
from jobs.run import run_tasks
from toolkit.cluster.code_snapshot import check_code
from toolkit.cluster.manifests import read_manifest, record_array_id
from toolkit.cluster.run_folder import RunFolder


def main(arguments: Sequence[str]) -> int:
    """Run the tasks of this array element; requeue it if its end is announced before they are done.

    Returns
    -------
    The exit status: 0 if every task is done, so that what waits for this element may start.
    """
    run_path, manifest = arguments[0], Path(arguments[1])
    interruption = Interruption()
    interruption.listen()
    submission = read_manifest(manifest)
    check_code(submission.code)
    if array_id := os.environ.get("SLURM_ARRAY_JOB_ID"):
        record_array_id(manifest, array_id)
    task_ids = submission.elements[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
    try:
        run_tasks(run_path, task_ids, submission.request.n_cpus, interruption)
    except JobEndingError as error:
        print(f"{error}; requeueing", flush=True)
        return _requeue()
    run = RunFolder(run_path)
    return 0 if all(run.is_done(task_id) for task_id in task_ids) else 1


def _requeue() -> int:
    """Put this job back into the queue, which ends it."""
    variables = os.environ
    array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array else variables["SLURM_JOB_ID"]
    return subprocess.run(["scontrol", "requeue", job], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
