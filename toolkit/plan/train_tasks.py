"""Tasks of trainings: plain ones, the trials, rungs and winners of searches, and grown networks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.catalog import Catalog
from toolkit.config import HmoNetwork, SearchConfig, SweepConfig, are_trained_here
from toolkit.models import ModelError, WeightsUnavailableError
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.identity import config_hash, how_to_score
from toolkit.plan.searches import rungs_of, trials_of, with_choices
from toolkit.plan.variants import Variant, hmo_search, recipe_of
from toolkit.task import Task, TaskKind, json_digest
from toolkit.training import Recipe
from toolkit.training.hmo.space import ModuleSpace
from toolkit.yaml_source import KeyPath, Source

_OF_THIS_SWEEP, _OF_ANOTHER_SWEEP = "trained:", "run:"
_N_NAMED = 5


@dataclass(frozen=True)
class PlannedTraining:
    """A training whose network others may use.

    Parameters
    ----------
    variant
        What is trained.
    dataset
        What it is trained on.
    seed, fold
        Which repetition.
    task
        The task that leaves the network behind.
    images
        Content of every image that the network is trained on, or what it starts from was.
    """

    variant: Variant
    dataset: PlannedDataset
    seed: int
    fold: int
    task: Task
    images: frozenset[str]


@dataclass(frozen=True)
class _Start:
    """The trained network that a training starts from: what decides it, and where it is."""

    digest: str
    where: str
    inputs: tuple[str, ...]
    images: frozenset[str]


@dataclass(frozen=True)
class _Setting:
    """What all tasks of one training share."""

    config: SweepConfig
    dataset: PlannedDataset
    variant: Variant
    seed: int
    fold: int
    start: _Start | None

    def params(self) -> dict[str, Any]:
        """What decides the weights, the network and the recipe apart."""
        protocol = how_to_score(self.config)["protocol"]
        return {
            "stimuli": self.dataset.stimuli_digest or f"absent:{self.dataset.name}",
            "responses": self.dataset.responses_digest or f"absent:{self.dataset.name}",
            "protocol": protocol,
            "fold": self.fold,
            **({"start": self.start.digest} if self.start else {}),
        }

    def scoring(self) -> dict[str, Any]:
        """What decides the scores beside the weights."""
        statistics = self.config.statistics
        predict = self.variant.training.predict
        unscored = {one: what for one, what in self.dataset.unscored.items() if one in predict}
        return {
            "ceiling_images": statistics.ceiling_images,
            **({"bootstrap": statistics.bootstrap} if statistics.bootstrap else {}),
            **({"predict": list(predict)} if predict else {}),
            **({"unscored": unscored} if unscored else {}),
        }

    def options(self, **more: Any) -> dict[str, Any]:
        """How it runs."""
        training = self.variant.training
        is_trained = are_trained_here(self.variant.weights)
        return {
            "dataset": self.dataset.loader,
            "weights": "random" if is_trained else self.variant.weights,
            **({"start": self.start.where} if self.start else {}),
            "device": training.device,
            "compile": training.compile,
            "checkpoint_s": training.checkpoint_s,
            "memory_gb": self.config.resources.train.memory_gb,
            "gpus": self.config.resources.train.gpus,
            "config_hash": config_hash(self.config),
            **more,
        }

    def columns(self, step: str, **more: Any) -> dict[str, Any]:
        """What identifies the row in the tables."""
        variant = self.variant
        return {
            "experiment": self.config.name,
            "dataset": self.dataset.name,
            "region": self.dataset.region,
            "model": variant.model,
            "library": variant.library,
            "weights": variant.weights,
            "seed": self.seed,
            "layer": variant.layer,
            "layer_index": None,
            "layer_depth": None,
            "features": None,
            "n_features": None,
            "readout": variant.readout,
            "training": variant.name,
            "step": step,
            "objective": variant.objective,
            "fold": self.fold,
            **more,
        }

    def task(
        self,
        step: str,
        params: dict[str, Any],
        n_epochs: int,
        inputs: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> Task:
        """One task of it, of at most so many epochs."""
        readout = columns.get("readout", self.variant.readout)
        place = [f"{key} {columns[key]}" for key in ("rung", "slot") if key in columns]
        names = [self.dataset.name, self.variant.label(readout), f"seed {self.seed}"]
        names += [f"fold {self.fold}"] if self.dataset.n_splits != 1 else []
        return Task(
            kind=TaskKind.TRAIN,
            label=" ".join([*names, step, *place]),
            params={"step": step, **params},
            inputs=tuple(dict.fromkeys((*(self.start.inputs if self.start else ()), *inputs))),
            columns=self.columns(step, **columns),
            options=self.options(
                image_passes=max(n_epochs, 1) * self.dataset.n_train, **(options or {})
            ),
        )


def training_tasks(
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    variant: Variant,
    dataset: PlannedDataset,
    earlier: Sequence[PlannedTraining],
) -> tuple[list[Task], list[PlannedTraining]]:
    """The tasks that train a variant on a data set, for each seed and fold, parents first.

    Raises
    ------
    ConfigError
        If what it starts from is not one network.
    """
    tasks: list[Task] = []
    planned: list[PlannedTraining] = []
    training = variant.training
    folds = range(dataset.n_splits or 1) if training.folds == "all" else training.folds
    for seed, fold in itertools.product(training.seeds or (config.seed,), folds):
        start = _start(source, catalog, variant, dataset, seed, fold, earlier)
        setting = _Setting(config, dataset, variant, seed, fold, start)
        own = _tasks_of(setting)
        images = dataset.images_for_training(fold) | (start.images if start else frozenset())
        tasks += own
        planned.append(PlannedTraining(variant, dataset, seed, fold, own[-1], images))
    return tasks, planned


def _tasks_of(setting: _Setting) -> list[Task]:
    """Parents first; the last one leaves the network behind."""
    variant = setting.variant
    if isinstance(variant.training.network, HmoNetwork):
        return _grown(setting, variant.training.network)
    if variant.training.search is not None:
        return _search(setting)
    params = {
        **setting.params(),
        "network": variant.network(setting.seed),
        "recipe": _whole(variant.recipe(setting.seed)),
        **setting.scoring(),
    }
    return [setting.task("training", params, params["recipe"]["n_epochs"])]


def _whole(recipe: dict[str, Any]) -> dict[str, Any]:
    return Recipe.from_plain(recipe).to_plain()


def _search(setting: _Setting) -> list[Task]:
    """Trials, then slots of rungs that the best of the rung before go on in, then the winner."""
    variant, search = setting.variant, setting.variant.training.search
    assert search is not None
    trained = _different_trials(setting, search)
    n_epochs = Recipe.from_plain(variant.recipe(setting.seed)).n_epochs
    rungs = rungs_of(search, len(trained), n_epochs)
    pauses = [{"pause_after": epochs} if epochs < n_epochs else {} for _, epochs in rungs]
    trials = []
    for number, what in enumerate(trained):
        params = {**setting.params(), **what, **pauses[0]}
        n_first = min(rungs[0][1], what["recipe"]["n_epochs"])
        trials.append(setting.task("trial", params, n_first, rung=0, slot=number, trial=number))
    tasks, last = list(trials), trials
    for rung in range(1, len(rungs)):
        parents = sorted(task.id for task in last)
        last = [
            setting.task(
                "slot",
                {"from": parents, "slot": slot, **pauses[rung]},
                rungs[rung][1] - rungs[rung - 1][1],
                parents,
                {"n_slots": rungs[rung][0]},
                rung=rung,
                slot=slot,
            )
            for slot in range(rungs[rung][0])
        ]
        tasks += last
    parents = sorted(task.id for task in last)
    params = {"from": parents, "refit": search.refit, **setting.scoring()}
    return [*tasks, setting.task("winner", params, search.refit * n_epochs, parents)]


def _different_trials(setting: _Setting, search: SearchConfig) -> list[dict[str, Any]]:
    """Network and recipe of each trial, in the order of their numbers."""
    variant = setting.variant
    found: list[dict[str, Any]] = []
    for chosen in trials_of(search, setting.config.seed):
        given, decoder = with_choices(variant.training.recipe, variant.training.decoder, chosen)
        network = {**variant.network(setting.seed), "decoder": _whole_decoder(decoder)}
        recipe = _whole(recipe_of(given, variant.objectives, setting.seed))
        found.append({"network": network, "recipe": recipe})
    return list({json_digest(one): one for one in found}.values())


def _whole_decoder(decoder: dict[str, Any]) -> dict[str, Any]:
    from toolkit.models.network_spec import DecoderSpec

    return DecoderSpec.from_plain(decoder).to_plain()


def _grown(setting: _Setting, network: HmoNetwork) -> list[Task]:
    """Batches of modules, stage by stage, then the networks that are made of them.

    The first stage is shared; later ones depend on how modules are chosen.
    """
    variant, training = setting.variant, setting.variant.training
    search = hmo_search(network, training.recipe, variant.objectives, setting.seed)
    search |= {"brief": _whole(search["brief"]), "final": _whole(search["final"])}
    search |= {"space": ModuleSpace.from_plain(search["space"]).to_plain()}
    params = {**setting.params(), "search": search}
    size = network.modules_per_task
    parts = [
        (first, min(first + size, network.n_modules)) for first in range(0, network.n_modules, size)
    ]
    tasks: list[Task] = []
    stages: dict[str, list[list[str]]] = {"boosted": [], "unboosted": []}
    for depth in range(network.n_stages):
        for choice in ("boosted", "unboosted") if depth else ("boosted",):
            earlier = stages[choice][:depth]
            batch = [
                setting.task(
                    "modules",
                    {
                        **params,
                        "choice": choice if depth else None,
                        "depth": depth,
                        "modules": [first, last],
                    },
                    search["brief"]["n_epochs"] * (last - first),
                    [task_id for stage in earlier for task_id in stage],
                    {"from": earlier},
                    rung=depth,
                    slot=part,
                    readout=choice if depth else "modules",
                )
                for part, (first, last) in enumerate(parts)
            ]
            tasks += batch
            for name in (choice,) if depth else tuple(stages):
                stages[name].append([task.id for task in batch])
    for name, members in (
        ("best_module", stages["unboosted"][:1]),
        ("unboosted", stages["unboosted"]),
        ("boosted", stages["boosted"]),
    ):
        whole = {**params, "choice": name, **setting.scoring()}
        inputs = [task_id for stage in members for task_id in stage]
        n_epochs = search["final"]["n_epochs"]
        tasks.append(
            setting.task("grown", whole, n_epochs, inputs, {"from": members}, readout=name)
        )
    return tasks


def _start(
    source: Source,
    catalog: Catalog,
    variant: Variant,
    dataset: PlannedDataset,
    seed: int,
    fold: int,
    earlier: Sequence[PlannedTraining],
) -> _Start | None:
    weights, at = variant.weights, source.existing((*variant.at, "network", "weights"))
    if not are_trained_here(weights):
        return None
    if weights.startswith(_OF_ANOTHER_SWEEP):
        start = _start_of_another_sweep(source, catalog, variant, at)
    else:
        start = _start_of_this_sweep(source, variant, dataset, seed, fold, earlier, at)
    if tested := dataset.tested_ids(start.images, fold):
        raise source.error(
            at,
            f"{weights} was trained on {len(tested)} of the images of '{dataset.name}' that fold "
            f"{fold} of the protocol tests ({', '.join(tested[:_N_NAMED])}); start from a network "
            "that has not seen them, or test others",
        )
    return start


def _start_of_another_sweep(
    source: Source, catalog: Catalog, variant: Variant, at: KeyPath
) -> _Start:
    path = weights_file(variant.weights)
    try:
        file = catalog.trained_file(path)
        catalog.require_start(path, file.digest, variant.trunk)
    except (ModelError, WeightsUnavailableError) as error:
        raise source.error(at, str(error)) from error
    return _Start(file.digest, str(path), (), frozenset(file.images))


def _start_of_this_sweep(
    source: Source,
    variant: Variant,
    dataset: PlannedDataset,
    seed: int,
    fold: int,
    earlier: Sequence[PlannedTraining],
    at: KeyPath,
) -> _Start:
    weights = variant.weights
    name = weights.removeprefix(_OF_THIS_SWEEP)
    found = [
        one
        for one in earlier
        if one.variant.name == name
        and one.dataset == dataset
        and _same_trunk(one.variant.trunk, variant.trunk)
    ]
    same = [one for one in found if (one.seed, one.fold) == (seed, fold)]
    if len(same or found) != 1:
        raise source.error(
            at,
            f"{weights} is {len(same or found)} networks like {variant.model} on "
            f"'{dataset.name}' with seed {seed} and fold {fold}, it must be one. Earlier "
            f"trainings: "
            f"{', '.join(dict.fromkeys(one.variant.name for one in earlier)) or 'none'}",
        )
    (one,) = same or found
    where = _OF_THIS_SWEEP + one.task.id
    return _Start(where, where, (one.task.id,), one.images)


def _same_trunk(one: dict[str, Any], other: dict[str, Any]) -> bool:
    own = {"weights": None, "digest": None}
    return {**one, **own} == {**other, **own}


def weights_file(reference: str) -> Path:
    """Where the network of ``run:FOLDER/TASK`` lies."""
    path = Path(reference.removeprefix(_OF_ANOTHER_SWEEP))
    return path.parent / "networks" / path.name / "weights.safetensors"
