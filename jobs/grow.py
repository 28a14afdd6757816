"""A network grown of small modules: batches of modules, and the networks made of the chosen."""

from __future__ import annotations

import json
import logging
import shutil
from typing import TYPE_CHECKING

from jobs.assignments import as_published, bank_of, dataset_of, rows_of
from jobs.meter import Meter
from jobs.session import Session
from jobs.training_runs import (
    EndingProgress,
    Progress,
    description_of,
    keep_curve,
    keep_network,
    publish,
    publish_tested,
    run_training,
    running_of,
)
from toolkit.download import file_digest
from toolkit.task import Task

if TYPE_CHECKING:
    from pathlib import Path

    from toolkit.training.hmo.search import HmoData, HmoSearch, Member

_log = logging.getLogger("toolkit")

_MEMBERS_NAME = "members.safetensors"


def grow_network(task: Task, session: Session, progress: Progress) -> None:
    """Run one task of a grown network: some of a stage's modules, or a network made of chosen ones.

    Raises
    ------
    As :func:`jobs.train.train_network`.
    """
    from toolkit.training.hmo.search import HmoSearch

    search = HmoSearch.from_plain(task.params["search"])
    data = _data(task, session, search)
    if task.params["step"] == "modules":
        _train_modules(task, session, progress, search, data)
    else:
        _train_whole(task, session, progress, search, data)
    shutil.rmtree(session.run.checkpoints_path(task.id), ignore_errors=True)


def _train_modules(
    task: Task, session: Session, progress: Progress, search: HmoSearch, data: HmoData
) -> None:
    from toolkit.training import StoppedError
    from toolkit.training.hmo.members import save_members
    from toolkit.training.hmo.search import train_member
    from toolkit.training.hmo.space import sample_modules

    meter, ending = Meter(), EndingProgress(progress)
    stages = _stages(task, session, search, data)
    first, last = task.params["modules"]
    modules = sample_modules(search.space, search.n_modules, search.seed + len(stages))
    folder, running = session.run.checkpoints_path(task.id), running_of(task, ending)
    members = []
    for number, module in enumerate(modules[first:last], first):
        try:
            members.append(train_member(search, data, stages, module, folder, running))
        except StoppedError as error:
            assert ending.ending is not None
            raise ending.ending from error
        _log.info("module %d: %.4f right", number, members[-1].is_right.mean())
    path = _members_path(task.id, session)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_members(path, members)
    n_fitted = len(data.train) - len(members[0].is_right)
    summary = {
        "weights_sha256": file_digest(path),
        "outcome": "trained",
        "recipe": json.dumps({"recipe": search.brief.to_plain(), "decoder": None}, sort_keys=True),
        "val_score": max(float(member.is_right.mean()) for member in members),
        "n_train": n_fitted,
        "n_test": 0,
    }
    publish(task, session, None, summary, meter)


def _train_whole(
    task: Task, session: Session, progress: Progress, search: HmoSearch, data: HmoData
) -> None:
    from toolkit.training.hmo.search import assemble

    meter = Meter()
    stages = _stages(task, session, search, data)
    if task.params["choice"] == "best_module":
        stages = [stages[0][:1]]
    assignment = assemble(search, data, stages)
    result = run_training(task, session, progress, assignment)
    description = description_of(task, assignment.recipe, assignment, result)
    keep_network(task, session, result.trained)
    keep_curve(task, session, result.curve)
    publish_tested(task, session, task, assignment, result.trained, description, meter)


def _stages(
    task: Task, session: Session, search: HmoSearch, data: HmoData
) -> list[tuple[Member, ...]]:
    """The members that were chosen of the stages before."""
    from toolkit.training.hmo.members import load_members
    from toolkit.training.hmo.search import chosen

    by = "boosted" if task.params["choice"] == "boosted" else "unboosted"
    stages: list[tuple[Member, ...]] = []
    for batches in task.options["from"]:
        members: list[Member] = []
        for batch in batches:
            with as_published(batch, session) as published:
                members += load_members(_members_path(batch, session), published)
        stage, choice = chosen(search, data, members, by)
        _log.info("stage %d, %s: modules %s", len(stages), by, choice.modules)
        stages.append(stage)
    return stages


def _data(task: Task, session: Session, search: HmoSearch) -> HmoData:
    from toolkit.models.network_spec import ModularTrunk, SmallModule
    from toolkit.training.hmo.search import HmoData

    dataset = dataset_of(task, session)
    train, test = rows_of(task, dataset)
    # Any trunk of this input size has the preprocessing of all.
    module = SmallModule((1,), (1,), "max", normalised=False)
    trunk = ModularTrunk((((module,),),), input_px=search.input_px)
    return HmoData(dataset, bank_of(session, dataset, trunk), train, test)


def _members_path(task_id: str, session: Session) -> Path:
    return session.run.network_path(task_id).with_name(_MEMBERS_NAME)
