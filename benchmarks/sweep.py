"""What a sweep on Slurm costs beside its work, and how fast a large finished one is opened.

``python -m benchmarks.sweep [--tasks N] [--quick] [--json FILE]``, on a development cluster that it
boots. The floor is submitit's ``map_array`` of a function that does nothing; the toolkit runs as
many tasks of kind ``probe``. The systems run in turn, each round in another order, and ratios are
medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

from benchmarks.face import Record, main, measure_subprocess
from benchmarks.finished_run import write_config, write_finished_run
from benchmarks.sweep_submitit import Turn, count_files, run_submitit, wait_until_idle
from slurm.devcluster import ClusterShape, DevCluster
from toolkit.cluster.dispatch import SlurmSettings
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.profiles import SiteProfile, StageProfile
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler import Scheduler
from toolkit.config import ExecutorConfig
from toolkit.results import git_sha
from toolkit.task import Task, TaskKind
from toolkit.terminal import make_console
from toolkit.verbs.slurm import dispatch

_N_TASKS, _N_FINISHED = 1000, 10_000
_PARTITION = "cpu"
_FLOOR = "submitit map_array (floor)"
_QUERY_INTERVAL_S = 30.0
_TIMEOUT_S = 600.0

System = Callable[[Path, int], Turn]


@dataclass(frozen=True)
class Setting:
    """How the toolkit's jobs are made.

    Parameters
    ----------
    canary_above
        As in the config: what waits for a first task.
    tasks_per_job
        As in a site's profile.
    """

    canary_above: int | None = None
    tasks_per_job: int = 1


SYSTEMS: dict[str, System] = {
    _FLOOR: partial(run_submitit, partition=_PARTITION),
    "toolkit, one task a job": lambda folder, n: run_toolkit(folder, n, Setting()),
    "toolkit, with a canary (default)": lambda folder, n: run_toolkit(
        folder, n, Setting(canary_above=ExecutorConfig().canary_above)
    ),
    "toolkit, 10 tasks a job": lambda folder, n: run_toolkit(folder, n, Setting(tasks_per_job=10)),
}


def run_toolkit(folder: Path, n_tasks: int, setting: Setting) -> Turn:
    """Plan, submit and watch as the command does, then read all results."""
    started_s, started_at_s = time.perf_counter(), time.time()
    tasks = [Task(TaskKind.PROBE, {"number": i}, label=f"probe {i}") for i in range(n_tasks)]
    run = RunFolder(folder)
    run.create()
    run.write_plan(tasks, {"name": "probes", "slurm": _settings(setting).to_dict()})
    plan_s = time.perf_counter() - started_s
    dispatch(run, [], make_console(file=StringIO()), detach=False)
    hosts = [json.loads(run.result_path(task.id).read_bytes())["host"] for task in tasks]
    results_s = time.perf_counter() - started_s
    assert len(hosts) == n_tasks
    wait_until_idle()
    array_ids = (folder / "submissions").glob("*.id")
    n_files = count_files(folder)
    return Turn(
        submit_s=max(path.stat().st_mtime for path in array_ids) - started_at_s,
        results_s=results_s,
        n_queries=Scheduler(run.path).report().n_queries,
        n_files=n_files,
        n_common_files=n_files - count_files(folder / "results") - count_files(folder / "logs"),
        plan_s=plan_s,
    )


def _settings(setting: Setting) -> SlurmSettings:
    stage = StageProfile(partition=_PARTITION, tasks_per_job=setting.tasks_per_job)
    return SlurmSettings(
        profile=SiteProfile(default=stage, min_query_interval_s=_QUERY_INTERVAL_S),
        requests={TaskKind.PROBE: JobRequest(1, 0, memory_gb=0.2, timeout_min=10)},
        canary_above=setting.canary_above,
        git_sha=git_sha(Path(__file__).parent),
    )


def compare(n_tasks: int, n_rounds: int) -> Iterator[Record]:
    """Tasks that do nothing, through each system in turn."""
    turns: dict[str, list[Turn]] = {name: [] for name in SYSTEMS}
    for i in range(n_rounds):
        for name in list(SYSTEMS)[:: -1 if i % 2 else 1]:
            turns[name].append(_turn(name, n_tasks))
    for name, own in turns.items():
        yield from _records(name, own, turns[_FLOOR], n_tasks)


def _turn(name: str, n_tasks: int) -> Turn:
    """In a process of its own, as a command is; its start is not measured."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(1, get_context("spawn")) as process,
    ):
        return process.submit(_run, name, Path(folder), n_tasks).result()


def _run(name: str, folder: Path, n_tasks: int) -> Turn:
    return SYSTEMS[name](folder, n_tasks)


def _records(
    name: str, turns: Sequence[Turn], floor: Sequence[Turn], n_tasks: int
) -> Iterator[Record]:
    last = turns[-1]
    asked = max(turns, key=lambda turn: turn.n_queries / turn.results_s)
    n_per_task = (last.n_files - last.n_common_files) / n_tasks
    plans_s = [turn.plan_s for turn in turns if turn.plan_s is not None]
    notes = {
        "submit": f"{statistics.median(plans_s):.2f} s of it to plan" if plans_s else "",
        "results": f"{asked.n_queries} questions to the scheduler in {asked.results_s:.0f} s; "
        f"{n_per_task:.2f} files a task and {last.n_common_files} more",
    }
    for what, note in notes.items():
        seconds = [getattr(turn, f"{what}_s") for turn in turns]
        base = [getattr(turn, f"{what}_s") for turn in floor]
        ratios = sorted(own / other for own, other in zip(seconds, base, strict=True))
        spread = f"ratios {ratios[0]:.2f} to {ratios[-1]:.2f} in {len(ratios)} round(s)"
        yield Record(
            benchmark="sweep",
            case=f"{n_tasks:,} tasks: start to {what}",
            system=name,
            seconds=statistics.median(seconds),
            ratio_to_floor=statistics.median(ratios),
            note="; ".join(part for part in (note, spread) if part),
        )


def open_finished(n_tasks: int) -> Iterator[Record]:
    """The commands on a finished run of many read-outs, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        config, run = Path(folder) / "config.yaml", Path(folder) / "run"
        write_config(config, n_tasks)
        n_planned = write_finished_run(config, run)
        in_run = ("--out", str(run))
        commands = {
            "status": ("status", str(run)),
            "plan": ("plan", str(config), *in_run),
            "collect": ("collect", str(run)),
            "the same sweep again": (str(config), *in_run),
        }
        for name, words in commands.items():
            argv = [sys.executable, "-m", "toolkit.sweep", *words]
            measured = measure_subprocess(argv, _TIMEOUT_S)
            yield Record(
                benchmark="sweep",
                case=f"finished run of {n_planned:,} synthetic results",
                system=name,
                seconds=measured.seconds,
                peak_memory_bytes=measured.peak_memory_bytes,
                status=measured.status,
                note=measured.stderr[-300:] if measured.status != "ok" else "",
            )


def sweep(quick: bool, n_tasks: int = _N_TASKS) -> Iterator[Record]:
    """Both, with few tasks if it is to be quick."""
    with DevCluster.start(ClusterShape()) as cluster:
        os.environ.update(cluster.environment)
        yield from open_finished(200 if quick else _N_FINISHED)
        yield from compare(20 if quick else n_tasks, n_rounds=1 if quick else 3)


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--tasks", type=int, default=_N_TASKS)
    own, others = parser.parse_known_args(arguments)

    def benchmark(quick: bool) -> Iterator[Record]:
        return sweep(quick, own.tasks)

    benchmark.__doc__ = f"{__doc__} --tasks N: how many do nothing ({_N_TASKS})."
    main(benchmark, others)


if __name__ == "__main__":
    _main()
