"""From configs to tasks: what is expanded, what is shared, what is refused before anything runs."""

import argparse
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from toolkit.catalog import Catalog
from toolkit.config import KFoldProtocol, StratifiedProtocol, load_config
from toolkit.config.protocols import LeaveOneObjectOutProtocol
from toolkit.encoding import outer_splits
from toolkit.features.forms import johnson_lindenstrauss_dims
from toolkit.plan import Plan, features_id, make_plan
from toolkit.plan.datasets import refuse_few_tested
from toolkit.plan.refusals import solvers_without_gram
from toolkit.sweep import main
from toolkit.verbs.loading import load_sweep, solver_reasons
from toolkit.yaml_source import ConfigError, Place, Source

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


def test_exclude_rules_that_leave_nothing_out_are_named(tmp_path: Path) -> None:
    rules = (
        "exclude=[{layer: layer1}, {layer: layer*, readout: ridgee}, {layer: layer1, model: test*},"
        " {dataset: synthetic, layer: lair1, features: avreage}, {readout: linear}]"
    )
    plan = plan_of(tmp_path, BASE, rules)
    misread, misspelt, absent = plan.idle_rules
    assert "no readout is 'ridgee', nearest: pca10-ridge" in misread
    assert "no layer is" not in misread
    assert "no layer is 'lair1', nearest: layer1" in misspelt
    assert "no features is 'avreage', nearest: " in misspelt
    assert "exclude[4]: the rule leaves nothing out: no readout is 'linear', nearest: " in absent
    both = "readouts=[{kind: ridge}, {kind: linear}]"
    apart = "exclude=[{layer: layer1, readout: ridge}, {layer: layer*, readout: line*}]"
    assert plan_of(tmp_path, BASE, both, apart).idle_rules == ()
    assert plan_of(tmp_path).idle_rules == ()


def test_plan_and_run_warn_of_a_rule_that_leaves_nothing_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(BASE + "exclude: [{layer: lair1}]\n", encoding="utf-8")
    assert main(["plan", str(path), "--out", str(tmp_path / "run")]) == 0
    assert "Warning: " in (said := capsys.readouterr().out)
    assert "sweep.yaml:7" in said


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


@pytest.mark.parametrize("place", range(0, 100, 7))
def test_a_damaged_catalog_is_asked_anew(tmp_path: Path, place: int) -> None:
    path = tmp_path / "catalog.json"
    catalog = Catalog(path)
    names = catalog.names("timm", "test_resnet*")
    catalog.save(path)
    whole = path.read_bytes()
    assert Catalog(path)._answers and names
    damaged = bytearray(whole)
    damaged[place * len(whole) // 100] ^= 1
    for content in (bytes(damaged), whole[: len(whole) * place // 100], b"\0" * 9, b"[]"):
        path.write_bytes(content)
        assert not Catalog(path)._answers
        assert Catalog(path).names("timm", "test_resnet*") == names


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
        (
            "protocol={kind: fixed, train: val, test: val}",
            "protocol.test",
            "train and test are both 'val'",
        ),
        ("protocol={kind: fixed, train: val}", "protocol", "write another split (train)"),
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
    models = tuple(model for model in kept if model.names)
    trained = config.training["fine_tuned"]
    few = trained.network.model_copy(update={"names": names})
    training = {**config.training, "fine_tuned": trained.model_copy(update={"network": few})}
    return config.model_copy(update={"models": models, "training": training})


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


def test_the_solver_is_decided_by_sizes_and_part_of_the_id(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert {task.params["solver"] for task in plan.encode} == {"gram"}
    same = plan_of(
        tmp_path, BASE, "pca.solver=gram", "resources.encode={memory_gb: 0.001, cpus: 64}"
    )
    assert ids(same) == ids(plan)
    other = plan_of(tmp_path, BASE, "pca.solver=randomized")
    assert not {task.id for task in other.encode} & ids(plan)
    whole = plan_of(tmp_path, BASE, "pca.solver=randomized", "readouts=[{kind: pls}]")
    assert {task.params["solver"] for task in whole.encode} == {"gram"}


@pytest.mark.parametrize(
    ("n_stimuli", "layer", "solver"),
    [(30_000, "layer1", "gram"), (30_000, "global_pool", "covariance")],
)
def test_auto_is_exact_however_large_the_data(
    tmp_path: Path, n_stimuli: int, layer: str, solver: str
) -> None:
    absent = f"dataset={{kind: nx414, path: {tmp_path / 'absent.h5'}, sizes: {{n_neuroids: 5, "
    absent += f"splits: {{train: {n_stimuli}, val: 100}}}}}}"
    plan = plan_of(tmp_path, BASE, absent, f"models.0.layers=[{layer}]")
    assert {task.params["solver"] for task in plan.encode} == {solver}


def test_what_does_not_fit_the_memory_is_refused_with_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(BASE, encoding="utf-8")
    options = argparse.Namespace(
        config=tmp_path / "sweep.yaml",
        overrides=["resources.encode.memory_gb=0.0001"],
        executor=None,
        profile=None,
        out=tmp_path / "run",
    )
    with pytest.raises(ConfigError, match=r"solver gram needs .*resources\.encode\.memory_gb"):
        solver_reasons(load_sweep(options))


def test_what_only_a_gram_matrix_gives_is_refused_without_one(tmp_path: Path) -> None:
    one_out = "readouts.0.folds=leave_one_out"
    assert "leave_one_out needs" in refusal(tmp_path, BASE, one_out, "pca.solver=covariance")


FEW = "dataset={kind: synthetic, n_train: 6, n_val: %d, n_neuroids: %d, image_px: 16}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((FEW % (2, 5), "readouts=[{kind: linear}]"), "split 'val' has 2 image(s)"),
        (
            (FEW % (4, 5), "readouts=[{kind: linear}]", "protocol={kind: kfold, n_splits: 10}"),
            "10 folds of 10 images test 1 at a time, but r needs 3 or more; write at most 3 folds",
        ),
        ((FEW % (4, 2), "readouts=[{kind: rdm}]"), "write distance: euclidean"),
        ((FEW % (4, 1), "readouts=[{kind: rdm, distance: cosine}]"), "write distance: euclidean"),
    ],
)
def test_too_few_images_or_neurons_are_refused(
    tmp_path: Path, overrides: tuple[str, ...], said: str
) -> None:
    assert said in refusal(tmp_path, BASE, *overrides)


def test_one_neuron_has_euclidean_distances(tmp_path: Path) -> None:
    assert plan_of(tmp_path, BASE, FEW % (4, 1), "readouts=[{kind: rdm, distance: euclidean}]")


def images_of_objects(folder: Path, *n_images: int) -> str:
    """A data set of images and responses with so many images of each object."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    stimuli, responses = ["stimulus_id,object_name"], ["stimulus_id,synthetic-a,synthetic-b"]
    for label, count in zip("abcdefgh", n_images, strict=False):
        for i in range(count):
            name, (one, other) = f"{label}{i}", random.normal(size=2)
            pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            stimuli.append(f"{name},{label}")
            responses.append(f"{name},{one:.3f},{other:.3f}")
    (folder / "stimuli.csv").write_text("\n".join(stimuli), encoding="utf-8")
    (folder / "responses.csv").write_text("\n".join(responses), encoding="utf-8")
    return (
        f"dataset={{kind: files, name: objects, images: {folder / 'images'}, "
        f"responses: {folder / 'responses.csv'}, stimulus_table: {folder / 'stimuli.csv'}}}"
    )


BY_OBJECT = "protocol={kind: leave_one_object_out}"
STRATIFIED = "protocol={kind: stratified, train_size: %g}"


@pytest.mark.parametrize(
    ("n_images", "protocol", "said"),
    [
        ((5, 5, 1), BY_OBJECT, "1 image(s) of object 'c', but r needs 3"),
        ((5, 5, 1), STRATIFIED % 0.5, "1 image(s) of object 'c' cannot be in training and in test"),
        ((4, 4, 4), STRATIFIED % 0.9, "10 to fit and 2 to test, but 3 objects need 3 and 3; write"),
        ((2, 2, 4), "protocol={kind: kfold, by: object, n_splits: 3}", "object 'a'"),
    ],
)
def test_objects_of_too_few_images_are_refused(
    tmp_path: Path, n_images: tuple[int, ...], protocol: str, said: str
) -> None:
    own = images_of_objects(tmp_path, *n_images)
    message = refusal(tmp_path, BASE, own, protocol, "readouts=[{kind: linear}]")
    assert said in message and "protocol" in message


@given(
    n_images=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    train_size=st.sampled_from([0.1, 0.3, 0.5, 0.75, 0.9]),
)
@settings(max_examples=40, deadline=None)
def test_what_is_planned_can_be_divided(n_images: list[int], train_size: float) -> None:
    """Whatever is not refused has splits, and enough images in each test set."""
    labels = tuple(np.repeat(list("abcde")[: len(n_images)], n_images))
    protocols = (
        StratifiedProtocol(kind="stratified", n_splits=2, train_size=train_size),
        LeaveOneObjectOutProtocol(kind="leave_one_object_out"),
        KFoldProtocol(kind="kfold", n_splits=2, by="object"),
        KFoldProtocol(kind="kfold", n_splits=2),
    )
    for protocol in protocols:
        config = SimpleNamespace(
            protocol=protocol, readouts=[SimpleNamespace(kind="ridge")], training={}
        )
        try:
            source = Source({}, {(): Place("sweep.yaml")})
            refuse_few_tested(config, source, len(labels), {}, labels)  # type: ignore[arg-type]
        except ConfigError:
            continue
        plain = {**protocol.model_dump(), "seed": 0}
        splits = outer_splits(plain, n_stimuli=len(labels), splits={}, object_names=labels)
        assert min(len(test) for _, test in splits) >= 3


def with_a_missing_response(folder: Path, *n_images: int) -> str:
    own = images_of_objects(folder, *n_images)
    table = (folder / "responses.csv").read_text(encoding="utf-8").splitlines()
    table[3] = table[3].rsplit(",", 1)[0] + ","
    (folder / "responses.csv").write_text("\n".join(table), encoding="utf-8")
    return f"{own[:-1]}, missing_responses: mask}}"


KFOLD = "protocol={kind: kfold, n_splits: 2}"


@pytest.mark.parametrize("readout", ["{kind: cka}", "{kind: rdm, distance: euclidean}"])
def test_similarities_of_missing_responses_are_refused(tmp_path: Path, readout: str) -> None:
    own, readouts = (
        with_a_missing_response(tmp_path, 8, 8),
        f"readouts=[{{kind: linear}}, {readout}]",
    )
    message = refusal(tmp_path, BASE, own, KFOLD, readouts)
    assert "readouts[1].kind" in message and "1 response(s) of 'objects' are missing" in message
    left_out = "exclude=[{dataset: objects, readout: cka}, {dataset: objects, readout: rdm*}]"
    assert plan_of(tmp_path, BASE, own, KFOLD, readouts, left_out).encode


@pytest.mark.parametrize(
    ("readout", "said"),
    [
        ("{kind: ridge, alpha: shared}", "alpha: shared is one penalty for each set of neurons"),
        ("{kind: pls, n_components: 2}", "neurons: joint is one model for each set of neurons"),
        ("{kind: ridge}", ""),
    ],
)
def test_what_missing_responses_divide_is_noted(tmp_path: Path, readout: str, said: str) -> None:
    complete = images_of_objects(tmp_path, 8, 8)
    readouts = f"readouts=[{readout}]"
    (before,) = plan_of(tmp_path, BASE, complete, KFOLD, readouts).datasets
    assert not any("are missing" in note for note in before.notes)
    (tmp_path / "masked").mkdir()
    own = with_a_missing_response(tmp_path / "masked", 8, 8)
    (dataset,) = plan_of(tmp_path, BASE, own, KFOLD, readouts).datasets
    found = [note for note in dataset.notes if "are missing" in note]
    assert len(found) == bool(said) and all(said in note for note in found)


def test_auto_takes_the_gram_matrix_where_nothing_else_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.plan.tasks._LARGEST_GRAM", 10)

    def solvers(folder: Path, *overrides: str) -> set[str]:
        average = "models.0.features=average"
        plan = plan_of(folder, BASE, "models.0.layers=[layer1]", average, *overrides, KFOLD)
        return {task.params["solver"] for task in plan.encode}

    complete = images_of_objects(tmp_path, 90, 90)
    assert solvers(tmp_path, complete) == {"covariance"}
    assert solvers(tmp_path, complete, "readouts.0.folds=leave_one_out") == {"gram"}
    (tmp_path / "masked").mkdir()
    assert solvers(tmp_path, with_a_missing_response(tmp_path / "masked", 90, 90)) == {"gram"}


def test_missing_responses_that_no_key_tells_of_need_a_gram_matrix(tmp_path: Path) -> None:
    (planned,) = plan_of(tmp_path).datasets
    config, source = load_config(tmp_path / "sweep.yaml", ["pca.solver=covariance"])
    assert not list(solvers_without_gram(config, source, [planned]))
    (problem,) = solvers_without_gram(config, source, [replace(planned, n_missing=7)])
    assert "pca.solver" in problem and "7 response(s) of 'synthetic' are missing" in problem
