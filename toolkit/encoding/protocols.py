"""Which images a read-out is fitted on and which it is scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.encoding.errors import ProtocolError

Split = tuple[NDArray[np.intp], NDArray[np.intp]]


def outer_splits(
    protocol: Mapping[str, Any],
    *,
    n_stimuli: int,
    splits: Mapping[str, NDArray[np.integer]],
    object_names: Sequence[str] | None,
) -> list[Split]:
    """Pairs of (training, test) row numbers.

    Parameters
    ----------
    protocol
        ``{"kind": "fixed", "train": "train", "test": "val"}``: the data set's own splits of these
        names. ``{"kind": "kfold", "n_splits": 5, "seed": 0}``: scikit-learn's ``KFold`` over all
        images, shuffled with this seed; every image is tested once. With ``"by": "object"``: over
        all objects, whose images stay together. ``{"kind": "stratified", "n_splits": 10,
        "train_size": 0.9, "seed": 1}``: ``StratifiedShuffleSplit`` by object, as in Brain-Score's
        MajajHong2015public.IT-pls. ``{"kind": "leave_one_object_out"}``: each object's images are
        the test set once.
    n_stimuli
        Number of images.
    splits
        The data set's own splits, name to row numbers.
    object_names
        Object of each image, for the protocols that go by object.

    Raises
    ------
    ProtocolError
        If the kind is unknown, a named split does not exist, there are fewer images or objects
        than folds, or a protocol that goes by object meets a data set without objects or with too
        few images of one.
    """
    kind = protocol.get("kind")
    if kind == "fixed":
        return [(_named(splits, protocol["train"]), _named(splits, protocol["test"]))]
    if kind == "kfold":
        if protocol.get("by") == "object":
            objects, object_of = np.unique(_objects(object_names), return_inverse=True)
            held_out = [test for _, test in _folds(protocol, len(objects), "objects")]
            tests = [np.isin(object_of, test) for test in held_out]
            return [(np.flatnonzero(~test), np.flatnonzero(test)) for test in tests]
        return _folds(protocol, n_stimuli, "images")
    if kind == "stratified":
        return _stratified(protocol, n_stimuli, _objects(object_names))
    if kind == "leave_one_object_out":
        from sklearn.model_selection import LeaveOneGroupOut

        return list(LeaveOneGroupOut().split(np.arange(n_stimuli), groups=_objects(object_names)))
    raise ProtocolError(
        f"protocol: kind is {kind!r}; write 'fixed', 'kfold', 'stratified' or "
        "'leave_one_object_out'"
    )


def _folds(protocol: Mapping[str, Any], n: int, what: str) -> list[Split]:
    """Folds of n images or objects."""
    from sklearn.model_selection import KFold

    n_splits = protocol["n_splits"]
    if not 2 <= n_splits <= n:
        raise ProtocolError(
            f"protocol: n_splits is {n_splits}, but {n} {what} can be cut into 2 to {n} folds"
        )
    folds = KFold(n_splits, shuffle=True, random_state=protocol["seed"])
    return list(folds.split(np.arange(n)))


def _stratified(
    protocol: Mapping[str, Any], n_stimuli: int, objects: NDArray[np.str_]
) -> list[Split]:
    from sklearn.model_selection import StratifiedShuffleSplit

    shuffle = StratifiedShuffleSplit(
        protocol["n_splits"], train_size=protocol["train_size"], random_state=protocol["seed"]
    )
    try:
        return list(shuffle.split(np.zeros(n_stimuli), objects))
    except ValueError as error:
        raise ProtocolError(f"protocol: the images cannot be stratified: {error}") from error


def _objects(object_names: Sequence[str] | None) -> NDArray[np.str_]:
    if object_names is None or len(set(object_names)) < 2:
        raise ProtocolError(
            "protocol: the data set does not name at least two objects; give object_name in its "
            "stimulus table, or write kind 'kfold'"
        )
    return np.array(object_names)


def check_split(train: NDArray[np.integer], test: NDArray[np.integer], n_stimuli: int) -> None:
    """Refuse a split that scores an image it was fitted on, or repeats or lacks images.

    Raises
    ------
    ProtocolError
        Saying which of these it is.
    """
    both = np.concatenate([train, test])
    if len(train) < 2 or len(test) < 2:
        raise ProtocolError(
            f"{len(train)} training and {len(test)} test images: each needs at least two"
        )
    if both.min() < 0 or both.max() >= n_stimuli:
        raise ProtocolError(
            f"row numbers run from {both.min()} to {both.max()}, but there are {n_stimuli} images"
        )
    shared = np.intersect1d(train, test)
    if len(shared):
        raise ProtocolError(
            f"{len(shared)} image(s) are in both training and test, the first is row {shared[0]}"
        )
    if len(np.unique(both)) < len(both):
        raise ProtocolError("a row number appears twice within training or within test")


def _named(splits: Mapping[str, NDArray[np.integer]], name: str) -> NDArray[np.intp]:
    if name not in splits:
        known = ", ".join(sorted(splits)) or "none: use kind 'kfold'"
        raise ProtocolError(f"protocol: the data set has no split {name!r}; it has {known}")
    return np.asarray(splits[name], dtype=np.intp)
