"""From a data set in a config to what planning needs of it: sizes, digests, repeated images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.config import (
    DatasetConfig,
    FixedProtocol,
    KFoldProtocol,
    StratifiedProtocol,
    SweepConfig,
    are_trained_here,
)
from toolkit.plan.identity import how_to_score
from toolkit.yaml_source import ConfigError, KeyPath, Source

if TYPE_CHECKING:
    from toolkit.data import NeuralDataset
    from toolkit.encoding.protocols import Split

# Of two images r is 1 or -1 whatever is predicted.
_FEWEST_TESTED = 3


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
        What the loader took for granted, and what is odd about the images, a line each.
    framed
        Whether the images show exactly what a network should see.
    sizes_px
        Height and width of images that networks crop; empty if framed, or without the files.
    stimulus_ids, images
        Id of each image, and what :meth:`toolkit.data.Stimuli.image_digests` says of its content.
    splits
        Training and test rows of the protocol. These three are empty without the files, and where
        no network of the config has been or will be trained.
    unscored
        Content of the splits without responses that trainings predict: name → digest.
    n_missing
        Responses that are missing; 0 without the files.
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
    framed: bool = False
    sizes_px: frozenset[tuple[int, int]] = frozenset()
    stimulus_ids: tuple[str, ...] = field(default=(), repr=False)
    images: tuple[str, ...] = field(default=(), repr=False)
    splits: tuple[Split, ...] = field(default=(), repr=False, compare=False)
    unscored: Mapping[str, str] = field(default_factory=dict)
    n_missing: int = 0

    @property
    def is_present(self) -> bool:
        """Whether the files are on this machine."""
        return self.stimuli_digest is not None

    def images_for_training(self, fold: int) -> frozenset[str]:
        """Content of the images that may be trained on in a split of the protocol."""
        if not self.splits:
            return frozenset()
        train, _ = self.splits[fold]
        return frozenset(self.images[row] for row in train)

    def tested_ids(
        self, images: Collection[str] | None = None, fold: int | None = None
    ) -> list[str]:
        """Ids of the images that are tested: of all, or of these, in any split or in one."""
        splits = self.splits if fold is None else self.splits[fold : fold + 1]
        rows = sorted({int(row) for _, test in splits for row in test})
        return [
            self.stimulus_ids[row] for row in rows if images is None or self.images[row] in images
        ]


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
        stimuli, stimuli_digest = loaded.stimuli, loaded.stimuli.digest()
        remarks = stimuli.remarks()
        sizes_px = frozenset() if stimuli.framed else frozenset(stimuli.sizes_px())
    except FileNotFoundError as error:
        return _plan_from_sizes(config, source, at, dataset, loader, error)
    except (ValueError, OSError) as error:
        raise source.error(at, str(error)) from error
    _refuse_divided_images(config, source, loader)
    sizes = {name: len(rows) for name, rows in loaded.splits.items()}
    n_stimuli = len(stimuli)
    refuse_few_tested(config, source, n_stimuli, sizes, loaded.object_names or ())
    return PlannedDataset(
        name=dataset.name,
        region="+".join(dict.fromkeys(loaded.regions)),
        loader=loader,
        n_stimuli=n_stimuli,
        n_train=_n_train(config, source, n_stimuli, sizes, loaded.object_names or ()),
        n_neuroids=len(loaded.neuroid_ids),
        stimuli_digest=stimuli_digest,
        responses_digest=loaded.responses_digest(),
        leaking_ids=_leaking_ids(config, loaded),
        n_splits=_n_splits(config, loaded.object_names),
        n_classes=_n_classes(loaded),
        split_names=(*loaded.splits, *data.unscored_splits(loader)),
        notes=(*loaded.notes, *remarks),
        framed=stimuli.framed,
        sizes_px=sizes_px,
        unscored=_unscored(config, loaded, loader),
        n_missing=int(np.isnan(loaded.responses).sum()),
        **(_rows(config, source, loaded) if _has_trained_networks(config) else {}),
    )


def _has_trained_networks(config: SweepConfig) -> bool:
    used = (weights for model in config.models for weights in model.weights)
    return bool(config.training) or any(map(are_trained_here, used))


def _rows(config: SweepConfig, source: Source, dataset: NeuralDataset) -> dict[str, Any]:
    from toolkit.encoding.protocols import ProtocolError, outer_splits

    try:
        splits = outer_splits(
            how_to_score(config)["protocol"],
            n_stimuli=len(dataset.stimuli),
            splits=dataset.splits,
            object_names=dataset.object_names,
        )
    except ProtocolError as error:
        raise source.error(source.existing(("protocol",)), str(error)) from error
    return {
        "stimulus_ids": dataset.stimuli.ids,
        "images": dataset.stimuli.image_digests(),
        "splits": tuple(splits),
    }


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
    refuse_few_tested(config, source, n_stimuli, sizes.splits, ())
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


def refuse_few_tested(
    config: SweepConfig,
    source: Source,
    n_stimuli: int,
    sizes: Mapping[str, int],
    object_names: Sequence[str],
) -> None:
    """Test sets too small for a correlation, and objects that cannot be divided.

    Read-outs that predict need them, as do trainings; similarities have no protocol.

    Parameters
    ----------
    config, source
        Whose protocol.
    n_stimuli, sizes, object_names
        Of the data set: images in all and in each split, and the object of each image; empty where
        there are none or they are not known.

    Raises
    ------
    ConfigError
        Saying what to write instead.
    """
    predicts = any(one.kind not in ("rdm", "cka") for one in config.readouts)
    if not (predicts or config.training):
        return
    protocol, images_of = config.protocol, Counter(object_names)
    least = min(images_of.values(), default=0)
    rarest = [name for name, count in images_of.items() if count == least]
    named = f"{least} image(s) of object {rarest[0]!r}" if rarest else ""
    advice = f"r needs {_FEWEST_TESTED} or more; write "
    if isinstance(protocol, FixedProtocol):
        n_tested = sizes.get(protocol.test, _FEWEST_TESTED)
        if n_tested < _FEWEST_TESTED:
            raise source.error(
                source.existing(("protocol", "test")),
                f"split '{protocol.test}' has {n_tested} image(s), but {advice}a larger split, or "
                "protocol: {kind: kfold}",
            )
    elif isinstance(protocol, KFoldProtocol) and protocol.by == "stimulus":
        n_tested = n_stimuli // protocol.n_splits
        if 0 < n_tested < _FEWEST_TESTED:
            raise source.error(
                source.existing(("protocol", "n_splits")),
                f"{protocol.n_splits} folds of {n_stimuli} images test {n_tested} at a time, but "
                f"{advice}at most {n_stimuli // _FEWEST_TESTED} folds",
            )
    elif isinstance(protocol, KFoldProtocol):
        n_objects = len(images_of) // protocol.n_splits
        n_tested = sum(sorted(images_of.values())[:n_objects])
        if n_objects and n_tested < _FEWEST_TESTED:
            raise source.error(
                source.existing(("protocol", "n_splits")),
                f"a fold of {n_objects} of {len(images_of)} objects may have {n_tested} image(s) "
                f"({named}), but {advice}fewer folds",
            )
    elif isinstance(protocol, StratifiedProtocol):
        _refuse_unstratified(protocol, source, n_stimuli, len(images_of), least, named)
    elif images_of and least < _FEWEST_TESTED:
        raise source.error(
            source.existing(("protocol", "kind")),
            f"the test set would be {named}, but {advice}"
            "protocol: {kind: kfold, by: object}, or leave out objects with fewer images",
        )


def _refuse_unstratified(
    protocol: StratifiedProtocol,
    source: Source,
    n_stimuli: int,
    n_objects: int,
    least: int,
    named: str,
) -> None:
    """What scikit-learn's StratifiedShuffleSplit cannot divide."""
    if n_objects < 2:
        return
    if least < 2:
        raise source.error(
            source.existing(("protocol", "kind")),
            f"{named} cannot be in training and in test; write protocol: {{kind: kfold}}, or leave "
            "out objects with a single image",
        )
    n_train = int(protocol.train_size * n_stimuli)
    least_tested = max(n_objects, _FEWEST_TESTED)
    if not n_objects <= n_train <= n_stimuli - least_tested:
        low, high = n_objects / n_stimuli, 1 - least_tested / n_stimuli
        write = f"{low:.3g} to {high:.3g}" if low <= high else "protocol: {kind: kfold}"
        raise source.error(
            source.existing(("protocol", "train_size")),
            f"{protocol.train_size:g} of {n_stimuli} images leaves {n_train} to fit and "
            f"{n_stimuli - n_train} to test, but {n_objects} objects need {n_objects} and "
            f"{least_tested}; write {write}",
        )


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
    if protocol.train == protocol.test:
        others = [split for split in sizes if split != protocol.train]
        write = f"another split ({', '.join(others)})" if others else "protocol: {kind: kfold}"
        raise source.error(
            source.existing(("protocol", "test")),
            f"train and test are both '{protocol.test}', so what is fitted would be tested on the "
            f"same images; write {write}",
        )
    have = ", ".join(sizes) or "none: use protocol: {kind: kfold}"
    if problems := [
        source.problem(("protocol", key), f"the data set has no split '{split}'; it has {have}")
        for key, split in (("train", protocol.train), ("test", protocol.test))
        if split not in sizes
    ]:
        raise ConfigError(problems)
    return sizes[protocol.train]
