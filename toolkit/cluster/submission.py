"""Submit job arrays, and find again those of which the id was not recorded.

A process can be killed between ``sbatch`` and the record, and ``sbatch`` can fail to get an answer
to what Slurm did. The queue then tells by the job's name whether there is such an array.
"""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.helpers import clean_env

from toolkit.cluster.arrays import Dependency, JobArray
from toolkit.cluster.commands import SlurmCommandError, slurm_output
from toolkit.cluster.failures import START_LINE
from toolkit.cluster.manifests import (
    Submission,
    manifest_path,
    read_submissions,
    record_array_id,
    write_manifest,
)
from toolkit.cluster.profiles import SiteProfile, submitit_parameters
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler_output import read_rows

# Slurm may warn a minute before the asked moment, and a job takes a while to start.
_EARLY_S = 90.0
_ELEMENT_MODULE = "jobs.element"
# Words of sbatch, and the key that they are about.
_HINTS = (
    ("maxsubmit", "max_submit"),
    ("accounting/qos policy", "resources of the config, or qos"),
    ("job array", "max_array_size"),
    ("account", "account and partition"),
    ("reservation", "reservation"),
    ("license", "licenses"),
    ("--mem", "memory"),
    ("partition", "partition"),
    ("qos", "qos"),
    ("feature", "constraint"),
    ("gres", "gres"),
    ("node configuration", "resources of the config, or gres and constraint"),
)


class SubmissionError(RuntimeError):
    """Slurm did not take a job array."""

    error_class = "not_submitted"


def submit_arrays(
    run: RunFolder, arrays: Sequence[JobArray], profile: SiteProfile, code: Path
) -> list[Submission]:
    """Submit the arrays of one wave.

    Parameters
    ----------
    run
        The run folder, held by this process.
    arrays
        Those that others depend on first.
    profile
        The site.
    code
        The snapshot of the code, whose name is its digest.

    Raises
    ------
    SubmissionError
        If Slurm refuses an array; those before it are submitted and recorded. If ``sbatch`` had no
        answer, the array may be in the queue: :func:`recover_submissions` finds out.
    """
    done: dict[str, Submission] = {}
    for array in arrays:
        ids = {name: submission.array_id for name, submission in done.items()}
        done[array.name] = _submit(run, array, profile, code, _dependency(array.dependencies, ids))
    return list(done.values())


def _dependency(dependencies: Iterable[Dependency], ids: Mapping[str, str]) -> str | None:
    """As sbatch wants it: ``aftercorr:12,afterok:9_0``."""
    texts = [
        f"{d.condition}:{ids.get(d.on, d.on)}" + ("" if d.index is None else f"_{d.index}")
        for d in dependencies
    ]
    return ",".join(texts) or None


def _submit(
    run: RunFolder, array: JobArray, profile: SiteProfile, code: Path, dependency: str | None
) -> Submission:
    name = f"{array.kind}-{uuid.uuid4().hex[:10]}"
    submission = Submission(
        name=name,
        job_name=f"{run.job_name}.{name}",
        kind=array.kind,
        request=array.request,
        elements=tuple(map(tuple, array.task_ids)),
        code=code.name,
        written=datetime.now(UTC).isoformat(),
        time_limit_s=60 * array.request.timeout_min - profile.signal_delay_s - _EARLY_S,
        timeouts_allowed=profile.retries.timeout,
        is_canary=array.is_canary,
    )
    manifest = write_manifest(run, submission)
    array_id = _sbatch(run, submission, profile, code, dependency)
    record_array_id(manifest, array_id)
    return replace(submission, array_id=array_id)


def _sbatch(
    run: RunFolder, submission: Submission, profile: SiteProfile, code: Path, dependency: str | None
) -> str:
    """Submit through submitit, but without pickles: our own command on each element."""
    n_elements = len(submission.elements)
    stage = profile.stage(submission.kind)
    parameters = submitit_parameters(profile, submission.kind, submission.request)
    path = shlex.quote(str(code))
    parameters["setup"] = [
        f'echo "{START_LINE} $(date +%FT%T) on $SLURMD_NODENAME"',
        *parameters["setup"],
        f"export PYTHONPATH={path}${{PYTHONPATH:+:$PYTHONPATH}}",
    ]
    parameters["additional_parameters"]["chdir"] = str(run.path)
    python = profile.python or shlex.quote(sys.executable)
    arguments = map(shlex.quote, (str(run.path), str(manifest_path(run, submission.name))))
    # -P: the working folder is not searched for code before the snapshot.
    command = f"{python} -u -P -m {_ELEMENT_MODULE} {' '.join(arguments)}"
    run.jobs_folder.mkdir(parents=True, exist_ok=True)
    try:
        with outside_of_jobs(), redirect_stderr(StringIO()):  # submitit prints what it raises
            executor = SlurmExecutor(run.jobs_folder)
            executor.update_parameters(
                **parameters,
                job_name=submission.job_name,
                dependency=dependency,
                array_parallelism=stage.max_running or n_elements,
            )
            executor.parameters["map_count"] = n_elements
            job = executor._submit_command(f"{stage.container or ''} {command}".strip())
    except (FailedJobError, FailedSubmissionError, RuntimeError) as error:
        raise SubmissionError(_explanation(str(error), submission)) from error
    return str(job.job_id)


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """An environment in which a job can submit jobs to the same cluster."""
    configuration = os.environ.get("SLURM_CONF")
    with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _explanation(said: str, submission: Submission) -> str:
    lines = [line.strip() for line in said.splitlines() if "sbatch: error:" in line]
    reason = "; ".join(line.removeprefix("sbatch: error: ") for line in lines) or said.strip()
    key = next((key for word, key in _HINTS if word in reason.lower()), None)
    hint = f"; look at {key} of the profile, for stage {submission.kind}" if key else ""
    n_elements = len(submission.elements)
    return f"Slurm did not take {submission.name}, an array of {n_elements}: {reason}{hint}"


def recover_submissions(run: RunFolder) -> list[Submission]:
    """Find out about submissions whose array's id is not recorded.

    What the queue, or accounting, knows by name is recorded. What neither knows was not submitted;
    its file is removed. To be called by the process that holds the run.

    Returns
    -------
    list of Submission
        Those that were found.

    Raises
    ------
    SlurmCommandError
        If the queue cannot be asked; nothing is changed then.
    """
    lost = [submission for submission in read_submissions(run) if not submission.array_id]
    if not lost:
        return []
    names = {submission.job_name for submission in lost}
    ids = ids_in_queue(names)
    if not names <= ids.keys():
        ids |= _ids_in_accounting(names, since=min(submission.written for submission in lost))
    for submission in lost:
        manifest = manifest_path(run, submission.name)
        if submission.job_name in ids:
            record_array_id(manifest, ids[submission.job_name])
        else:
            manifest.unlink()
    return [replace(s, array_id=ids[s.job_name]) for s in lost if s.job_name in ids]


def ids_in_queue(names: Collection[str]) -> dict[str, str]:
    """Ids of the arrays that the queue knows, by name.

    Raises
    ------
    SlurmCommandError
        If it cannot be asked, or its answer cannot be read.
    """
    command = ["squeue", "--noheader", "--states=all", f"--name={','.join(names)}"]
    return _ids_by_name(slurm_output([*command, "--Format=ArrayJobID:|,Name:|"]))


def _ids_in_accounting(names: Collection[str], since: str) -> dict[str, str]:
    day = datetime.fromisoformat(since) - timedelta(days=1)
    command = ["sacct", "-X", "--noheader", "--parsable", f"--name={','.join(names)}"]
    try:
        text = slurm_output([*command, f"--starttime={day:%Y-%m-%d}", "--format=JobID,JobName"])
    except SlurmCommandError:
        return {}  # a cluster without accounting
    return _ids_by_name(text)


def _ids_by_name(text: str) -> dict[str, str]:
    """Ids of arrays; none at all where a line cannot be read: what is missing is submitted anew."""
    rows, unreadable = read_rows(text, 3)  # nothing follows the last |, or the name may be cut
    ids = {name: job.partition("_")[0] for job, name, _ in rows}
    if unreadable or not all(map(str.isdecimal, ids.values())):
        raise SlurmCommandError(
            f"Slurm printed of this run's jobs what cannot be read: {text!r:.200}"
        )
    return ids
