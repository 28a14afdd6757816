"""What training must reach, and what it must leave alone, on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_problem import N_TRAIN, SPEC, TRUNK, assignment, bank_of, driven_by, synthetic

from toolkit.metrics import explained_variance
from toolkit.models.network_spec import DecoderSpec, NetworkSpec, ShallowTrunk, ZooTrunk
from toolkit.models.trainable import build_network
from toolkit.training import Assignment, Objective, Optimizer, Recipe, Schedule, predict, train

CEILING = 0.8
FINE_TUNING = Recipe(
    n_epochs=40,
    batch_size=40,
    optimizer=Optimizer("adam", lr=1e-2),
    schedule=Schedule("onecycle", warmup_epochs=10),
    patience=15,
    monitor="ev",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def driven(folder):
    dataset = synthetic()
    return driven_by(SPEC, dataset, bank_of(dataset, folder), CEILING)


def ev_on_test_images(dataset, folder, name):
    rows = dataset.splits["train"]
    given = Assignment(SPEC, FINE_TUNING, dataset, rows, bank_of(dataset, folder))
    result = train(given, folder / name)
    test = dataset.splits["val"]
    predicted = predict(result.trained, given.bank, test).responses
    return explained_variance(dataset.responses[test], predicted).mean()


def test_fine_tuning_reaches_the_ceiling(driven, folder):
    assert ev_on_test_images(driven, folder, "fine-tuned") >= 0.9 * CEILING


def test_shuffled_responses_are_not_predicted(driven, folder):
    responses = driven.responses.copy()
    responses[:N_TRAIN] = np.random.default_rng(0).permutation(responses[:N_TRAIN])
    shuffled = replace(driven, responses=responses)
    assert ev_on_test_images(shuffled, folder, "shuffled") <= 0.02


def weights_of(network, prefix=""):
    return {n: v.clone() for n, v in network.state_dict().items() if n.startswith(prefix)}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


@pytest.mark.parametrize("kind", ["object", "category"])
def test_weight_zero_on_classification_is_neural_only_bit_for_bit(tmp_path, kind):
    spec = NetworkSpec(ShallowTrunk((4, 8), normalised=True, dropout=0.2, input_px=32), seed=1)
    alone = Recipe(3, batch_size=16, max_grad_norm=0.5, optimizer=Optimizer("adamw", 1e-2, 1e-2))
    joint = replace(alone, objectives=(Objective("mse"), Objective(kind, weight=0.0)))
    results = [
        train(assignment(tmp_path, recipe, spec), tmp_path / str(index))
        for index, recipe in enumerate((alone, joint))
    ]
    neural, both = (weights_of(result.trained.network) for result in results)
    assert_same(neural, {name: value for name, value in both.items() if name in neural})
    assert [row["val_mse"] for row in results[0].curve] == [
        row["val_mse"] for row in results[1].curve
    ]
    assert results[1].curve[0][f"val_{kind}"] > 0
    assert results[1].curve[0]["val_loss"] == results[1].curve[0]["val_mse"]


TRUNKS = [
    ShallowTrunk((4, 8), normalised=True, dropout=0.2, input_px=32),
    ZooTrunk("torchvision", "resnet18", "random", input_px=32),
    ZooTrunk("torchvision", "vgg11_bn", "random", n_blocks=2, input_px=32),
]


@pytest.mark.parametrize("trunk", TRUNKS, ids=["shallow", "resnet18", "vgg11_bn-2"])
def test_a_frozen_trunk_changes_no_weight_and_no_statistic(tmp_path, trunk):
    spec = NetworkSpec(trunk, DecoderSpec(pool_px=None), n_trained_stages=0, seed=1)
    recipe = Recipe(1, batch_size=16, optimizer=Optimizer("adamw", 1e-2, weight_decay=0.1))
    before = build_network(spec, n_neurons=10, n_classes={})
    result = train(assignment(tmp_path, recipe, spec), tmp_path / "frozen")
    assert_same(weights_of(before, "trunk"), weights_of(result.trained.network, "trunk"))
    decoders = [weights_of(network, "decoder") for network in (before, result.trained.network)]
    assert not any(torch.equal(decoders[0][name], decoders[1][name]) for name in decoders[0])


def test_the_last_stage_alone_changes(tmp_path):
    spec = NetworkSpec(TRUNKS[0], n_trained_stages=1, seed=1)
    recipe = Recipe(1, batch_size=16, optimizer=Optimizer("adamw", 1e-2, weight_decay=0.1))
    before = weights_of(build_network(spec, n_neurons=10, n_classes={}))
    after = weights_of(train(assignment(tmp_path, recipe, spec), tmp_path).trained.network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name in before if name.startswith(("trunk.1", "decoder"))}
    assert changed == trained | {"response_offset", "response_scale"}


@pytest.mark.parametrize("kind", ["object", "category"])
def test_classes_are_learned_and_then_help_as_a_start(tmp_path, kind):
    dataset = synthetic(120, 30)
    spec = NetworkSpec(replace(TRUNK, normalised=True), DecoderSpec(pool_px=1), seed=2)
    recipe = Recipe(
        8,
        batch_size=20,
        objectives=(Objective(kind),),
        optimizer=Optimizer("nadam", 1e-2),
        monitor="accuracy",
    )
    given = assignment(tmp_path, recipe, spec, dataset)
    result = train(given, tmp_path / kind)
    names = dataset.object_names if kind == "object" else dataset.category_names
    predicted = predict(result.trained, given.bank, dataset.splits["train"])
    assert predicted.responses is None
    labels = np.array(result.trained.classes[kind])[predicted.logits[kind].argmax(axis=1)]
    accuracy = (labels == np.array(names)[dataset.splits["train"]]).mean()
    assert accuracy > 2 / len(set(names))

    start = weights_of(result.trained.network, "trunk")
    neural = replace(recipe, objectives=(Objective("mse"),), monitor="ev", n_epochs=1)
    frozen = replace(spec, n_trained_stages=0)
    second = assignment(tmp_path, neural, frozen, dataset, initial=start)
    assert_same(weights_of(train(second, tmp_path / "second").trained.network, "trunk"), start)
