"""From configs to tasks: what is expanded, what is shared, what is refused before anything runs."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from toolkit.catalog import Catalog
from toolkit.config import load_config
from toolkit.features.forms import johnson_lindenstrauss_dims
from toolkit.plan import Plan, features_id, make_plan
from toolkit.yaml_source import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"

BASE = """\
name: tiny
dataset: {kind: synthetic, n_train: 40, n_val: 20, n_neuroids: 5, image_px: 32}
models:
  - {library: timm, names: test_resnet, layers: [layer1, layer3]}
readouts:
  - {kind: ridge, n_components: 10}
"""


def plan_of(folder: Path, text: str = BASE, *overrides: str) -> Plan:
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    config, source = load_config(path, overrides)
    return make_plan(config, source, Catalog(folder / "catalog.json"))


def refusal(folder: Path, text: str = BASE, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        plan_of(folder, text, *overrides)
    return str(caught.value)


def ids(plan: Plan) -> set[str]:
    return {task.id for task in plan.tasks}


def test_a_task_for_each_layer_and_readout_of_one_extraction(tmp_path: Path) -> None:
    readouts = "readouts=[{kind: ridge, n_components: [5, 10]}, {kind: linear}]"
    plan = plan_of(tmp_path, BASE, readouts)
    assert len(plan.extract) == 1
    assert [(task.columns["layer"], task.columns["readout"]) for task in plan.encode] == [
        (layer, readout)
        for layer in ("layer1", "layer3")
        for readout in ("pca5-ridge", "pca10-ridge", "linear")
    ]
    assert {task.inputs for task in plan.encode} == {(plan.extract[0].id,)}


def test_only_random_weights_come_in_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, BASE, "models.0.weights=[pretrained, random]", "models.0.seeds=[1, 2]")
    labels = [task.label for task in plan.extract]
    assert labels == [
        "synthetic test_resnet pretrained",
        "synthetic test_resnet random-1",
        "synthetic test_resnet random-2",
    ]


def test_exclude_drops_what_matches_every_field(tmp_path: Path) -> None:
    two = "readouts=[{kind: ridge}, {kind: linear}]"
    rule = "exclude=[{layer: layer1, readout: lin*}]"
    plan = plan_of(tmp_path, BASE, two, rule)
    pairs = {(task.columns["layer"], task.columns["readout"]) for task in plan.encode}
    assert pairs == {("layer1", "ridge"), ("layer3", "ridge"), ("layer3", "linear")}


def test_a_layer_that_nothing_reads_is_not_extracted(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, BASE, "exclude=[{layer: layer1}]")
    assert plan.extract[0].params["layers"] == ["layer3"]
    assert "leave nothing to do" in refusal(tmp_path, BASE, "exclude=[{library: timm}]")
    assert "empty rule" in refusal(tmp_path, BASE, "exclude=[{}]")


def test_ids_depend_on_what_decides_results_and_on_nothing_else(tmp_path: Path) -> None:
    first = plan_of(tmp_path)
    for override in ("extraction.batch_size=8", "executor.kind=inprocess", "name=other"):
        assert ids(plan_of(tmp_path, BASE, override)) == ids(first), override
    for override in ("dataset.seed=5", "models.0.seeds=3", "models.0.layers=[layer2]"):
        assert not ids(plan_of(tmp_path, BASE, override)) & ids(first), override
    noisier = plan_of(tmp_path, BASE, "dataset.n_repetitions=2")
    assert noisier.extract[0].id == first.extract[0].id
    assert noisier.encode[0].id != first.encode[0].id


def test_two_configs_that_share_a_network_share_its_extraction(tmp_path: Path) -> None:
    more = plan_of(tmp_path, BASE, "models.0.names=[test_resnet, test_vit]", "models.0.layers=auto")
    less = plan_of(tmp_path, BASE, "models.0.layers=auto")
    assert ids(less) < ids(more)


def test_planning_again_asks_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(BASE, encoding="utf-8")
    config, source = load_config(path)
    catalog = Catalog(tmp_path / "catalog.json")
    first = make_plan(config, source, catalog)
    catalog.save(tmp_path / "catalog.json")

    def refuse(*_: object) -> None:
        raise AssertionError("a library was asked")

    monkeypatch.setattr(Catalog, "_ask", staticmethod(refuse))
    assert make_plan(config, source, Catalog(tmp_path / "catalog.json")) == first


@pytest.mark.parametrize(
    ("override", "at", "says"),
    [
        ("models.0.names=test_resnett", "models[0].names", "test_resnet"),
        ("models.0.names=resnet999*", "models[0].names", "Nearest"),
        ("models.0.layers=[layer7]", "models[0].layers", "layer"),
        ("models.0.weights=pretraned", "models[0].weights", "pretraned"),
        ("readouts.0.n_components=1000", "readouts[0].n_components", "1000 components from 40"),
        ("readouts.0.n_components=[5, 40]", "readouts[0].n_components[1]", "at most 39"),
        ("readouts.0.folds=41", "readouts[0].folds", "41 folds of 40"),
        (
            "protocol={kind: fixed, test: tset}",
            "protocol.test",
            "no split 'tset'; it has train, val",
        ),
        ("protocol={kind: kfold, n_splits: 61}", "protocol.n_splits", "61 folds of 60 stimuli"),
        (
            "protocol={kind: kfold, n_splits: 61, by: object}",
            "protocol.n_splits",
            "61 folds of 16 objects",
        ),
        ("dataset={kind: nx414, path: nowhere.h5}", "dataset", "no such file"),
        ("readouts=[{kind: ridge}, {kind: ridge, folds: 3}]", "readouts[1]", "'ridge' stands"),
    ],
)
def test_impossible_configs_are_refused_where_they_are_wrong(
    tmp_path: Path, override: str, at: str, says: str
) -> None:
    message = refusal(tmp_path, BASE, override)
    assert f"--set {override}: {at}: " in message
    assert says in message


def test_problems_of_different_parts_are_reported_together(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE, "models.0.names=nonsense", "readouts.0.n_components=77")
    assert len(message.splitlines()) == 2


def test_all_models_plans_without_data_and_weights(tmp_path: Path) -> None:
    config, source = load_config(
        CONFIGS / "all_models.yaml", [f"dataset.path={tmp_path / 'absent.h5'}"]
    )
    few = replace_models(config, ("resnet50", "densenet201"))
    plan = make_plan(few, source, Catalog(tmp_path / "catalog.json"))
    assert not plan.datasets[0].is_present
    assert plan.datasets[0].n_train == 2592
    layers = {task.columns["layer"] for task in plan.encode if task.columns["model"] == "resnet50"}
    assert layers == {"conv1", "layer1", "layer2", "layer3", "layer4", "avgpool"}


def replace_models(config, names):  # type: ignore[no-untyped-def]
    """The config with only these networks, so that a test does not build them all."""
    kept = [
        model.model_copy(update={"names": tuple(set(model.names) & set(names))})
        for model in config.models
    ]
    return config.model_copy(update={"models": tuple(model for model in kept if model.names)})


def test_changed_responses_change_only_the_encoding(tmp_path: Path) -> None:
    path = tmp_path / "IT_data.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, n in (("train", 30), ("val", 10)):
            images = rng.uniform(-1, 1, (n, 3, 224, 224)).astype(np.float32)
            file[f"stimulus_{split}"] = images
            file[f"object_{split}"] = np.array([b"car"] * n)
            file[f"spikes_{split}"] = rng.normal(size=(n, 4))
    nx414 = f"dataset={{kind: nx414, path: {path}}}"
    before = plan_of(tmp_path, BASE, nx414)
    assert before.encode[0].columns["region"] == "IT"
    with h5py.File(path, "r+") as file:
        file["spikes_val"][0, 0] += 1
    after = plan_of(tmp_path, BASE, nx414)
    assert after.extract[0].id == before.extract[0].id
    assert after.encode[0].id != before.encode[0].id
    assert replace(after.datasets[0], responses_digest="") == replace(
        before.datasets[0], responses_digest=""
    )


@pytest.mark.parametrize(
    ("protocol", "leaks"),
    [("{kind: fixed}", ("train-00003", "val-00001")), ("{kind: kfold}", None)],
)
def test_images_shown_in_training_and_test_are_named(
    tmp_path: Path, protocol: str, leaks: tuple[str, ...] | None
) -> None:
    path = tmp_path / "IT_data.h5"
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (40, 3, 224, 224)).astype(np.float32)
    images[31] = images[3]
    images[7] = images[6]
    with h5py.File(path, "w") as file:
        for split, rows in (("train", slice(0, 30)), ("val", slice(30, 40))):
            file[f"stimulus_{split}"] = images[rows]
            file[f"object_{split}"] = np.array([b"car"] * len(images[rows]))
            file[f"spikes_{split}"] = rng.normal(size=(len(images[rows]), 4))
    nx414 = f"dataset={{kind: nx414, path: {path}}}"
    found = plan_of(tmp_path, BASE, nx414, f"protocol={protocol}").datasets[0].leaking_ids
    everywhere = ("train-00003", "val-00001", "train-00006", "train-00007")
    assert found == (leaks or everywhere)


REPORTS = sorted((CONFIGS / "reports").glob("[A-E]*.yaml"))


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_every_report_is_planned_without_its_data(path: Path, tmp_path: Path) -> None:
    key = "images" if path.stem.startswith("D") else "path"
    config, source = load_config(path, [f"dataset.{key}={tmp_path / 'absent'}"])
    plan = make_plan(config, source, Catalog(tmp_path / "catalog.json"))
    assert plan.name == path.stem
    assert plan.encode or plan.train


def test_what_is_kept_is_crossed_named_and_part_of_the_id(tmp_path: Path) -> None:
    several = "[full, average, {keep: projection, eps: 0.5}, {keep: full, dtype: float16}]"
    plan = plan_of(tmp_path, BASE, f"features={several}")
    forms = {task.columns["features"] for task in plan.encode}
    dims = johnson_lindenstrauss_dims(60, 0.5)
    assert forms == {"full", "average", f"projection{dims}", "full-float16"}
    assert len(plan.extract) == 4 and len(plan.encode) == 8
    assert all(0 <= task.columns["layer_depth"] <= 1 for task in plan.encode)


def test_a_class_token_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE, "models.0.features=cls")
    assert "models[0].features: test_resnet: layer 'layer1' has no class token" in message


def test_a_solver_that_reads_features_needs_some(tmp_path: Path) -> None:
    message = refusal(tmp_path, BASE, "features=gram", "pca.solver=incremental")
    assert "incremental reads features, but features: gram keeps none; write gram" in message


def test_how_many_tasks_share_the_images_decides_no_score(tmp_path: Path) -> None:
    whole, parted = plan_of(tmp_path), plan_of(tmp_path, BASE, "extraction.parts=2")
    assert [task.id for task in whole.encode] == [task.id for task in parted.encode]
    assert len(parted.extract) == 2
    assert {features_id(task) for task in parted.tasks} == {whole.extract[0].id}
    assert parted.encode[0].inputs == tuple(task.id for task in parted.extract)
