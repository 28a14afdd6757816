"""What changes a run: ``run``, ``retry``, ``cancel``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches

from rich.console import Console

from toolkit.cluster.failures import ERROR_CLASSES, FailureClass
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.snapshot import TaskView, take_snapshot
from toolkit.task import Task, TaskState
from toolkit.verbs import local, slurm
from toolkit.verbs.loading import (
    Sweep,
    load_sweep,
    refuse_absent_data,
    say_notes,
    solver_reasons,
    warn_of_idle_rules,
    warn_of_leaks,
)
from toolkit.verbs.prefetching import fetch_weights
from toolkit.verbs.viewing import EXIT_DONE, EXIT_UNFINISHED, collected, exit_status, finish
from toolkit.yaml_source import ConfigError

_WAITS = (TaskState.BLOCKED, TaskState.PENDING)


def run(options: argparse.Namespace, console: Console) -> int:
    """Plan, dispatch, watch, collect."""
    sweep = load_sweep(options)
    refuse_absent_data(sweep)
    settings = _checked_settings(sweep)
    warn_of_leaks(sweep.plan, console)
    warn_of_idle_rules(sweep.plan, console)
    for dataset in sweep.plan.datasets:
        if dataset.notes:
            console.print(f"{dataset.name}:", soft_wrap=True)
            say_notes(dataset, console)
    solver_reasons(sweep)
    folder, tasks = sweep.folder, sweep.plan.tasks
    folder.create()
    with _held(folder, on_slurm="slurm" in settings):
        sweep.catalog.save(folder.catalog_path)
        folder.write_plan(tasks, settings)
        _set_damaged_results_aside(folder, tasks, console)
    ids = {task.id for task in tasks}
    if ids <= folder.done_ids():
        console.print(f"Nothing to run: all {len(tasks)} tasks are done.")
        status = finish(folder, console)
        if ids <= folder.done_ids():
            return status
    n_done = len(folder.done_ids() & ids)
    console.print(f"{len(tasks)} tasks, {n_done} of them done.")
    if slurm.is_slurm_run(folder):
        fetch_weights([task for task in tasks if not folder.is_done(task.id)], console)
        slurm.settle_now(folder)
        return _on_slurm(folder, slurm.failed_tasks(folder), console, detach=options.detach)
    if options.detach:
        return local.detach(folder, _words_of_run(options, folder), console)
    return local.dispatch(folder, tasks, console)


def _set_damaged_results_aside(folder: RunFolder, tasks: Sequence[Task], console: Console) -> None:
    """Let what is seen to be damaged without reading all of it be computed again."""
    from toolkit.results.damage import damaged_results

    damaged = damaged_results(folder.result_path(task.id) for task in tasks)
    for path, error in damaged.items():
        folder.set_aside(path.stem, error.error_class, str(error))
    if damaged:
        console.print(
            f"{len(damaged)} results are damaged or those of other tasks, and are computed again; "
            f"the first is {next(iter(damaged)).name}.",
            style="yellow",
        )


def retry(options: argparse.Namespace, console: Console) -> int:
    """Run failed tasks again, and what waited for them."""
    folder = RunFolder.open(options.run)
    folder.check_path()
    slurm.settle_now(folder)
    _refuse_impossible_choice(folder, options)
    views = take_snapshot(folder, folder.tasks())
    if not any(_is_chosen(view, options) for view in views):
        views, _, _ = collected(folder)  # what cannot be used of the results is seen by reading all
    chosen = [view for view in views if _is_chosen(view, options)]
    if not chosen:
        console.print("No failed task matches; nothing to retry.")
        return exit_status(views)
    ids = {view.task.id for view in chosen}
    blocked = [v for v in views if v.state in _WAITS and ids & set(v.task.inputs)]
    tasks = [view.task for view in views if view.task.id in ids | {b.task.id for b in blocked}]
    console.print(f"{len(chosen)} failed tasks again, {len(blocked)} that waited for them.")
    if options.executor in ("local", "inprocess"):
        settings = folder.read_summary()
        settings["executor"]["kind"] = options.executor
        settings.pop("slurm", None)
        with _held(folder, on_slurm=False):
            folder.write_plan(folder.tasks(), settings)
    if slurm.is_slurm_run(folder):
        return _on_slurm(folder, tasks, console, detach=options.detach)
    if options.detach:
        return local.detach(folder, _words_of_retry(options, folder), console)
    return local.dispatch(folder, tasks, console)


def cancel(options: argparse.Namespace, console: Console) -> int:
    """Stop whatever runs a run, and its jobs; its plan may be damaged or gone."""
    folder = RunFolder.open(options.run, needs_plan=False)
    was_submitted = slurm.was_submitted(folder)
    try:
        is_on_slurm = slurm.is_slurm_run(folder)
    except RunFolderError:
        is_on_slurm = was_submitted
    if not is_on_slurm and (folder.owner() is not None or not was_submitted):
        local.stop(folder, console)
    if is_on_slurm or was_submitted:
        slurm.cancel(folder, console)
    return EXIT_DONE


@contextmanager
def _held(folder: RunFolder, *, on_slurm: bool) -> Iterator[None]:
    """Hold a run to change its plan; refused where somebody else runs it."""
    with folder.owned(wait_s=slurm.OTHERS_S if on_slurm else 0.0):
        if not on_slurm:
            local.refuse_jobs_in_queue(folder)
        yield


def _words_of_run(options: argparse.Namespace, folder: RunFolder) -> list[str]:
    words = ["run", str(options.config), "--out", str(folder.path)]
    words += [word for override in options.overrides for word in ("--set", override)]
    return words + (["--executor", options.executor] if options.executor else [])


def _words_of_retry(options: argparse.Namespace, folder: RunFolder) -> list[str]:
    words = ["retry", str(folder.path)]
    words += ["--class", options.error_class] if options.error_class else []
    return words + (["--error", options.error] if options.error else [])


def _checked_settings(sweep: Sweep) -> dict[str, object]:
    if sweep.config.executor.kind != "slurm":
        local.refuse_impossible_resources(sweep)
        return sweep.settings()
    return {**sweep.settings(), "slurm": slurm.settings_of(sweep).to_dict()}


def _on_slurm(folder: RunFolder, again: Sequence[Task], console: Console, *, detach: bool) -> int:
    standing = slurm.dispatch(folder, again, console, detach=detach)
    if standing is None:
        return EXIT_DONE if detach else EXIT_UNFINISHED
    return finish(folder, console)


def _refuse_impossible_choice(folder: RunFolder, options: argparse.Namespace) -> None:
    known = {*map(str, FailureClass), *ERROR_CLASSES}
    known |= {attempt.error_class for attempt in folder.attempts().values()} - {""}
    wanted = options.error_class
    if wanted is not None and wanted not in known:
        near = get_close_matches(wanted, sorted(known), cutoff=0.5) or map(str, FailureClass)
        raise ConfigError(
            [f"--class {wanted}: no class of failure is called so; nearest: {', '.join(near)}"]
        )
    try:
        re.compile(options.error or "")
    except re.error as error:
        raise ConfigError(
            [f"--error {options.error}: not a regular expression: {error}"]
        ) from error


def _is_chosen(view: TaskView, options: argparse.Namespace) -> bool:
    if view.state not in (TaskState.FAILED, TaskState.CANCELLED) or view.attempt is None:
        return False
    if options.error_class and view.attempt.error_class != options.error_class:
        return False
    return not options.error or bool(re.search(options.error, view.attempt.error_message))
