import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_problem import PX, SPEC, TRUNK, assignment, bank_of, synthetic

from toolkit.metrics import explained_variance, pearson_r
from toolkit.models import ModelError
from toolkit.models.decoders import DecoderTooLargeError
from toolkit.models.network_spec import DecoderSpec, NetworkSpec, ShallowTrunk, ZooTrunk
from toolkit.models.trainable import Outputs
from toolkit.training import (
    Assignment,
    Checkpoints,
    DivergedError,
    Objective,
    Optimizer,
    OtherTrainingError,
    Recipe,
    RecipeError,
    Running,
    StoppedError,
    TrainingDataError,
    WeightsFileError,
    load_trained,
    predict,
    train,
)
from toolkit.training.objectives import loss_terms
from toolkit.training.preparation import carve_validation, targets_of

RECIPE = Recipe(3, batch_size=16, optimizer=Optimizer("adam", 1e-2))


def state_of(result):
    return result.trained.network.state_dict()


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_the_curve_has_every_component_of_every_epoch(tmp_path):
    objectives = (Objective("correlation", 0.3), Objective("category", 2.0), Objective("mse", 0))
    recipe = replace(RECIPE, objectives=objectives)
    result = train(assignment(tmp_path, recipe), tmp_path)
    assert [row["epoch"] for row in result.curve] == [0, 1, 2]
    for row in result.curve:
        for split in ("train", "val"):
            weighted = 0.3 * row[f"{split}_correlation"] + 2 * row[f"{split}_category"]
            assert row[f"{split}_loss"] == pytest.approx(weighted)
            assert row[f"{split}_mse"] > 0
        assert row["lr"] == 1e-2 and row["seconds"] > 0
        assert {"val_ev", "val_r", "val_accuracy", "val_accuracy_category", "is_best"} <= row.keys()
    losses = [row["val_loss"] for row in result.curve]
    assert result.best_epoch == int(np.argmin(losses))


def test_validation_scores_are_those_of_the_best_weights(tmp_path):
    given = assignment(tmp_path, replace(RECIPE, monitor="ev", n_epochs=5))
    result = train(given, tmp_path)
    _, validation = carve_validation(given.rows, given.recipe)
    measured = given.dataset.responses[validation]
    predicted = predict(result.trained, given.bank, validation).responses
    best = result.curve[result.best_epoch]
    assert best["val_ev"] == pytest.approx(explained_variance(measured, predicted).mean(), abs=1e-5)
    assert best["val_r"] == pytest.approx(pearson_r(measured, predicted).mean(), abs=1e-5)
    assert best["val_ev"] == max(row["val_ev"] for row in result.curve)


def test_patience_ends_training_and_the_best_epoch_is_kept(tmp_path):
    noise = synthetic(60, 20)
    noise = replace(noise, responses=np.random.default_rng(0).normal(size=noise.responses.shape))
    patient = replace(RECIPE, n_epochs=50, patience=3, optimizer=Optimizer("adam", 3e-2))
    result = train(assignment(tmp_path, patient, dataset=noise), tmp_path / "patient")
    assert len(result.curve) == result.best_epoch + 1 + 3 < 50
    short = replace(patient, n_epochs=result.best_epoch + 1)
    again = train(assignment(tmp_path, short, dataset=noise), tmp_path / "short")
    assert same(state_of(result), state_of(again))


def test_without_validation_images_the_last_epoch_is_kept(tmp_path):
    result = train(assignment(tmp_path, replace(RECIPE, validation_share=0)), tmp_path)
    assert result.best_epoch == 2
    assert "val_loss" not in result.curve[0]


def test_images_that_are_reported_have_no_influence(tmp_path):
    dataset = synthetic(60, 20)
    changed = dataset.responses.copy()
    changed[dataset.splits["val"]] *= -3
    results = [
        train(assignment(tmp_path, RECIPE, dataset=replace(dataset, responses=r)), tmp_path / name)
        for name, r in (("as it is", dataset.responses), ("changed", changed))
    ]
    assert same(state_of(results[0]), state_of(results[1]))


def test_missing_responses_are_masked(tmp_path):
    dataset = synthetic(60, 20)
    responses = dataset.responses.copy()
    responses[::3, 0] = np.nan
    responses[:, 1] = np.nan
    masked = replace(dataset, responses=responses, repetitions=None, masks_missing=True)
    given = assignment(tmp_path, RECIPE, dataset=masked)
    result = train(given, tmp_path)
    assert all(np.isfinite(row["val_ev"]) for row in result.curve)
    assert np.isfinite(predict(result.trained, given.bank, given.rows).responses).all()


def test_poisson_predicts_rates(tmp_path):
    dataset = synthetic(60, 20)
    counts = np.random.default_rng(0).poisson(dataset.responses.clip(min=0)).astype(float)
    recipe = replace(RECIPE, objectives=(Objective("poisson"),))
    given = assignment(tmp_path, recipe, dataset=replace(dataset, responses=counts))
    result = train(given, tmp_path)
    rates = predict(result.trained, given.bank, given.rows).responses
    assert (rates > 0).all()
    assert rates.mean() == pytest.approx(counts[given.rows].mean(), rel=0.3)
    negative = replace(dataset, responses=counts - 1)
    with pytest.raises(TrainingDataError, match=r"poisson needs rates, but neuron .* mse"):
        train(assignment(tmp_path, recipe, dataset=negative), tmp_path / "negative")


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"precision": "float16", "max_grad_norm": 1.0},
        {"channels_last": True},
        {"standardise": False},
        {"optimizer": Optimizer("sgd", 1e-2, 1e-4, momentum=0.9)},
        {"optimizer": Optimizer("nadam", 1e-3)},
    ],
    ids=str,
)
def test_ways_to_train_that_lower_the_loss(tmp_path, changes):
    spec = NetworkSpec(replace(TRUNK, normalised=True), DecoderSpec(pool_px=1), seed=1)
    result = train(assignment(tmp_path, replace(RECIPE, **changes), spec), tmp_path)
    losses = [row["train_loss"] for row in result.curve]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        NetworkSpec(TRUNK, DecoderSpec("factorised")),
        NetworkSpec(TRUNK, DecoderSpec(hidden=(20, 20), dropout=0.5)),
        NetworkSpec(ZooTrunk("torchvision", "resnet18", "random", layer="layer1", input_px=PX)),
    ],
    ids=["pooled", "factorised", "hidden", "resnet18-layer1"],
)
def test_a_network_is_saved_with_all_that_is_needed_to_use_it(tmp_path, spec):
    recipe = replace(RECIPE, n_epochs=1, objectives=(Objective("mse"), Objective("object")))
    given = assignment(tmp_path, recipe, spec)
    result = train(given, tmp_path / "run")
    found = load_trained(result.path)
    assert found.spec == spec
    assert found.neuroid_ids == given.dataset.neuroid_ids
    assert found.classes["object"] == tuple(sorted(set(given.dataset.object_names)))
    assert found.about["recipe"] == recipe.to_plain()
    rows = np.array([70, 3, 41])
    expected, again = (predict(t, given.bank, rows) for t in (result.trained, found))
    assert np.array_equal(again.responses, expected.responses)
    assert np.array_equal(again.logits["object"], expected.logits["object"])
    feature_source = found.trunk()
    assert feature_source.preprocessing == given.bank.preprocessing
    assert not any(p.requires_grad for p in feature_source.module.parameters())


def test_files_that_hold_no_trained_network(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsFileError, match="not of a network trained here"):
        load_trained(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    with pytest.raises(WeightsFileError, match="is damaged"):
        load_trained(tmp_path / "text.safetensors")


def test_images_prepared_for_another_network_are_refused(tmp_path):
    result = train(assignment(tmp_path, replace(RECIPE, n_epochs=1)), tmp_path)
    other = bank_of(synthetic(8, 2), tmp_path, NetworkSpec(ShallowTrunk((4,), input_px=48)))
    with pytest.raises(ValueError, match="the network needs"):
        predict(result.trained, other, np.arange(3))


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path):
    recipe = replace(RECIPE, validation_share=0.2, n_epochs=4)
    given = assignment(tmp_path, recipe)
    undisturbed = train(given, tmp_path / "undisturbed")
    steps = []

    def stopping_at(step):
        return Running(
            progress=lambda done, total: steps.append((done, total)),
            should_stop=lambda: steps[-1][0] == step,
        )

    for step in (2, 6):
        with pytest.raises(StoppedError, match="goes on"):
            train(given, tmp_path / "stopped", stopping_at(step))
    finished = train(given, tmp_path / "stopped", stopping_at(None))
    assert [done for done, _ in steps] == list(range(1, 13))
    assert {total for _, total in steps} == {12}
    assert same(state_of(finished), state_of(undisturbed))
    assert finished.path.read_bytes() == undisturbed.path.read_bytes()
    n_steps = len(steps)
    assert same(state_of(train(given, tmp_path / "stopped", stopping_at(None))), state_of(finished))
    assert len(steps) == n_steps


def test_a_diverged_training_is_named_and_keeps_its_last_good_checkpoint(tmp_path):
    wild = replace(RECIPE, optimizer=Optimizer("sgd", lr=1e25), n_epochs=20)
    given = assignment(tmp_path, wild)
    with pytest.raises(DivergedError) as caught:
        train(given, tmp_path, Running(checkpoint_interval_s=0))
    assert "no checkpoint" in str(caught.value) or str(tmp_path) in str(caught.value)
    assert "optimizer.lr" in str(caught.value)
    assert caught.value.error_class == "diverged"
    found = Checkpoints(tmp_path, given.identity()).load()
    if found is not None:
        assert all(v.isfinite().all() for v in found["network"].values())
    assert not (tmp_path / "weights.safetensors").exists()


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_before(tmp_path):
    given = assignment(tmp_path, replace(RECIPE, n_epochs=10))
    with pytest.raises(StoppedError):
        train(given, tmp_path, Running(should_stop=lambda: True))
    good = (tmp_path / "checkpoint.pt").read_bytes()
    checkpoints = Checkpoints(tmp_path, given.identity())
    poisoned = checkpoints.load()
    poisoned["optimizer"]["param_groups"][0]["lr"] = float("inf")
    poisoned["scheduler"]["base_lrs"] = [float("inf")]
    checkpoints.save(poisoned)
    with pytest.raises(DivergedError, match=r"not finite|became"):
        train(given, tmp_path, Running(checkpoint_interval_s=0))
    assert checkpoints.before.read_bytes() == good


def test_a_folder_of_another_training_is_refused(tmp_path):
    train(assignment(tmp_path, RECIPE), tmp_path)
    other = replace(RECIPE, batch_size=17)
    with pytest.raises(OtherTrainingError, match=r"recipe.batch_size is 16, not 17"):
        train(assignment(tmp_path, other), tmp_path)


def test_labels_that_are_missing(tmp_path):
    bare = replace(synthetic(60, 20), object_names=None)
    recipe = replace(RECIPE, objectives=(Objective("object"),))
    with pytest.raises(TrainingDataError, match="has no object names"):
        train(assignment(tmp_path, recipe, dataset=bare), tmp_path)
    uniform = replace(bare, object_names=("chair",) * 80)
    with pytest.raises(TrainingDataError, match="the one object 'chair'"):
        train(assignment(tmp_path, recipe, dataset=uniform), tmp_path)


def test_more_classes_than_logits(tmp_path):
    recipe = replace(RECIPE, objectives=(Objective("object"),))
    with pytest.raises(ModelError, match="12 classes of object, more than n_logits: 5"):
        train(assignment(tmp_path, recipe, replace(SPEC, n_logits=5)), tmp_path)


def test_a_decoder_larger_than_memory_is_refused_before_the_start(tmp_path):
    spec = replace(SPEC, decoder=DecoderSpec(hidden=(7000, 7000)))
    with pytest.raises(DecoderTooLargeError, match=r"there are 1,000,000"):
        train(assignment(tmp_path, RECIPE, spec), tmp_path, Running(memory_bytes=10**6))
    assert not list(tmp_path.glob("checkpoint*"))


def test_zero_validation_images(tmp_path):
    with pytest.raises(RecipeError, match="zero validation images"):
        train(assignment(tmp_path, replace(RECIPE, validation_share=1e-3)), tmp_path)


def test_responses_that_are_missing_altogether(tmp_path):
    dataset = synthetic(60, 20)
    responses = np.where(np.arange(80)[:, None] < 60, np.nan, dataset.responses)
    blank = replace(dataset, responses=responses, repetitions=None, masks_missing=True)
    with pytest.raises(TrainingDataError, match=r"none of the .* training images"):
        train(assignment(tmp_path, RECIPE, dataset=blank), tmp_path)


def test_initial_weights_that_do_not_fit(tmp_path):
    for name in ("trunk.9.weight", "trunk.0.0.bias"):
        initial = {name: torch.zeros(5)}
        with pytest.raises(TrainingDataError, match="initial weights trunk"):
            train(assignment(tmp_path, RECIPE, initial=initial), tmp_path / "run")


def test_losses_of_the_curve_are_means_over_images(tmp_path):
    recipe = replace(RECIPE, n_epochs=1, optimizer=Optimizer("sgd", lr=1e-30), validation_share=0)
    given = assignment(tmp_path, recipe)
    result = train(given, tmp_path)
    predicted = torch.from_numpy(predict(result.trained, given.bank, given.rows).responses)
    targets = targets_of(given.dataset, recipe, given.rows)
    rows = torch.from_numpy(given.rows)
    terms = loss_terms(recipe.objectives, Outputs(predicted, {}), targets.at(rows))
    assert result.curve[0]["train_mse"] == pytest.approx(terms["mse"].item(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_network_learns_the_same(tmp_path):
    spec = NetworkSpec(ShallowTrunk((2,), input_px=PX), DecoderSpec(pool_px=1))
    given = assignment(tmp_path, replace(RECIPE, n_epochs=1), spec)
    plain = train(given, tmp_path / "plain")
    compiled = train(given, tmp_path / "compiled", Running(compiled=True))
    assert compiled.curve[0]["val_loss"] == pytest.approx(plain.curve[0]["val_loss"], rel=1e-3)
    assert load_trained(compiled.path).spec == spec


def test_a_training_leaves_torch_as_it_was(tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(assignment(tmp_path, replace(RECIPE, n_epochs=1)), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_rows_may_be_any_part_of_the_data_set(tmp_path):
    dataset = synthetic(60, 20)
    bank = bank_of(dataset, tmp_path)
    rows = np.arange(5, 45)
    result = train(Assignment(SPEC, RECIPE, dataset, rows, bank), tmp_path)
    assert len(result.curve) == 3
