"""Dask workers for an encode task, started as the config and the site's profile say."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import toolkit
from toolkit.cluster.commands import SlurmCommandError, slurm_output
from toolkit.cluster.profiles import (
    SiteProfile,
    StageProfile,
    scratch_lines,
    setup_lines,
    worker_directives,
)
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler_output import SQUEUE_FORMAT, parse_squeue
from toolkit.encoding.slurm_jobs import JobState, queued_workers
from toolkit.encoding.slurm_steps import allocated_workers
from toolkit.encoding.slurm_workers import NodeWorker
from toolkit.task import Task

_ANSWER_S = 5.0


@contextmanager
def open_workers(run: RunFolder, task: Task, n_cpus: int) -> Iterator[str]:
    """What :func:`toolkit.encoding.compute.open_compute` is to be told.

    Parameters
    ----------
    run
        The run folder, which knows the profile; the site's own settings are taken if it does not.
    task
        An encode task.
    n_cpus
        Threads of each worker on a cluster.

    Yields
    ------
    str
        The address of a scheduler whose workers were started on a cluster, or the task's own
        word for where its workers are.
    """
    where = str(task.options["workers"])
    if where not in ("allocation", "jobqueue"):
        yield where
        return
    on_slurm = run.read_summary().get("slurm")
    profile = SiteProfile.model_validate(on_slurm["profile"]) if on_slurm else SiteProfile()
    stage = profile.stage(task.kind)
    code = f"export PYTHONPATH={shlex.quote(str(Path(toolkit.__file__).parents[1]))}"
    own = (
        scratch_lines(stage, "$SLURM_JOB_ID.$SLURM_STEP_ID")
        if where == "allocation"
        else setup_lines(stage, n_cpus)
    )
    worker = NodeWorker(
        n_threads=n_cpus,
        memory_bytes=_memory_bytes(task, of_this_job=where == "allocation"),
        python=_python(profile, stage),
        setup=(*own, code),
        log_folder=run.jobs_folder,
    )
    if where == "allocation":
        with allocated_workers(_nodes_of_this_job(), worker) as address:
            yield address
        return
    with queued_workers(
        task.options["n_nodes"],
        worker,
        directives=worker_directives(profile, task.kind),
        job_name=f"{run.job_name}.dask",
        asks_memory=stage.memory,
        time_limit_min=task.options["timeout_min"],
        warning_s=profile.signal_delay_s,
        job_state=job_state,
        ask_interval_s=profile.min_query_interval_s,
    ) as address:
        yield address


def _python(profile: SiteProfile, stage: StageProfile) -> str:
    return f"{stage.container or ''} {profile.python or shlex.quote(sys.executable)}".strip()


def _memory_bytes(task: Task, *, of_this_job: bool) -> int:
    """On each node; a job that is tried again may have more than the task first asked for."""
    said_mb = os.environ.get("SLURM_MEM_PER_NODE") if of_this_job else None
    return int(said_mb) * 2**20 if said_mb else round(task.options["memory_gb"] * 2**30)


def _nodes_of_this_job() -> list[str]:
    nodes = os.environ.get("SLURM_JOB_NODELIST")
    return slurm_output(["scontrol", "show", "hostnames", nodes]).split() if nodes else []


def job_state(job_id: str) -> JobState:
    """What Slurm says of a job that is not of an array."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job_id}"]
    try:
        said = slurm_output([*command, f"--Format={SQUEUE_FORMAT}"], timeout_s=_ANSWER_S)
    except SlurmCommandError:
        return JobState()
    view = parse_squeue(said).views.get(job_id)
    if view is None:
        return JobState()
    words = view.state + (f" ({view.reason})" if view.reason else "")
    return JobState(words, view.state == "PENDING", view.is_over(time.time()))
