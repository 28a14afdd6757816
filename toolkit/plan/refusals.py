"""What a config asks for that cannot be done, beside data sets and networks that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolkit.config import ReadoutConfig, SweepConfig
from toolkit.config.readouts import CkaReadout, RdmReadout, RidgeReadout
from toolkit.plan.datasets import PlannedDataset
from toolkit.yaml_source import KeyPath, Source

# Two patterns of two neurons correlate by 1 or -1, and those of one point the same or opposite way.
_FEWEST_NEURONS = {"correlation": 3, "cosine": 2, "euclidean": 1}

# RDMs of two have one entry; the unbiased estimator divides by n - 3.
_FEWEST_FOR_RDM, _FEWEST_FOR_CKA = 3, 4


def impossible_readouts(
    config: SweepConfig, source: Source, datasets: list[PlannedDataset]
) -> Iterator[str]:
    """Problems of read-outs that need more stimuli than there are, or that share a name."""
    seen: dict[str, tuple[Any, int]] = {}
    for i, readout in enumerate(config.readouts):
        at = ("readouts", i)
        for dataset in datasets:
            yield from _too_large(readout, source, at, dataset)
            yield from _too_few_to_compare(readout, source, at, dataset)
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


def _too_few_to_compare(
    readout: ReadoutConfig, source: Source, at: KeyPath, dataset: PlannedDataset
) -> Iterator[str]:
    """Problems of similarities, which need several neurons, and several stimuli or objects."""
    if isinstance(readout, CkaReadout):
        if dataset.n_stimuli < _FEWEST_FOR_CKA:
            yield source.problem(
                (*at, "kind"),
                f"unbiased CKA needs {_FEWEST_FOR_CKA} images or more; '{dataset.name}' has "
                f"{dataset.n_stimuli}",
            )
        return
    if not isinstance(readout, RdmReadout):
        return
    fewest = _FEWEST_NEURONS[readout.distance]
    if dataset.n_neuroids < fewest:
        yield source.problem(
            source.existing((*at, "distance")),
            f"a {readout.distance} RDM compares patterns of {fewest} neurons or more; "
            f"'{dataset.name}' has {dataset.n_neuroids}: write distance: euclidean",
        )
    what, n = "images", dataset.n_stimuli
    if readout.level == "object" and dataset.n_classes is not None:
        if "object" not in dataset.n_classes:
            yield source.problem(
                (*at, "level"), f"'{dataset.name}' names no objects; write level: image"
            )
            return
        what, n = "objects", dataset.n_classes["object"]
    if n < _FEWEST_FOR_RDM:
        yield source.problem(
            source.existing((*at, "level")),
            f"RDMs of {n} {what} of '{dataset.name}' cannot be compared; {_FEWEST_FOR_RDM} or more "
            "are needed",
        )


def solvers_without_features(config: SweepConfig, source: Source) -> Iterator[str]:
    """Problem of a solver that reads features where only Gram matrices are kept."""
    kept = {one.keep for model in config.models for one in model.features or config.features}
    if "gram" in kept and config.pca.solver not in ("auto", "gram"):
        yield source.problem(
            ("pca", "solver"),
            f"{config.pca.solver} reads features, but features: gram keeps none; write gram",
        )


def solvers_without_gram(config: SweepConfig, source: Source) -> Iterator[str]:
    """Problems of what only a Gram matrix gives where a solver makes none."""
    solver = config.pca.solver
    if solver in ("auto", "gram"):
        return
    for i, readout in enumerate(config.readouts):
        if (
            isinstance(readout, RidgeReadout)
            and readout.folds == "leave_one_out"
            and any(readout.n_components)
        ):
            yield source.problem(
                ("readouts", i, "folds"),
                f"leave_one_out needs a Gram matrix, which pca.solver {solver} does not make; "
                "write a number of folds",
            )
    for i, dataset in enumerate(config.dataset):
        reduces = any(any(getattr(one, "n_components", ())) for one in config.readouts)
        if reduces and getattr(dataset, "missing_responses", "") == "mask":
            yield source.problem(
                source.existing(("dataset", i, "missing_responses")),
                f"masked responses need a Gram matrix, which pca.solver {solver} does not make; "
                "write pca: {solver: gram}",
            )


def exclude_rules_without_field(config: SweepConfig, source: Source) -> Iterator[str]:
    """Problems of rules that would leave out everything."""
    for i, rule in enumerate(config.exclude):
        if not rule.model_dump(exclude_none=True):
            yield source.problem(("exclude", i), "an empty rule would leave out everything")
