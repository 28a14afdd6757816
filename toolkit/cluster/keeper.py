"""The keeper: a small job of the run's own that looks after it while no command does.

It wakes now and then, tries failed tasks again, submits what had no room in the queue, and ends
when nothing is left to do. So a run needs no process that must live.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from pathlib import Path

from toolkit.cluster.code_snapshot import take_code_snapshot
from toolkit.cluster.commands import SlurmCommandError, scancel, slurm_output
from toolkit.cluster.dispatch import SlurmSettings
from toolkit.cluster.limits import KEEPER_SUFFIX
from toolkit.cluster.run_folder import RunFolder, write_text
from toolkit.cluster.submission import outside_of_jobs
from toolkit.task import TaskKind

_MODULE = "jobs.keeper"
_TIMEOUT_MIN = 30
_MEMORY_MB = 2000
_DIGITS = 8


def submit_keeper(run: RunFolder, settings: SlurmSettings) -> str | None:
    """Have the run looked after from now on; Slurm's id of the job, None if the profile wants none.

    A keeper that waits already is replaced.

    Raises
    ------
    SlurmCommandError
        If Slurm does not take it.
    """
    profile = settings.profile
    if profile.keeper_interval_s is None:
        return None
    cancel_keeper(run)
    stage = profile.stage(TaskKind.ENCODE)
    code = take_code_snapshot(run.path, settings.git_sha)
    options = {
        "job-name": _job_name(run),
        "begin": f"now+{profile.keeper_interval_s}",
        "partition": stage.partition,
        "account": stage.account,
        "qos": stage.qos,
        "time": str(_TIMEOUT_MIN),
        "mem": f"{_MEMORY_MB}M" if stage.memory else None,
        "reservation": stage.reservation,
        "cpus-per-task": "1",
        "output": str(log_path(run)),
        "open-mode": "append",
        "chdir": str(run.path),
    }
    python = profile.python or shlex.quote(sys.executable)
    lines = [
        *stage.setup,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"exec {python} -u -P -m {_MODULE} {shlex.quote(str(run.path))}",
    ]
    words = [f"--{name}={value}" for name, value in options.items() if value]
    # sbatch runs it with sh; sites write their setup for bash.
    wrapped = f"bash -c {shlex.quote(chr(10).join(lines))}"
    with outside_of_jobs():
        said = slurm_output(["sbatch", "--parsable", *words, f"--wrap={wrapped}"])
    found = re.search(r"^(\d+)(;.*)?$", said, re.MULTILINE | re.ASCII)
    if found is None:
        raise SlurmCommandError(f"sbatch printed no id of a job, but {said!r:.200}")
    job_id = found[1]
    write_text(_id_path(run), job_id)
    return job_id


def cancel_keeper(run: RunFolder) -> None:
    """Take a waiting keeper out of the queue; one that runs ends by itself.

    Raises
    ------
    SlurmCommandError
        If Slurm cannot be told.
    """
    try:
        job_id = _id_path(run).read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        job_id = ""
    if job_id.isdecimal():
        scancel(["--state=PENDING", f"--name={_job_name(run)}", job_id])  # ids are used again
    dismiss_keeper(run)


def _job_name(run: RunFolder) -> str:
    """Of this folder: a copy of a run does not take the keeper of the run for its own."""
    digest = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:_DIGITS]
    return f"{run.job_name}.{digest}{KEEPER_SUFFIX}"


def has_keeper(run: RunFolder) -> bool:
    """Whether a keeper is to come back to the run."""
    return _id_path(run).is_file()


def dismiss_keeper(run: RunFolder) -> None:
    """Say that none comes back: nothing is left to do."""
    _id_path(run).unlink(missing_ok=True)


def log_path(run: RunFolder) -> Path:
    """What all keepers of the run print."""
    return run.path / "logs" / "keeper.log"


def _id_path(run: RunFolder) -> Path:
    return run.path / "keeper.id"
