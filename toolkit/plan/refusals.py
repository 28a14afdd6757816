"""What a config asks for that cannot be done, beside data sets and networks that are not there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.config import ReadoutConfig, SweepConfig
from toolkit.plan.datasets import PlannedDataset
from toolkit.task import Task, TaskKind
from toolkit.yaml_source import KeyPath, Source


def impossible_readouts(
    config: SweepConfig, source: Source, datasets: list[PlannedDataset]
) -> Iterator[str]:
    """Problems of read-outs that need more stimuli than there are, or that share a name."""
    seen: dict[str, tuple[Any, int]] = {}
    for i, readout in enumerate(config.readouts):
        at = ("readouts", i)
        for dataset in datasets:
            yield from _too_large(readout, source, at, dataset)
        for name, params in readout.variants(config.seed):
            if name in seen and seen[name][0] != params:
                yield source.problem(
                    at, f"a readout called '{name}' stands at readouts[{seen[name][1]}]; name one"
                )
            seen.setdefault(name, (params, i))


def datasets_of_one_name(config: SweepConfig, source: Source) -> Iterator[str]:
    """Problems of data sets whose rows could not be told apart."""
    first: dict[str, int] = {}
    for i, dataset in enumerate(config.dataset):
        if first.setdefault(dataset.name, i) != i:
            yield source.problem(
                source.existing(("dataset", i, "name")),
                f"a data set called '{dataset.name}' stands at dataset[{first[dataset.name]}]; "
                f"give this one a name of its own, such as name: {dataset.name}-{i}",
            )


def indistinguishable_rows(source: Source, tasks: Sequence[Task]) -> Iterator[str]:
    """Problems of different results that every table would call the same."""
    first: dict[tuple[Any, ...], Task] = {}
    for task in tasks:
        known = first.setdefault(tuple(task.columns.items()), task)
        if known.id == task.id:
            continue
        named = task.columns.get("training")
        is_training = task.kind is TaskKind.TRAIN
        differing = [k for k, v in task.params.items() if v != known.params.get(k)]
        yield source.problem(
            ("training", str(named)) if is_training else source.existing(("models",)),
            f"'{task.label}' would name two results, which differ in {', '.join(differing)}; "
            f"{'make them two entries of training' if is_training else 'leave one of them out'}",
        )


def _too_large(
    readout: ReadoutConfig, source: Source, at: KeyPath, dataset: PlannedDataset
) -> Iterator[str]:
    most = dataset.n_train - 1
    for j, k in enumerate(getattr(readout, "n_components", ())):
        if k is not None and k > most:
            yield source.problem(
                source.existing((*at, "n_components", j)),
                f"{k} components from {dataset.n_train} training images of '{dataset.name}' are "
                f"impossible; at most {most}",
            )
    folds = getattr(readout, "folds", 0)
    if isinstance(folds, int) and folds > dataset.n_train:
        yield source.problem(
            (*at, "folds"),
            f"{folds} folds of {dataset.n_train} training images; write fewer, or leave_one_out",
        )


def solvers_without_features(config: SweepConfig, source: Source) -> Iterator[str]:
    """Problem of a solver that reads features where only Gram matrices are kept."""
    kept = {one.keep for model in config.models for one in model.features or config.features}
    if "gram" in kept and config.pca.solver not in ("auto", "gram"):
        yield source.problem(
            ("pca", "solver"),
            f"{config.pca.solver} reads features, but features: gram keeps none; write gram",
        )


def exclude_rules_without_field(config: SweepConfig, source: Source) -> Iterator[str]:
    """Problems of rules that would leave out everything."""
    for i, rule in enumerate(config.exclude):
        if not rule.model_dump(exclude_none=True):
            yield source.problem(("exclude", i), "an empty rule would leave out everything")
