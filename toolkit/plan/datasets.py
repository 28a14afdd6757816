"""From a data set in a config to what planning needs of it: sizes, digests, repeated images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolkit.config import (
    DatasetConfig,
    FixedProtocol,
    KFoldProtocol,
    StratifiedProtocol,
    SweepConfig,
)
from toolkit.yaml_source import KeyPath, Source

if TYPE_CHECKING:
    from toolkit.data import NeuralDataset


@dataclass(frozen=True)
class PlannedDataset:
    """A data set as far as planning needs it.

    Parameters
    ----------
    name, region
        Names in the results.
    loader
        Keyword arguments of :func:`toolkit.data.load`.
    n_stimuli, n_train, n_neuroids
        Sizes; ``n_train`` is the smallest training set of the protocol.
    stimuli_digest, responses_digest
        Content hashes; ``None`` where the files are not on this machine.
    leaking_ids
        Ids of images that are shown both in training and, as an identical copy, in a test.
    n_splits
        Training and test sets of the protocol; None where that needs the files.
    split_names
        Splits of which there are images, with responses or without; None without the files.
    n_classes
        Kind of label → number of classes, of the kinds there are; None without the files.
    notes
        What the loader took for granted, a line each.
    unscored
        Content of the splits without responses that trainings predict: name → digest.
    """

    name: str
    region: str
    loader: dict[str, Any]
    n_stimuli: int
    n_train: int
    n_neuroids: int
    stimuli_digest: str | None
    responses_digest: str | None
    leaking_ids: tuple[str, ...] = ()
    n_splits: int | None = None
    split_names: tuple[str, ...] | None = None
    n_classes: Mapping[str, int] | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    unscored: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_present(self) -> bool:
        """Whether the files are on this machine."""
        return self.stimuli_digest is not None


def plan_dataset(config: SweepConfig, source: Source, index: int) -> PlannedDataset:
    """Load ``config.dataset[index]``, or take its ``sizes`` where its files are not.

    Raises
    ------
    ConfigError
        If it cannot be read, or lacks what the protocol asks for.
    """
    from toolkit import data

    dataset = config.dataset[index]
    at = source.existing(("dataset", index))
    loader = _loader_arguments(dataset, config.seed)
    try:
        loaded = data.load(**loader)
    except FileNotFoundError as error:
        return _plan_from_sizes(config, source, at, dataset, loader, error)
    except (ValueError, OSError) as error:
        raise source.error(at, str(error)) from error
    _refuse_divided_images(config, source, loader)
    sizes = {name: len(rows) for name, rows in loaded.splits.items()}
    n_stimuli = len(loaded.stimuli)
    return PlannedDataset(
        name=dataset.name,
        region="+".join(dict.fromkeys(loaded.regions)),
        loader=loader,
        n_stimuli=n_stimuli,
        n_train=_n_train(config, source, n_stimuli, sizes, loaded.object_names or ()),
        n_neuroids=len(loaded.neuroid_ids),
        stimuli_digest=loaded.stimuli.digest(),
        responses_digest=loaded.responses_digest(),
        leaking_ids=_leaking_ids(config, loaded),
        n_splits=_n_splits(config, loaded.object_names),
        n_classes=_n_classes(loaded),
        split_names=(*loaded.splits, *data.unscored_splits(loader)),
        notes=loaded.notes,
        unscored=_unscored(config, loaded, loader),
    )


def _unscored(
    config: SweepConfig, dataset: NeuralDataset, loader: Mapping[str, Any]
) -> dict[str, str]:
    from toolkit import data

    predicted = {split for training in config.training.values() for split in training.predict}
    return {
        split: data.images_of_split(dataset, split, loader)[0].digest()
        for split in data.unscored_splits(loader)
        if split in predicted
    }


def _n_classes(dataset: NeuralDataset) -> dict[str, int]:
    labels = {"object": dataset.object_names, "category": dataset.category_names}
    return {kind: len(set(names)) for kind, names in labels.items() if names is not None}


def _n_splits(config: SweepConfig, object_names: Sequence[str] | None) -> int | None:
    protocol = config.protocol
    if isinstance(protocol, FixedProtocol):
        return 1
    if isinstance(protocol, KFoldProtocol | StratifiedProtocol):
        return protocol.n_splits
    return None if object_names is None else len(set(object_names))


def _leaking_ids(config: SweepConfig, dataset: NeuralDataset) -> tuple[str, ...]:
    protocol, ids = config.protocol, dataset.stimuli.ids
    if not isinstance(protocol, FixedProtocol):
        return tuple(ids[i] for copies in dataset.stimuli.duplicates() for i in copies)
    train, test = (set(dataset.splits[name].tolist()) for name in (protocol.train, protocol.test))
    return tuple(
        ids[i]
        for copies in dataset.stimuli.duplicates()
        if train & set(copies) and test & set(copies)
        for i in copies
    )


def _loader_arguments(dataset: DatasetConfig, seed: int) -> dict[str, Any]:
    arguments = dataset.model_dump(mode="json", exclude={"sizes"})
    if arguments.get("seed", 0) is None:
        arguments["seed"] = seed
    return arguments


def _plan_from_sizes(
    config: SweepConfig,
    source: Source,
    at: KeyPath,
    dataset: DatasetConfig,
    loader: dict[str, Any],
    error: Exception,
) -> PlannedDataset:
    sizes = getattr(dataset, "sizes", None)
    if sizes is None:
        raise source.error(at, f"{error}; to plan without the files, give 'sizes'") from error
    n_stimuli = sizes.n_stimuli or sum(sizes.splits.values())
    return PlannedDataset(
        name=dataset.name,
        region=getattr(dataset, "region", "IT"),
        loader=loader,
        n_stimuli=n_stimuli,
        n_train=_n_train(config, source, n_stimuli, sizes.splits, None),
        n_neuroids=sizes.n_neuroids,
        stimuli_digest=None,
        responses_digest=None,
        n_splits=_n_splits(config, None),
    )


def _n_train(
    config: SweepConfig,
    source: Source,
    n_stimuli: int,
    sizes: dict[str, int],
    object_names: Sequence[str] | None,
) -> int:
    """Stimuli in the smallest training set of the protocol; by object at least so many."""
    protocol = config.protocol
    if isinstance(protocol, FixedProtocol):
        return _n_train_fixed(protocol, source, sizes)
    if isinstance(protocol, KFoldProtocol) and protocol.by == "stimulus":
        _refuse_too_many_folds(protocol, source, n_stimuli, "stimuli")
        return n_stimuli - -(-n_stimuli // protocol.n_splits)
    if object_names is not None and len(set(object_names)) < 2:
        raise source.error(("protocol", "kind"), "the data set has fewer than two objects")
    if isinstance(protocol, StratifiedProtocol):
        return int(protocol.train_size * n_stimuli)
    if not object_names:
        return n_stimuli - 1
    by_size = sorted(Counter(object_names).values(), reverse=True)
    n_held_out = 1
    if isinstance(protocol, KFoldProtocol):
        _refuse_too_many_folds(protocol, source, len(by_size), "objects")
        n_held_out = -(-len(by_size) // protocol.n_splits)
    return n_stimuli - sum(by_size[:n_held_out])


def _refuse_too_many_folds(protocol: KFoldProtocol, source: Source, n: int, what: str) -> None:
    if protocol.n_splits > n:
        raise source.error(("protocol", "n_splits"), f"{protocol.n_splits} folds of {n} {what}")


def _refuse_divided_images(config: SweepConfig, source: Source, loader: Mapping[str, Any]) -> None:
    """Folds over fixations would test patches of images that were trained on."""
    protocol = config.protocol
    if loader.get("align") != "fixation" or isinstance(protocol, FixedProtocol):
        return
    if isinstance(protocol, StratifiedProtocol) or getattr(protocol, "by", "") == "stimulus":
        raise source.error(
            source.existing(("protocol", "kind")),
            "an image has several fixations, which would be in training and in test; write "
            "protocol: {kind: kfold, by: object}, or fixed with a label_table that has splits",
        )


def _n_train_fixed(protocol: FixedProtocol, source: Source, sizes: dict[str, int]) -> int:
    for key, split in (("train", protocol.train), ("test", protocol.test)):
        if split not in sizes:
            have = ", ".join(sizes) or "none: use protocol: {kind: kfold}"
            raise source.error(
                ("protocol", key), f"the data set has no split '{split}'; it has {have}"
            )
    return sizes[protocol.train]
