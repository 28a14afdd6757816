"""One element of a Slurm job array: ``python -m jobs.element RUN MANIFEST``.

The manifest holds the specification of every task of every element, so that a run planned anew
while jobs wait changes nothing for them.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import toolkit
from jobs.interruption import Interruption, JobEndingError
from jobs.run import work_through
from toolkit.cluster.run_folder import RunFolder
from toolkit.task import Task

_log = logging.getLogger("toolkit")


class CodeChangedError(RuntimeError):
    """The job would not run the code that was submitted."""

    error_class = "environment"


def main(arguments: Sequence[str]) -> int:
    """Run the tasks of this array element; requeue it if its end is announced before they are done.

    Returns
    -------
    The exit status: 0, unless the job could not be requeued.
    """
    run_path, manifest_path = arguments
    interruption = Interruption()
    interruption.listen()
    manifest = json.loads(Path(manifest_path).read_text(encoding="utf-8"))
    _require_code(Path(manifest["code"]))
    element = int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))
    tasks = [Task.from_dict(raw) for raw in manifest["elements"][element]]
    n_cpus = int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) or None
    try:
        work_through(RunFolder(run_path), tasks, n_cpus, interruption)
    except JobEndingError as error:
        print(f"{error}; requeueing", flush=True)
        return _requeue()
    return 0


def _require_code(folder: Path) -> None:
    """Make sure that the packages come from the run's own copy."""
    found = Path(toolkit.__file__).parents[1].resolve()
    if found != folder.resolve():
        raise CodeChangedError(
            f"the job imports toolkit from {found}, not from the run's copy {folder}: "
            "a set-up line of the site profile changes PYTHONPATH"
        )


def _requeue() -> int:
    """Put this job back into the queue, which ends it."""
    variables = os.environ
    array, index = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
    job = f"{array}_{index}" if array else variables["SLURM_JOB_ID"]
    return subprocess.run(["scontrol", "requeue", job], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
