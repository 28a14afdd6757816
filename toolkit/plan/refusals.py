"""What a config asks for that cannot be done, beside data sets and networks that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolkit.config import ReadoutConfig, SweepConfig
from toolkit.plan.datasets import PlannedDataset
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
