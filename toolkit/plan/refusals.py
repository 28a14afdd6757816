"""What a config asks for that cannot be done, beside data sets and networks that are not there."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from toolkit.config import ReadoutConfig, SweepConfig
from toolkit.config.readouts import CkaReadout, PlsReadout, RdmReadout, RidgeReadout
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.networks import PlannedNetwork
from toolkit.plan.tasks import SIMILARITY_KINDS
from toolkit.task import Task, TaskKind
from toolkit.yaml_source import KeyPath, Source

# The fewest images whose dissimilarities are worth a correlation.
MIN_COMPARED = 4
_N_NAMED = 5
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
        variants = list(readout.variants(config.seed))
        for dataset in datasets:
            if all(_is_left_out(config, dataset, name) for name, _ in variants):
                continue
            yield from _too_large(readout, source, at, dataset)
            yield from _too_few_to_compare(readout, source, at, dataset)
        for name, params in variants:
            if name in seen and seen[name][0] != params:
                yield source.problem(
                    at, f"a readout called '{name}' stands at readouts[{seen[name][1]}]; name one"
                )
            seen.setdefault(name, (params, i))


def _is_left_out(config: SweepConfig, dataset: PlannedDataset, readout: str) -> bool:
    """Whether the exclude rules leave a read-out of a data set out for every network."""
    values = defaultdict(str, dataset=dataset.name, readout=readout)
    return any(rule.matches(values) for rule in config.exclude)


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


def _too_few_to_compare(
    readout: ReadoutConfig, source: Source, at: KeyPath, dataset: PlannedDataset
) -> Iterator[str]:
    """Problems of similarities, which need several neurons, stimuli or objects, all responses."""
    if readout.kind in SIMILARITY_KINDS and dataset.n_missing:
        yield source.problem(
            (*at, "kind"),
            f"{readout.kind} compares images over all neurons, but {dataset.n_missing} response(s) "
            f"of '{dataset.name}' are missing; leave out the neurons or images that are "
            f"incomplete, or this read-out, with exclude: [{{dataset: {dataset.name}, readout: "
            f"{readout.name or f'{readout.kind}*'}}}]",
        )
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


def solvers_without_gram(
    config: SweepConfig, source: Source, datasets: Sequence[PlannedDataset]
) -> Iterator[str]:
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
    if not any(any(getattr(one, "n_components", ())) for one in config.readouts):
        return
    for planned in datasets:
        if planned.n_missing and "missing_responses" not in planned.loader:
            yield source.problem(
                ("pca", "solver"),
                f"{planned.n_missing} response(s) of '{planned.name}' are missing, which needs a "
                f"Gram matrix, and {solver} makes none; write gram",
            )
    for i, dataset in enumerate(config.dataset):
        if getattr(dataset, "missing_responses", "") == "mask":
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


def tested_training_images(
    config: SweepConfig,
    source: Source,
    datasets: Sequence[PlannedDataset],
    networks: Sequence[PlannedNetwork],
) -> Iterator[str]:
    """Problems of networks that were trained on images they are to be tested on.

    Also of similarities for which too few images are left that a network has not seen.
    """
    is_compared = any(readout.kind in SIMILARITY_KINDS for readout in config.readouts)
    for network, dataset in itertools.product(networks, datasets):
        trained = network.trained
        if trained is None or not network.is_for(dataset) or not dataset.splits:
            continue
        tested, seen = dataset.tested_ids(), dataset.tested_ids(trained.images)
        if seen:
            yield source.problem(
                trained.at,
                f"{network.weights} was trained on {len(seen)} of the {len(tested)} images of "
                f"'{dataset.name}' that protocol {config.protocol.kind} tests "
                f"({', '.join(seen[:_N_NAMED])}); test images it has not seen, with protocol: "
                "{kind: fixed}, or take another network",
            )
        elif is_compared and trained.has_seen(dataset) and len(tested) < MIN_COMPARED:
            yield source.problem(
                trained.at,
                f"rdm and cka compare the images that {network.weights} was not trained on, and "
                f"the protocol leaves {len(tested)} of '{dataset.name}'; at least {MIN_COMPARED} "
                "are needed",
            )


def notes_on_missing_responses(config: SweepConfig, dataset: PlannedDataset) -> tuple[str, ...]:
    """Which read-outs have in common less than they say, where responses are missing."""
    if not dataset.n_missing:
        return ()
    alike = "neurons that have responses to the same images"
    ridge = any(isinstance(one, RidgeReadout) and one.alpha == "shared" for one in config.readouts)
    pls = any(isinstance(one, PlsReadout) and one.neurons == "joint" for one in config.readouts)
    begins = f"{dataset.n_missing} response(s) are missing, so"
    return (
        *((f"{begins} alpha: shared is one penalty for each set of {alike}",) if ridge else ()),
        *((f"{begins} neurons: joint is one model for each set of {alike}",) if pls else ()),
    )


def notes_on_similarities(
    config: SweepConfig, dataset: PlannedDataset, networks: Sequence[PlannedNetwork]
) -> tuple[str, ...]:
    """Which images similarities are of, where these are not all."""
    names = dict.fromkeys(
        network.weights
        for network in networks
        if network.trained and network.is_for(dataset) and network.trained.has_seen(dataset)
    )
    if not names or all(one.kind not in SIMILARITY_KINDS for one in config.readouts):
        return ()
    which = f"{len(dataset.tested_ids())} " if dataset.splits else ""
    return (
        f"rdm and cka of {', '.join(names)} are of the {which}test images only, unseen by them",
    )
