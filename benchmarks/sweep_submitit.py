"""The peer of :mod:`benchmarks.sweep`: submitit as its documentation has it."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path

from submitit import SlurmExecutor

from toolkit.cluster.commands import slurm_output


@dataclass(frozen=True)
class Turn:
    """What one system needed for all tasks, once.

    Parameters
    ----------
    submit_s, results_s
        Seconds from the start until the last array was in the queue, and until all results were
        in this process.
    n_queries
        How often the scheduler was asked how jobs stand.
    n_files, n_common_files
        Files left in its folder, and how many of them do not grow with the number of tasks.
    plan_s
        The part of ``submit_s`` in which the tasks were written down; None where there is no plan.
    """

    submit_s: float
    results_s: float
    n_queries: int
    n_files: int
    n_common_files: int
    plan_s: float | None = None


def no_op(_: int) -> str:
    """What each task does."""
    return platform.node()


def run_submitit(folder: Path, n_tasks: int, partition: str) -> Turn:
    """One ``map_array``, and the results of its jobs."""
    started_s = time.perf_counter()
    executor = SlurmExecutor(folder)
    executor.update_parameters(
        partition=partition,
        time=10,
        cpus_per_task=1,
        mem="200MB",
        array_parallelism=n_tasks,
    )
    jobs = executor.map_array(no_op, range(n_tasks))
    submit_s = time.perf_counter() - started_s
    hosts = [job.result() for job in jobs]
    results_s = time.perf_counter() - started_s
    assert len(hosts) == n_tasks
    wait_until_idle()
    return Turn(
        submit_s=submit_s,
        results_s=results_s,
        n_queries=jobs[0].watcher.num_calls,
        n_files=count_files(folder),
        n_common_files=1,  # the script
    )


def wait_until_idle() -> None:
    """Let jobs whose results are there end; then their files stay, and the next turn begins."""
    while slurm_output(["squeue", "--noheader"]):
        time.sleep(0.2)


def count_files(folder: Path) -> int:
    """Files below a folder; submitit's links to its scripts go with its process."""
    return sum(path.is_file() and not path.is_symlink() for path in folder.rglob("*"))
