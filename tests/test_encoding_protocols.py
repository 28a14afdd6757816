"""Splits: the data set's own, seeded folds, and the ones that are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from toolkit.encoding import ProtocolError, outer_splits
from toolkit.encoding.protocols import check_split

SPLITS = {"train": np.arange(0, 15), "val": np.arange(15, 20)}


def splits_of(protocol, splits=SPLITS):
    return outer_splits(protocol, n_stimuli=20, splits=splits, object_names=None)


def test_fixed_gives_the_named_splits():
    ((train, test),) = splits_of({"kind": "fixed", "train": "train", "test": "val"})
    np.testing.assert_array_equal(train, SPLITS["train"])
    np.testing.assert_array_equal(test, SPLITS["val"])


def test_a_split_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(ProtocolError, match="no split 'test'; it has train, val") as raised:
        splits_of({"kind": "fixed", "train": "train", "test": "test"})
    assert raised.value.error_class == "bad_protocol"
    with pytest.raises(ProtocolError, match="kfold"):
        splits_of({"kind": "fixed", "train": "train", "test": "val"}, splits={})


def test_kfold_tests_every_image_once_and_follows_its_seed():
    folds = splits_of({"kind": "kfold", "n_splits": 6, "seed": 3})
    np.testing.assert_array_equal(np.sort(np.concatenate([t for _, t in folds])), np.arange(20))
    for train, test in folds:
        np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(20))
    again = splits_of({"kind": "kfold", "n_splits": 6, "seed": 3})
    other = splits_of({"kind": "kfold", "n_splits": 6, "seed": 4})
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(folds, again, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(folds, other, strict=True))


@pytest.mark.parametrize("n_splits", [1, 21])
def test_more_folds_than_images_are_refused(n_splits):
    with pytest.raises(ProtocolError, match=f"n_splits is {n_splits}.*2 to 20"):
        splits_of({"kind": "kfold", "n_splits": n_splits, "seed": 0})


def test_an_unknown_kind_is_refused():
    with pytest.raises(ProtocolError, match=r"'holdout'.*'fixed', 'kfold'"):
        splits_of({"kind": "holdout"})


@pytest.mark.parametrize(
    "train, test, message",
    [
        ([0, 1, 2], [2, 3], "in both training and test, the first is row 2"),
        ([0, 1, 1], [2, 3], "appears twice"),
        ([0, 1, 2], [3, 20], "run from 0 to 20, but there are 20 images"),
        ([-1, 1, 2], [3, 4], "run from -1"),
        ([0, 1, 2], [3], "at least two"),
        ([0, 1, 2], [], "at least two"),
    ],
)
def test_splits_that_would_give_wrong_scores_are_refused(train, test, message):
    with pytest.raises(ProtocolError, match=message):
        check_split(np.array(train, dtype=int), np.array(test, dtype=int), 20)


OBJECTS = ("car", "face") * 10


def by_object(protocol, object_names=OBJECTS):
    return outer_splits(protocol, n_stimuli=20, splits={}, object_names=object_names)


def test_stratified_splits_are_brain_scores():
    protocol = {"kind": "stratified", "n_splits": 10, "train_size": 0.9, "seed": 1}
    peer = StratifiedShuffleSplit(10, train_size=0.9, random_state=1)
    expected = peer.split(np.zeros(20), np.array(OBJECTS))
    for (train, test), (peer_train, peer_test) in zip(by_object(protocol), expected, strict=True):
        np.testing.assert_array_equal(train, peer_train)
        np.testing.assert_array_equal(test, peer_test)
        assert sorted(OBJECTS[i] for i in test) == ["car", "face"]


def test_each_object_is_left_out_once():
    splits = by_object({"kind": "leave_one_object_out"})
    assert [{OBJECTS[i] for i in test} for _, test in splits] == [{"car"}, {"face"}]
    assert all(not {OBJECTS[i] for i in a} & {OBJECTS[i] for i in b} for a, b in splits)


@pytest.mark.parametrize("object_names", [None, ("car",) * 20])
def test_protocols_by_object_need_objects(object_names):
    with pytest.raises(ProtocolError, match="at least two objects"):
        by_object({"kind": "leave_one_object_out"}, object_names)


def test_an_object_with_one_image_cannot_be_stratified():
    protocol = {"kind": "stratified", "n_splits": 3, "train_size": 0.9, "seed": 1}
    with pytest.raises(ProtocolError, match="cannot be stratified"):
        by_object(protocol, ("car",) * 19 + ("face",))


@given(
    objects=st.lists(st.sampled_from("abcdefg"), min_size=12, max_size=40).filter(
        lambda names: len(set(names)) >= 4
    ),
    seed=st.integers(0, 99),
)
def test_folds_by_object_divide_no_object(objects, seed):
    protocol = {"kind": "kfold", "n_splits": 4, "seed": seed, "by": "object"}
    folds = outer_splits(protocol, n_stimuli=len(objects), splits={}, object_names=objects)
    tested = np.concatenate([test for _, test in folds])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(objects)))
    for train, test in folds:
        assert len(train) + len(test) == len(objects)
        assert not {objects[i] for i in train} & {objects[i] for i in test}


def test_more_folds_than_objects_are_refused():
    protocol = {"kind": "kfold", "n_splits": 3, "seed": 0, "by": "object"}
    with pytest.raises(ProtocolError, match="n_splits is 3, but 2 objects"):
        by_object(protocol)
    with pytest.raises(ProtocolError, match="at least two objects"):
        by_object(protocol, object_names=None)
