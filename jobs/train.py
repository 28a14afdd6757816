"""One training: of its own, or a trial, a rung or the winner of a search."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from jobs.assignments import OF_THIS_SWEEP, assignment_of, trained_network
from jobs.meter import Meter
from jobs.session import Session
from jobs.training_runs import (
    Progress,
    description_of,
    keep_curve,
    keep_network,
    publish,
    publish_tested,
    run_training,
)
from toolkit.atomic import atomic_path
from toolkit.task import Task

if TYPE_CHECKING:
    from toolkit.training import Assignment, TrainingResult

_log = logging.getLogger("toolkit")


class NoWinnerError(RuntimeError):
    """A search whose trials all diverged."""

    error_class = "diverged"


def train_network(task: Task, session: Session, progress: Progress) -> None:
    """Run one train task and publish what it gave.

    Raises
    ------
    JobEndingError
        If the end of the job was announced; a checkpoint was written, from which it goes on.
    toolkit.training.DivergedError
        If a loss was not finite, unless it is of a trial: that one ranks last.
    NoWinnerError
        If all trials diverged.
    DataChangedError
        If images or responses are not those that the task was planned for.
    """
    import torch

    torch.set_num_threads(session.n_cpus)
    step = task.params["step"]
    if step in ("modules", "grown"):
        from jobs.grow import grow_network

        grow_network(task, session, progress)
        return
    {"training": _train, "trial": _try, "slot": _go_on, "winner": _win}[step](
        task, session, progress
    )


@dataclass(frozen=True)
class Contender:
    """A trial as it stands after a rung.

    Parameters
    ----------
    origin
        The task of the trial.
    last
        The task of its last rung; None before the first.
    score, best_epoch, n_epochs
        The monitored value on the validation images, the epoch that had it, and the epochs it was
        trained; None if it diverged.
    """

    origin: Task
    last: Task | None
    score: float | None = None
    best_epoch: int | None = None
    n_epochs: int | None = None


def ranking(task: Task, session: Session) -> list[Contender]:
    """The trials of the rung before a task, the best one first.

    Trials of equal score come in the order of their ids, which no order of the config changes;
    those that diverged come last.
    """
    from toolkit.results import read_scores

    found = []
    for task_id in task.params["from"]:
        _, said = read_scores(session.run.result_path(task_id))
        origin, last = (session.run.task(one) for one in (said["origin"], task_id))
        measured = (said["val_score"], said["best_epoch"], said["n_epochs"])
        found.append(Contender(origin, last, *measured))
    return sorted(found, key=lambda one: (one.score is None, -(one.score or 0.0), one.origin.id))


def _train(task: Task, session: Session, progress: Progress) -> None:
    meter = Meter()
    assignment = assignment_of(task, session)
    result = run_training(task, session, progress, assignment)
    description = description_of(task, assignment.recipe, assignment, result)
    _keep(task, session, result)
    publish_tested(task, session, task, assignment, result.trained, description, meter)
    _forget_checkpoints(task, session)


def _try(task: Task, session: Session, progress: Progress) -> None:
    _contend(task, session, progress, Contender(task, None))


def _go_on(task: Task, session: Session, progress: Progress) -> None:
    """The trial that this slot is for; what the others need no more is removed."""
    trials, slot = ranking(task, session), task.params["slot"]
    _contend(task, session, progress, trials[slot])
    dropped = trials[task.options["n_slots"] :] if slot == 0 else []
    for trial in (trials[slot], *dropped):
        assert trial.last is not None
        _forget_checkpoints(trial.last, session)


def _contend(task: Task, session: Session, progress: Progress, trial: Contender) -> None:
    """Train a trial to the end of a rung; one that diverged stays in it, as the last."""
    from toolkit.training import DivergedError

    meter = Meter()
    pause_after = task.params.get("pause_after")
    assignment = assignment_of(trial.origin, session, pause_after=pause_after)
    result = None
    if trial.last is None or trial.score is not None:
        _take_checkpoint(task, session, trial)
        try:
            result = run_training(task, session, progress, assignment)
        except DivergedError as error:
            _log.warning("%s diverged: %s", trial.origin.label, error)
    description = description_of(trial.origin, assignment.recipe, assignment, result)
    if result is not None and pause_after is None:
        _keep(task, session, result)
    elif result is not None:
        keep_curve(task, session, result.curve)
        result.path.unlink()
    publish(task, session, None, {**description, "origin": trial.origin.id}, meter)
    if pause_after is None:
        _forget_checkpoints(task, session)


def _win(task: Task, session: Session, progress: Progress) -> None:
    """The best trial of the last rung, scored on the test images."""
    meter = Meter()
    best = ranking(task, session)[0]
    if best.score is None or best.best_epoch is None or best.last is None:
        raise NoWinnerError(
            f"all {len(task.params['from'])} trials diverged: search lower values of optimizer.lr, "
            "or write a max_grad_norm"
        )
    _log.info("%s wins with %.6g on the validation images", best.origin.label, best.score)
    won = {"origin": best.origin.id, "val_score": best.score}
    if task.params["refit"]:
        assignment = _refit(best, session)
        result = run_training(task, session, progress, assignment)
        description = description_of(best.origin, assignment.recipe, assignment, result) | won
        _keep(task, session, result)
        trained = result.trained
    else:
        assignment = assignment_of(best.origin, session)
        trained = trained_network(OF_THIS_SWEEP + best.last.id, "", session)
        keep_network(task, session, trained)
        description = description_of(best.origin, assignment.recipe, assignment, None) | won
        description |= {
            "outcome": "trained",
            "best_epoch": best.best_epoch,
            "n_epochs": best.n_epochs,
        }
    publish_tested(task, session, best.origin, assignment, trained, description, meter)
    _forget_checkpoints(task, session)


def _refit(best: Contender, session: Session) -> Assignment:
    """The winner's training on training and validation images, for as many epochs as were best."""
    from toolkit.training import Recipe

    assert best.best_epoch is not None
    recipe = Recipe.from_plain(best.origin.params["recipe"])
    whole = replace(recipe, validation_share=0.0, patience=None, monitor="loss")
    return assignment_of(best.origin, session, whole, best.best_epoch + 1)


def _keep(task: Task, session: Session, result: TrainingResult) -> None:
    keep_network(task, session, result.trained)
    keep_curve(task, session, result.curve)


def _take_checkpoint(task: Task, session: Session, trial: Contender) -> None:
    """Go on from the end of the trial's last rung, or from nothing if that is gone."""
    folder = session.run.checkpoints_path(task.id)
    if trial.last is None or any(folder.glob("*.pt")):
        return
    before = session.run.checkpoints_path(trial.last.id)
    checkpoints = list(before.glob("*.pt"))
    if not checkpoints:
        _log.warning("%s has no checkpoint: %s begins anew", before, trial.origin.label)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for path in checkpoints:
        with atomic_path(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)


def _forget_checkpoints(task: Task, session: Session) -> None:
    shutil.rmtree(session.run.checkpoints_path(task.id), ignore_errors=True)
