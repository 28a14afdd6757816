"""From the training section of a config to tasks, and what is refused before anything runs."""

import math
from pathlib import Path

import pytest
import torch
from training_sweeps import plan_of

from toolkit.cluster.batches import make_batches
from toolkit.config import SearchConfig
from toolkit.models.network_spec import NetworkSpec, ShallowTrunk, ZooTrunk
from toolkit.models.trainable import build_network, output_shape
from toolkit.models.trunks import build_trunk, n_trunk_stages, trace_trunk, trunk_shape
from toolkit.plan import Plan
from toolkit.plan.searches import rungs_of, trials_of, with_choices
from toolkit.training import Recipe
from toolkit.yaml_source import ConfigError

DATA = (
    "dataset: {kind: synthetic, n_train: 60, n_val: 30, n_neuroids: 5, image_px: 32, "
    "n_categories: 3}\n"
)
BASE = f"""\
name: tiny
{DATA}training:
  shallow:
    network: {{library: shallow, channels: [4, 8], input_px: 32}}
    recipe: {{n_epochs: 4, batch_size: 20, optimizer: {{lr: 1e-3}}}}
"""
ZOO = f"""\
name: tiny
{DATA}training:
  classes:
    network: {{library: timm, names: test_resnet, weights: random, input_px: 32}}
    objectives: category
    recipe: {{n_epochs: 2}}
  tuned:
    network: {{library: timm, names: test_resnet, weights: "trained:classes", input_px: 32}}
    trained: [all, none, 2]
    recipe: {{n_epochs: 2}}
models:
  - {{library: timm, names: test_resnet, weights: ["trained:classes", random], layers: [layer1]}}
readouts: [{{kind: ridge, n_components: 5}}]
"""
HALVING = "training.shallow.search={over: {optimizer.lr: [1e-4, 1e-3, 1e-2]}, halving: {eta: 2}}"


def refusal(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of(folder, text, *overrides)
    return str(caught.value)


def ids(plan: Plan) -> list[str]:
    return [task.id for task in plan.train]


def test_a_sweep_may_only_train(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, BASE)
    (task,) = plan.tasks
    assert task.params["step"] == "training"
    assert task.params["recipe"] == Recipe.from_plain(task.params["recipe"]).to_plain()
    assert task.params["recipe"]["optimizer"]["lr"] == 1e-3
    assert task.columns["training"] == "shallow" and task.columns["objective"] == "mse:1"


def test_ids_depend_on_what_decides_weights_and_on_nothing_else(tmp_path: Path) -> None:
    first = ids(plan_of(tmp_path, BASE))
    for override in ("training.shallow.device=cpu", "training.shallow.checkpoint_s=0", "name=b"):
        assert ids(plan_of(tmp_path, BASE, override)) == first, override
    for override in (
        "training.shallow.recipe.optimizer.lr=0.1",
        "training.shallow.network.channels=[4]",
        "training.shallow.seeds=1",
        "training.shallow.objectives={mse: 1, object: 0}",
        "training.shallow.decoder.pool_px=2",
        "dataset.seed=7",
    ):
        assert not set(ids(plan_of(tmp_path, BASE, override))) & set(first), override


def test_networks_modes_objectives_seeds_and_folds_are_crossed(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        BASE,
        "protocol={kind: kfold, n_splits: 3}",
        "training.shallow.network={library: timm, names: test_vit, weights: [random, pretrained]}",
        "training.shallow.trained=[all, none]",
        "training.shallow.objectives=[{mse: 1, object: 1}, {mse: 1, object: 0.3}]",
        "training.shallow.seeds=[0, 1]",
        "training.shallow.folds=all",
    )
    assert len(set(ids(plan))) == 2 * 2 * 2 * 2 * 3
    assert {task.columns["readout"] for task in plan.train} == {"finetune", "frozen"}
    assert {task.columns["fold"] for task in plan.train} == {0, 1, 2}
    assert {task.columns["objective"] for task in plan.train} == {
        "mse:1+object:1",
        "mse:1+object:0.3",
    }


def test_a_trained_network_is_extracted_after_its_training(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ZOO)
    classes, *tuned = plan.train
    assert [task.inputs for task in tuned] == [(classes.id,)] * 3
    assert [task.columns["readout"] for task in tuned] == ["finetune", "frozen", "last2"]
    trained, random = plan.extract
    assert trained.inputs == (classes.id,) and random.inputs == ()
    assert trained.params["weights"] == f"trained:{classes.id}"
    assert plan.encode[0].columns["training"] == "classes"
    assert "training" not in plan.encode[1].columns
    changed = plan_of(tmp_path, ZOO, "training.classes.recipe.n_epochs=3")
    assert changed.extract[0].id != trained.id and changed.extract[1].id == random.id
    assert changed.train[1].id != tuned[0].id


def test_each_rung_waits_for_the_whole_one_before(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, BASE, HALVING)
    steps = [(t.params["step"], t.columns.get("rung")) for t in plan.train]
    assert steps == [("trial", 0)] * 3 + [("slot", 1)] * 2 + [("slot", 2), ("winner", None)]
    trials, slots = plan.train[:3], plan.train[3:5]
    assert all(sorted(slot.inputs) == sorted(t.id for t in trials) for slot in slots)
    assert plan.train[-1].inputs == (plan.train[-2].id,)
    assert [t.params.get("pause_after") for t in plan.train] == [1, 1, 1, 2, 2, None, None]
    batches = make_batches(plan.tasks)
    position = {batch.task_ids[0]: i for i, batch in enumerate(batches)}
    assert all(position[p] < position[b.task_ids[0]] for b in batches for p in b.waits_for)


def test_networks_in_parts_are_jobs_of_their_own(tmp_path: Path) -> None:
    batches = make_batches(plan_of(tmp_path, ZOO).tasks, one_job_per_network=True)
    assert [str(batch.kind) for batch in batches] == ["train", "train", "train", "train"] + [
        "extract"
    ] * 2 or sorted(str(b.kind) for b in batches) == ["extract"] * 2 + ["train"] * 4
    done: set[str] = set()
    for batch in batches:
        assert batch.waits_for <= done
        done |= set(batch.task_ids)


@pytest.mark.parametrize(
    ("n_trials", "eta", "first", "n_epochs"),
    [(9, 3, 1, 9), (10, 3, 2, 30), (5, 2, 4, 4), (1, 2, 1, 8)],
)
def test_rungs_keep_one_of_eta_for_eta_times_as_long(n_trials, eta, first, n_epochs) -> None:
    search = SearchConfig.model_validate(
        {"over": {"optimizer.lr": [1]}, "halving": {"eta": eta, "first_epochs": first}}
    )
    rungs = rungs_of(search, n_trials, n_epochs)
    assert rungs[0] == (n_trials, first)
    assert rungs[-1][1] == n_epochs
    for rung, (n_slots, epochs) in enumerate(rungs):
        assert n_slots == math.ceil(n_trials / eta**rung)
        assert epochs == first * eta**rung or epochs == n_epochs
    assert len({epochs for _, epochs in rungs}) == len(rungs)


def test_trials_of_a_grid_and_of_a_draw() -> None:
    over = {"optimizer.lr": [1, 2], "optimizer.kind": ["adam", "sgd"]}
    grid = trials_of(SearchConfig.model_validate({"over": over}), 0)
    assert len(grid) == 4 and grid[0] == {"optimizer.lr": 1, "optimizer.kind": "adam"}
    drawn = {"optimizer.lr": {"min": 1e-5, "max": 0.1, "log": True}, "decoder.dropout": [0, 0.5]}
    search = SearchConfig.model_validate({"kind": "random", "over": drawn, "n_trials": 60})
    trials = trials_of(search, 3)
    assert trials == trials_of(search, 3) != trials_of(search, 4)
    rates = [trial["optimizer.lr"] for trial in trials]
    assert min(rates) >= 1e-5 and max(rates) <= 0.1
    assert 15 < sum(rate < 1e-3 for rate in rates) < 45
    few = SearchConfig.model_validate({"kind": "random", "over": over, "n_trials": 9})
    assert len(trials_of(few, 0)) == 4
    recipe, decoder = with_choices({"n_epochs": 3}, {}, trials[0])
    assert recipe["optimizer"] == {"lr": rates[0]} and decoder["dropout"] in (0, 0.5)


@pytest.mark.parametrize(
    "trunk",
    [
        ShallowTrunk((4, 8), normalised=True, input_px=32),
        ZooTrunk("torchvision", "vgg11_bn", "random", n_blocks=3, input_px=32),
        ZooTrunk("torchvision", "resnet18", "random", layer="layer2", input_px=64),
        ZooTrunk("timm", "test_vit", "random"),
    ],
    ids=lambda trunk: trunk.kind,
)
def test_what_planning_knows_of_a_trunk_is_true(trunk) -> None:
    built = build_trunk(trunk, 0)
    assert trunk_shape(trunk) == output_shape(NetworkSpec(trunk), built)
    last = trace_trunk(trunk)[-1]
    assert dict(built.named_modules())[last.name] is not None
    n_stages = n_trunk_stages(trunk)
    build_network(NetworkSpec(trunk, n_trained_stages=n_stages), n_neurons=2, n_classes={})
    assert torch.get_default_dtype() == torch.float32


LABELLESS = (
    "dataset={kind: nx414, path: nowhere.h5, sizes: {n_neuroids: 3, splits: {train: 20, val: 5}}}"
)


@pytest.mark.parametrize(
    ("overrides", "at", "says"),
    [
        (
            ["training.shallow.recipe.optimzer={lr: 1}"],
            "recipe.optimzer",
            "did you mean 'optimizer'",
        ),
        (["training.shallow.recipe.optimizer.lr=-1"], "recipe.optimizer", "lr is -1"),
        (["training.shallow.recipe={batch_size: 3}"], "recipe.n_epochs", "required"),
        (["training.shallow.recipe.seed=3"], "recipe.seed", "write it as 'seeds' beside recipe"),
        (
            ["training.shallow.recipe.validation_share=0.001"],
            "recipe.validation_share",
            "zero validation",
        ),
        (["training.shallow.recipe.patience=0"], "recipe", "patience is 0"),
        (["training.shallow.decoder.pool=1"], "decoder.pool", "unknown key"),
        (
            ["training.shallow.decoder.hidden=[30000, 30000]"],
            "decoder",
            "more than resources.train",
        ),
        (
            ["training.shallow.objectives={mse: 1, objects: 1}"],
            "objectives.objects",
            "did you mean 'object'",
        ),
        (
            ["training.shallow.objectives={object: 1}", "training.shallow.n_logits=3"],
            "n_logits",
            "more than 3",
        ),
        (["training.shallow.network.library=shalow"], "network.library", "did you mean 'shallow'"),
        (["training.shallow.network.chanels=[3]"], "network.chanels", "did you mean 'channels'"),
        (["training.shallow.network.kernel_px=2"], "network", "an odd number"),
        (
            ["training.shallow.network.weights=pretrained"],
            "network.weights",
            "no weights 'pretrained'",
        ),
        (["training.shallow.trained=5"], "trained", "which has 2 with weights"),
        (["training.shallow.folds=[1]"], "folds", "the protocol has 1"),
        (["training.shallow.search={over: {optimizer.lr: [0]}}"], "search.over", "lr is 0"),
        (["training.shallow.search={over: {optimizer.rate: [1]}}"], "search.over", "rate"),
        (
            [
                "training.shallow.search={over: {optimizer.lr: [1]}}",
                "training.shallow.recipe.validation_share=0",
            ],
            "search",
            "write a validation_share",
        ),
        (
            ["training.shallow.search={over: {n_epochs: [1]}, halving: {}}"],
            "search",
            "halving decides how long",
        ),
        (
            ["training.shallow.search={kind: random, over: {optimizer.lr: [1]}}"],
            "search",
            "n_trials",
        ),
        (["training.shallow.network.weights=trained:other"], "network.weights", "must be one"),
        (
            ["training.shallow.network.weights=run:nowhere/train-1"],
            "network.weights",
            "there is no trained network",
        ),
        (["training.shallow.predict=test"], "predict", "no split 'test'; it has train, val"),
    ],
)
def test_what_cannot_be_trained_is_refused_where_it_is_wrong(
    tmp_path: Path, overrides: list[str], at: str, says: str
) -> None:
    message = refusal(tmp_path, BASE, *overrides)
    assert f": training.shallow.{at}: " in message or f": training.shallow.{at}[0]: " in message, (
        message
    )
    assert says in message


def test_what_networks_refuse(tmp_path: Path) -> None:
    at = "models.0.weights"
    assert "trainings: classes, tuned" in refusal(tmp_path, ZOO, f"{at}=trained:clases")
    kfold = refusal(tmp_path, ZOO, "protocol={kind: kfold, n_splits: 3}")
    assert "has seen images that the protocol kfold tests" in kfold
    name = "training={a/b: {network: {library: shallow, channels: [2]}, recipe: {n_epochs: 1}}}"
    assert "training.a/b" in refusal(tmp_path, BASE, name)
    cut = refusal(tmp_path, ZOO, "training.classes.network.n_blocks=99")
    assert "n_blocks is 99" in cut and "training.classes.network" in cut


def test_missing_halves_are_named(tmp_path: Path) -> None:
    assert "readouts is missing" in refusal(tmp_path, BASE, "models=[{library: pixels}]")
    assert "nothing to do" in refusal(tmp_path, f"name: a\n{DATA}")


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    path = tmp_path / "files"
    path.mkdir()
    import numpy as np
    from PIL import Image

    for i in range(12):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(path / f"{i:02d}.png")
    np.save(tmp_path / "rates.npy", np.random.default_rng(0).random((12, 3)))
    files = f"dataset={{kind: files, name: f, images: {path}, responses: {tmp_path / 'rates.npy'}}}"
    kfold = "protocol={kind: kfold, n_splits: 3}"
    message = refusal(
        tmp_path, BASE, files, kfold, "training.shallow.objectives={mse: 1, category: 1}"
    )
    assert "training.shallow.objectives: data set 'f' has no category names" in message


HMO = f"""\
name: tiny
{DATA}training:
  grown:
    network:
      library: hmo
      brief: {{n_epochs: 1, validation_share: 0}}
      space: {{n_layers: [1, 2], channels: [4, 8]}}
      n_modules: 5
      n_chosen: 2
      n_stages: 2
      input_px: 32
      modules_per_task: 2
    objectives: category
    recipe: {{n_epochs: 2}}
models: [{{weights: "trained:grown"}}]
readouts: [{{kind: pls, n_components: 5}}]
"""


def test_a_grown_network_is_batches_of_modules_and_three_wholes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HMO)
    modules = [t for t in plan.train if t.params["step"] == "modules"]
    assert [t.params["modules"] for t in modules[:3]] == [[0, 2], [2, 4], [4, 5]]
    assert len(modules) == 3 + 2 * 3
    assert [t.columns["readout"] for t in plan.train[-3:]] == [
        "best_module",
        "unboosted",
        "boosted",
    ]
    assert plan.extract[0].inputs == (plan.train[-1].id,)
    assert plan.extract[0].params["layers"] == ["top"]
    assert plan.encode[0].columns["n_features"] == 1250
    larger = plan_of(tmp_path, HMO, "training.grown.network.modules_per_task=5")
    assert len(larger.train) < len(plan.train)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("training.grown.network.n_modules=1000", "the space has"),
        ("training.grown.network.n_chosen=6", "6 of 5 modules"),
        ("training.grown.objectives=mse", "write object or category"),
        ("training.grown.network.brief={n_epoch: 1}", "did you mean 'n_epochs'"),
        ("training.grown.trained=none", "library: hmo has no trained"),
    ],
)
def test_what_cannot_be_grown(tmp_path: Path, override: str, says: str) -> None:
    assert says in refusal(tmp_path, HMO, override)


def test_a_trial_may_name_a_part_that_the_recipe_has_none_of() -> None:
    for own in ({"schedule": None}, {"schedule": [1]}, {}):
        recipe, _ = with_choices(own, {}, {"schedule.kind": "step"})
        assert recipe == {"schedule": {"kind": "step"}}
