"""A whole config, expanded; every problem of it is reported at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from toolkit.catalog import Catalog
from toolkit.config import SweepConfig
from toolkit.plan.datasets import PlannedDataset, plan_dataset
from toolkit.plan.exclusions import Exclusions
from toolkit.plan.identity import config_hash
from toolkit.plan.networks import places_of_names, plan_networks, planned_form
from toolkit.plan.refusals import (
    datasets_of_one_name,
    exclude_rules_without_field,
    impossible_readouts,
    indistinguishable_rows,
    notes_on_missing_responses,
    notes_on_similarities,
    solvers_without_features,
    solvers_without_gram,
    tested_training_images,
)
from toolkit.plan.tasks import network_labels, tasks_of
from toolkit.plan.train_tasks import PlannedTraining, training_tasks
from toolkit.plan.training_refusals import refuse_unfitting
from toolkit.plan.trainings import is_excluded, plan_variants
from toolkit.task import Task, each_once
from toolkit.yaml_source import ConfigError, Source, gathered_in


@dataclass(frozen=True)
class Plan:
    """All tasks of a sweep, parents before children.

    Parameters
    ----------
    name
        The experiment.
    config_hash
        SHA-256 of the resolved configuration.
    datasets
        The planned data sets.
    train, extract, encode
        The tasks, each once: what has one content under several names is computed once, and has a
        row for each (:attr:`toolkit.task.Task.rows`). An encode task's inputs are the extract
        tasks that make its features, whose inputs are the train tasks that make their networks.
    idle_rules
        Of each exclude rule that leaves nothing out: where it stands, and what to look at.
    """

    name: str
    config_hash: str
    datasets: tuple[PlannedDataset, ...]
    extract: tuple[Task, ...]
    encode: tuple[Task, ...]
    train: tuple[Task, ...] = ()
    idle_rules: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task, parents before children."""
        return self.train + self.extract + self.encode


def make_plan(config: SweepConfig, source: Source, catalog: Catalog) -> Plan:
    """Expand a config into tasks.

    Raises
    ------
    ConfigError
        With every problem found: unknown networks or layers, unreadable data, splits that do
        not exist, more components than training stimuli, two data sets or read-outs of one name.
    """
    problems: list[str] = []
    exclusions = Exclusions(config)
    datasets = _collect(
        problems,
        partial(plan_dataset, config, source),
        [(index,) for index in range(len(config.dataset))],
    )
    train, trainings = _plan_trainings(problems, config, source, catalog, datasets, exclusions)
    networks = _collect(
        problems,
        partial(plan_networks, config, source, catalog, trainings),
        list(places_of_names(config)),
    )
    all_networks = list(itertools.chain.from_iterable(networks))
    problems += list(tested_training_images(config, source, datasets, all_networks))
    problems += list(datasets_of_one_name(config, source))
    problems += list(impossible_readouts(config, source, datasets))
    problems += list(exclude_rules_without_field(config, source))
    problems += list(solvers_without_features(config, source))
    problems += list(solvers_without_gram(config, source, datasets))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    datasets = [
        replace(
            one,
            notes=(
                *one.notes,
                *notes_on_similarities(config, one, all_networks),
                *notes_on_missing_responses(config, one),
            ),
        )
        for one in datasets
    ]
    extract: list[Task] = []
    encode: list[Task] = []
    labels = network_labels(all_networks)
    for dataset in datasets:
        for network, label in zip(all_networks, labels, strict=True):
            if not network.is_for(dataset):
                continue
            for features in network.features:
                form = planned_form(features, dataset)
                parents, children = tasks_of(config, dataset, network, label, form, exclusions)
                if children:
                    extract += parents
                    encode += children
    if not (encode or train):
        raise source.error(("exclude",), "the exclude rules leave nothing to do")
    if problems := list(indistinguishable_rows(source, (*train, *encode))):
        raise ConfigError(problems)
    return Plan(
        name=config.name,
        config_hash=config_hash(config),
        datasets=tuple(datasets),
        extract=each_once(extract),
        encode=each_once(encode),
        train=each_once(train),
        idle_rules=tuple(exclusions.idle_rules(source)),
    )


def _plan_trainings(
    problems: list[str],
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    datasets: Sequence[PlannedDataset],
    exclusions: Exclusions,
) -> tuple[list[Task], list[PlannedTraining]]:
    entries = _collect(
        problems,
        partial(plan_variants, config, source, catalog),
        [(name,) for name in config.training],
    )
    tasks: list[Task] = []
    trainings: list[PlannedTraining] = []
    for variant, dataset in itertools.product(itertools.chain.from_iterable(entries), datasets):
        if is_excluded(exclusions, dataset, variant):
            continue
        with gathered_in(problems):
            refuse_unfitting(config, source, catalog, variant, dataset)
            made, planned = training_tasks(config, source, catalog, variant, dataset, trainings)
            tasks += made
            trainings += planned
    return tasks, trainings


def _collect(
    problems: list[str], step: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """Take every step; a refused one adds its problems and the others go on."""
    results = []
    for each in arguments:
        with gathered_in(problems):
            results.append(step(*each))
    return results
