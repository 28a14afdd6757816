"""What changes nothing about the data changes no score, for every read-out that a config names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter

from toolkit.config import ReadoutConfig
from toolkit.encoding import LayerEncoder, Readout, ReadoutScores, outer_splits
from toolkit.encoding.gram import layer_statistics
from toolkit.encoding.similarity import compare_representations
from toolkit.metrics import mean_over_splits, summarise

N_IMAGES, N_NEURONS, N_OBJECTS = 40, 4, 5
OBJECTS = tuple("abcde"[i % N_OBJECTS] for i in range(N_IMAGES))

ENTRIES: tuple[dict[str, Any], ...] = (
    {"kind": "ridge"},
    {"kind": "ridge", "n_components": 6},
    {"kind": "ridge", "folds": "leave_one_out"},
    {"kind": "ridge", "alpha": "shared"},
    {"kind": "linear", "n_components": 6},
    {"kind": "linear"},
    {"kind": "pls", "n_components": 3},
    {"kind": "pls", "n_components": 3, "neurons": "separate"},
)
SIMILARITIES: tuple[dict[str, Any], ...] = (
    {"kind": "cka"},
    *(
        {"kind": "rdm", "distance": distance, "comparison": comparison, "level": level}
        for distance in ("correlation", "euclidean", "cosine")
        for comparison in ("spearman", "pearson", "kendall_tau_a")
        for level in ("image", "object")
    ),
)
PROTOCOLS: tuple[dict[str, Any], ...] = (
    {"kind": "fixed", "train": "train", "test": "val"},
    {"kind": "leave_one_object_out"},
)


def params_of(entry: dict[str, Any]) -> dict[str, Any]:
    """The parameters that a task has of a read-out written in a config."""
    config: ReadoutConfig = TypeAdapter(ReadoutConfig).validate_python(entry)
    [(_, params)] = config.variants(0)
    return params


def readout_of(entry: dict[str, Any]) -> Readout:
    params = params_of(entry)
    return Readout(**{**params, "alphas": tuple(params.get("alphas", ()))})


def recorded(seed: int, n_neurons: int = N_NEURONS) -> tuple[NDArray, NDArray]:
    """Features, more of them than images, and responses that depend on them."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(N_IMAGES, 60)) * np.arange(1, 61) ** -0.5
    tuning = random.normal(size=(60, n_neurons))
    return features, features @ tuning + random.normal(size=(N_IMAGES, n_neurons)) + 3


def statistics_of(features: NDArray):  # type: ignore[no-untyped-def]
    return layer_statistics(lambda columns: features[:, columns], [slice(0, 60)], len(features))


def scores_of(
    entry: dict[str, Any],
    features: NDArray,
    responses: NDArray,
    protocol: dict[str, Any],
    order: NDArray[np.intp] | None = None,
) -> ReadoutScores:
    """Scores of images that come in another order, with their splits and objects."""
    order = np.arange(N_IMAGES) if order is None else order
    place = np.argsort(order)
    rows = outer_splits(
        protocol,
        n_stimuli=N_IMAGES,
        splits={"train": np.sort(place[:28]), "val": np.sort(place[28:])},
        object_names=[OBJECTS[i] for i in order],
    )
    encoder = LayerEncoder(statistics_of(features[order]).gram, responses[order], n_threads=1)
    return encoder.score(readout_of(entry), rows)


def folds_are_by_position(entry: dict[str, Any]) -> bool:
    """Whether penalties are chosen on folds, which are cut by the position of images."""
    return entry["kind"] == "ridge" and entry.get("folds") != "leave_one_out"


def assert_same(scores: ReadoutScores, other: ReadoutScores, neurons=slice(None)) -> None:
    for name in ("ev", "r", "r2", "mse", "alpha"):
        ours, theirs = getattr(scores, name)[:, neurons], getattr(other, name)
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-7, err_msg=name)


each_readout = pytest.mark.parametrize(
    "entry", ENTRIES, ids=lambda e: "-".join(map(str, e.values()))
)
each_similarity = pytest.mark.parametrize(
    "entry", SIMILARITIES, ids=lambda e: "-".join(map(str, e.values()))
)
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p["kind"])
few = settings(max_examples=6, deadline=None)
seeds = st.integers(0, 2**16)


def test_every_kind_of_read_out_is_here() -> None:
    kinds = {
        option.model_fields["kind"].annotation.__args__[0]
        for option in ReadoutConfig.__args__[0].__args__
    }
    assert {entry["kind"] for entry in (*ENTRIES, *SIMILARITIES)} == kinds


@each_readout
@each_protocol
@few
@given(seed=seeds, order=st.permutations(range(N_NEURONS)))
def test_neurons_in_another_order_have_their_scores(entry, protocol, seed, order) -> None:
    features, responses = recorded(seed)
    scores = scores_of(entry, features, responses, protocol)
    permuted = scores_of(entry, features, responses[:, order], protocol)
    for name in ("ev", "r", "r2", "mse", "alpha"):
        np.testing.assert_allclose(
            getattr(permuted, name), getattr(scores, name)[:, order], rtol=1e-7, atol=1e-7
        )
    ours, theirs = summarise(permuted.r), summarise(scores.r)
    assert (ours.mean, ours.median) == pytest.approx((theirs.mean, theirs.median), abs=1e-7)


@each_readout
@each_protocol
@few
@given(seed=seeds, random=st.randoms(use_true_random=False))
def test_images_in_another_order_give_the_same_scores(entry, protocol, seed, random) -> None:
    if folds_are_by_position(entry):
        entry = entry | {"alphas": [1.0]}
    order = np.arange(N_IMAGES)
    random.shuffle(order)
    features, responses = recorded(seed)
    scores = scores_of(entry, features, responses, protocol)
    assert_same(scores_of(entry, features, responses, protocol, order), scores)


@each_readout
@each_protocol
@few
@given(seed=seeds)
def test_a_further_neuron_changes_no_other(entry, protocol, seed) -> None:
    if entry.get("alpha") == "shared" or entry == {"kind": "pls", "n_components": 3}:
        pytest.skip("fitted together")
    features, responses = recorded(seed, N_NEURONS + 1)
    more = scores_of(entry, features, responses, protocol)
    scores = scores_of(entry, features, responses[:, :-1], protocol)
    assert_same(more, scores, slice(-1))


@each_readout
@each_protocol
@few
@given(seed=seeds, unit=st.sampled_from([1e-4, 0.5, 1e5]), shift=st.floats(-100, 100))
def test_units_of_features_and_offsets_of_responses_do_not_matter(
    entry, protocol, seed, unit, shift
) -> None:
    features, responses = recorded(seed)
    scores = scores_of(entry, features, responses, protocol)
    other = scores_of(entry, unit * features, responses + shift, protocol)
    for name in ("ev", "r", "r2", "mse"):
        np.testing.assert_allclose(
            getattr(other, name), getattr(scores, name), rtol=1e-6, atol=1e-6, err_msg=name
        )


@each_readout
@few
@given(seed=seeds, neuron=st.integers(0, N_NEURONS - 1))
def test_a_neuron_silent_in_one_test_set_keeps_its_other_scores(entry, seed, neuron) -> None:
    """Objects are held out in turn, and it responds to the images of one object alike."""
    features, responses = recorded(seed)
    silent = [i for i, name in enumerate(OBJECTS) if name == "a"]
    responses[silent, neuron] = 1.0
    scores = scores_of(entry, features, responses, PROTOCOLS[1])
    assert np.isnan(scores.r[0, neuron]) and np.isfinite(scores.r[1:, neuron]).all()
    expected = scores.r[1:, neuron].mean()
    assert mean_over_splits(scores.r)[neuron] == pytest.approx(expected, rel=1e-12)


@each_similarity
@few
@given(
    seed=seeds,
    neurons=st.permutations(range(N_NEURONS)),
    random=st.randoms(use_true_random=False),
    unit=st.sampled_from([1e-4, 0.5, 1e5]),
)
def test_similarities_know_neither_order_nor_unit(entry, seed, neurons, random, unit) -> None:
    features, responses = recorded(seed)
    order = np.arange(N_IMAGES)
    random.shuffle(order)
    params = params_of(entry)
    found = compare_representations(
        statistics_of(features), responses, params, object_names=OBJECTS
    )
    other = compare_representations(
        statistics_of(unit * features[order]),
        responses[order][:, neurons],
        params,
        object_names=[OBJECTS[i] for i in order],
    )
    assert other == pytest.approx(found, abs=1e-9)
