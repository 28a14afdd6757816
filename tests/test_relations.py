"""What holds between configs: more is only more, order is nothing, names are labels."""

from __future__ import annotations

import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import h5py
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from own_files import picture
from PIL import Image
from pydantic import BaseModel
from recordings import SyntheticAssembly, SyntheticSession
from test_data_nx414 import write as write_nx414

from jobs.run import work_through
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import SweepConfig, load_config
from toolkit.plan import Plan, features_id, make_plan
from toolkit.results import Tables, collect_run, load, read_scores
from toolkit.terminal import make_console
from toolkit.yaml_source import ConfigError, Source

Config = dict[str, Any]
Row = tuple[str, tuple[tuple[str, Any], ...]]

SMALL = {"kind": "synthetic", "n_train": 60, "n_val": 30, "n_categories": 3, "image_px": 16}
# The first and the last are one data set, under two names.
DATASETS = [
    {**SMALL, "name": "synthetic", "n_neuroids": 3},
    {**SMALL, "name": "synthetic, same images", "n_neuroids": 4},
    {**SMALL, "name": "synthetic, others", "n_neuroids": 3, "seed": 1},
    {**SMALL, "name": "synthetic again", "n_neuroids": 3, "seed": 0},
]
TIMM = {"library": "timm", "names": "test_resnet"}
MODELS = [
    {"library": "pixels"},
    {**TIMM, "layers": ["layer1", "layer3"]},
    {**TIMM, "layers": ["layer3", "layer4"], "seeds": [0, 1]},
    {**TIMM, "layers": "layer1", "features": ["full", "gram", {"keep": "max", "dtype": "float16"}]},
]
READOUTS = [
    {"kind": "ridge"},
    {"kind": "ridge", "n_components": [3, 5], "folds": "leave_one_out"},
    {"kind": "ridge", "name": "ridge by another name"},
    {"kind": "linear", "n_components": 3},
    {"kind": "pls", "n_components": 2},
    {"kind": "rdm", "level": "object"},
    {"kind": "cka"},
]
FEATURES = ["full", "average", {"keep": "projection", "n_dims": 20}]
PROTOCOLS = [
    {"kind": "fixed"},
    {"kind": "kfold", "n_splits": 3},
    {"kind": "stratified", "n_splits": 2, "train_size": 0.8},
    {"kind": "leave_one_object_out"},
]
LISTS = {"dataset": DATASETS, "models": MODELS, "readouts": READOUTS, "features": FEATURES}
SHALLOW = {"library": "shallow", "channels": [2], "input_px": 16}
RECIPE = {"n_epochs": 2, "batch_size": 8, "validation_share": 0.25}


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what is known of networks, so that each is built once."""
    return tmp_path_factory.mktemp("relations")


def plan_of(folder: Path, config: Config) -> Plan:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return remembering(folder, *load_config(path))


def remembering(folder: Path, config: SweepConfig, source: Source) -> Plan:
    catalog = Catalog(folder / "catalog.json")
    plan = make_plan(config, source, catalog)
    catalog.save(folder / "catalog.json")
    return plan


def ids(plan: Plan) -> set[str]:
    return {task.id for task in plan.tasks}


def rows(plan: Plan) -> set[Row]:
    return {
        (task.id, tuple(sorted(row.items(), key=str)))
        for task in plan.tasks
        if task.kind.gives_scores
        for row in task.rows
    }


@st.composite
def sweeps(draw: st.DrawFn) -> Config:
    """Some of all items, in any order, none twice."""
    some = {
        key: draw(st.lists(st.sampled_from(items), min_size=1, max_size=3, unique_by=str))
        for key, items in LISTS.items()
    }
    return {"name": "relations", "protocol": draw(st.sampled_from(PROTOCOLS)), **some}


def parts_of(config: Config) -> st.SearchStrategy[Config]:
    """The config without some of its items."""
    lists = {
        key: st.lists(st.sampled_from(config[key]), min_size=1, unique_by=str) for key in LISTS
    }
    return st.fixed_dictionaries({**{k: st.just(v) for k, v in config.items()}, **lists})


@settings(max_examples=40, deadline=None)
@given(config=sweeps(), data=st.data())
def test_more_is_only_more_and_order_is_nothing(
    remembered: Path, config: Config, data: st.DataObject
) -> None:
    whole = plan_of(remembered, config)
    counts = Counter(task.id for task in whole.tasks)
    assert set(counts.values()) == {1}
    part = plan_of(remembered, data.draw(parts_of(config)))
    assert rows(part) <= rows(whole)
    order = {key: data.draw(st.permutations(config[key])) for key in LISTS}
    for model in order["models"]:
        if isinstance(model.get("layers"), list):
            order["models"] = [
                {**m, "layers": m["layers"][::-1]} if m == model else m for m in order["models"]
            ]
    shuffled = plan_of(remembered, {**config, **order})
    assert rows(shuffled) == rows(whole)
    assert {task.id for task in shuffled.encode} == {task.id for task in whole.encode}


@settings(max_examples=20, deadline=None)
@given(config=sweeps())
def test_every_combination_is_a_row_and_names_change_no_id(
    remembered: Path, config: Config
) -> None:
    whole = plan_of(remembered, config)
    networks = set[tuple[Any, ...]]()
    for model in config["models"]:
        kept = [str(one) for one in model.get("features", config["features"])]
        layers = np.atleast_1d(model.get("layers", "pixels")).tolist()
        networks |= set(
            itertools.product([model["library"]], model.get("seeds", [0]), layers, kept)
        )
    n_readouts = sum(len(np.atleast_1d(one.get("n_components", 0))) for one in config["readouts"])
    assert len(rows(whole)) == len(config["dataset"]) * len(networks) * n_readouts
    renamed = {
        **config,
        "name": "otherwise",
        "dataset": [{**one, "name": f"{one['name']}-2"} for one in config["dataset"]],
        "readouts": [{**one, "name": f"other{i}"} for i, one in enumerate(config["readouts"])],
    }
    assert ids(plan_of(remembered, renamed)) == ids(whole)


def trainings(over: Config, **more: Any) -> Config:
    search = {"over": over, "halving": {"eta": 2}}
    entry = {"network": SHALLOW, "recipe": {**RECIPE, "n_epochs": 4}, "search": search}
    return {"name": "relations", "dataset": DATASETS[0], "training": {"searched": entry, **more}}


def test_a_search_is_its_trials_in_whatever_order(remembered: Path) -> None:
    lr = [0.1, 0.01, 0.001, 0.0001]
    plan = plan_of(remembered, trainings({"optimizer.lr": lr}))
    for other in (lr[::-1], [0.01, 0.1, 0.01, 0.0001, 0.001]):
        assert ids(plan_of(remembered, trainings({"optimizer.lr": other}))) == ids(plan)
    shared = {"network": SHALLOW, "recipe": {**RECIPE, "n_epochs": 4}}
    shared["search"] = {"over": {"optimizer.lr": [0.5, 0.01]}, "halving": {"eta": 2}}
    both = plan_of(remembered, trainings({"optimizer.lr": lr}, other=shared))
    assert rows(plan) <= rows(both)
    of_two = [task for task in both.train if len(task.rows) == 2]
    assert [[row["trial"] for row in task.rows] for task in of_two] == [[1, 1]]
    assert [row["training"] for row in of_two[0].rows] == ["searched", "other"]


def test_a_network_trained_on_one_data_set_is_read_out_on_that_one(remembered: Path) -> None:
    """Under each name of what has one content, and on nothing else."""
    config = {
        "name": "relations",
        "dataset": DATASETS,
        "training": {"plain": {"network": SHALLOW, "recipe": RECIPE}},
        "models": [{"weights": "trained:plain", "layers": ["0"]}],
        "readouts": [{"kind": "ridge"}],
    }
    plan = plan_of(remembered, config)
    assert Counter(len(task.rows) for task in plan.train) == {1: 2, 2: 1}
    assert Counter(len(task.rows) for task in plan.encode) == {1: 2, 2: 1}
    trained_on = {task.id: task.params["responses"] for task in plan.train}
    extractions = {task.id: task for task in plan.extract}
    for task in plan.encode:
        (training,) = extractions[task.inputs[0]].inputs
        assert trained_on[training] == task.params["responses"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"dataset": [DATASETS[0], {**DATASETS[1], "name": "synthetic"}]},
            ("sweep.yaml:", "dataset[1].name: a data set called 'synthetic' stands at", "c-1"),
        ),
        (
            {"readouts": [{"kind": "cka", "name": "ridge"}, {"kind": "ridge"}]},
            ("sweep.yaml:", "readouts[1]: a readout called 'ridge' stands at readouts[0]"),
        ),
        (
            {"training": {"near": {"network": SHALLOW, "recipe": RECIPE,
                                   "objectives": [{"mse": 0.1234567}, {"mse": 0.1234568}]}}},
            ("sweep.yaml:", "training.near:", "two results, which differ in recipe", "two entries"),
        ),
    ],
)  # fmt: skip
def test_rows_that_could_not_be_told_apart_are_refused(
    remembered: Path, changes: Config, words: tuple[str, ...]
) -> None:
    base = {"name": "x", "dataset": DATASETS[0], "models": MODELS[0], "readouts": READOUTS[0]}
    with pytest.raises(ConfigError) as caught:
        plan_of(remembered, base | changes)
    for word in words:
        assert word in str(caught.value)


# ---- what was computed

TIMES = ["seconds", "peak_memory_bytes", "created", "config_hash"]
LABELS = ["row_id", "dataset", "readout", "weights"]


@pytest.fixture(scope="module")
def checkpoints(remembered: Path) -> list[str]:
    """One file at two places."""
    torch.manual_seed(0)
    weights = timm.create_model("test_resnet").state_dict()
    paths = [remembered / part / "best.pth" for part in ("a", "b")]
    for path in paths:
        path.parent.mkdir()
        torch.save(weights, path)
    return list(map(str, paths))


def computed(folder: Path, plan: Plan) -> Tables:
    """The tables of a run in this process; every planned row must be one of its rows.

    Read-outs of one layer follow on each other, whatever data set they are of.
    """
    run = RunFolder(folder)
    run.create()
    run.write_plan(plan.tasks, {})
    by_layer = sorted(plan.encode, key=lambda task: (features_id(task), task.params["layer"]))
    work_through(run, [*plan.extract, *by_layer], 1)
    collect_run(run)
    tables = load(folder)
    planned = Counter(task.id for task in plan.encode for _ in task.rows)
    assert Counter(tables.results["task_id"]) == planned
    assert tables.results["row_id"].is_unique
    assert (tables.results["status"] == "done").all(), tables.tasks[["label", "reason"]].to_string()
    return tables


def values_of(table: pd.DataFrame, by: Iterable[str] = ()) -> pd.DataFrame:
    """Rows in an order of their own, without what differs from run to run."""
    keys = list(by) or ["row_id"]
    keys += ["neuron_id"] if "neuron_id" in table else []
    kept = table.drop(columns=[name for name in TIMES if name in table])
    return kept.sort_values(keys).reset_index(drop=True)


@pytest.mark.parametrize("protocol", PROTOCOLS[:2], ids=lambda one: one["kind"])
def test_all_together_is_each_alone_and_equal_content_scores_equally(
    remembered: Path, checkpoints: list[str], tmp_path: Path, protocol: Config
) -> None:
    config = {
        "name": "relations",
        "protocol": protocol,
        "dataset": DATASETS,
        "models": [MODELS[0], {**TIMM, "weights": checkpoints, "layers": ["layer3", "layer4"]}],
        "readouts": READOUTS,
        "statistics": {"bootstrap": 50, "permutations": 20},
    }
    plan = plan_of(remembered, config)
    n_rows, n_contents = len(DATASETS) * 5 * 8, (len(DATASETS) - 1) * 3 * 7
    assert (len(rows(plan)), len(plan.encode)) == (n_rows, n_contents)
    assert len(plan.extract) == 4  # of two sets of images, by two networks
    together = computed(tmp_path / "together", plan)
    assert len(together.results) == n_rows
    for table in (together.results, together.neurons):
        contents = table.drop(
            columns=LABELS + [name for name in TIMES if name in table], errors="ignore"
        ).astype(str)
        keys = ["task_id", *(["neuron_id"] if "neuron_id" in table else [])]
        assert contents.groupby(keys).nunique().max(axis=None) == 1
    for alone in DATASETS[:3]:
        own = computed(
            tmp_path / alone["name"],
            plan_of(
                remembered,
                {
                    **config,
                    "dataset": alone,
                    "models": [config["models"][1] | {"layers": "layer3"}],
                },
            ),
        )
        for name in ("results", "neurons"):
            ours, theirs = getattr(own, name), getattr(together, name)
            shared = theirs[theirs["row_id"].isin(ours["row_id"])]
            pd.testing.assert_frame_equal(values_of(shared), values_of(ours))


def test_what_is_printed_tells_two_paths_of_one_name_apart(
    remembered: Path, checkpoints: list[str], tmp_path: Path
) -> None:

    from toolkit.results import print_best

    config = {
        "name": "relations",
        "dataset": DATASETS[0],
        "models": [{**TIMM, "weights": checkpoints, "layers": "layer4"}],
        "readouts": [{"kind": "ridge"}],
    }
    console = make_console(width=200)
    with console.capture() as printed:
        print_best(computed(tmp_path / "run", plan_of(remembered, config)).results, console)
    assert "a/best.pth" in printed.get() and "b/best.pth" in printed.get()


# ---- files that change between plan and run


def own_files(folder: Path, suffix: str) -> Config:
    """Images, responses and tables of a laboratory's own."""
    images = folder / ("images.zip" if suffix == "zip" else "images")
    (folder / "images").mkdir()
    for i in range(12):
        picture(i).save(folder / "images" / f"im{i:02d}.png")
    if suffix == "zip":
        shutil.make_archive(str(folder / "images"), "zip", folder / "images")
    values = np.random.default_rng(0).normal(size=(12, 3))
    ids = [f"im{i:02d}" for i in range(12)]
    shown = {"object_name": ["car", "face"] * 6, "split": ["train"] * 8 + ["val"] * 4}
    pd.DataFrame({"stimulus_id": ids, **shown}).to_csv(folder / "stimuli.csv", index=False)
    neurons = {"neuroid_id": ["a", "b", "c"], "region": ["IT", "IT", "V4"]}
    pd.DataFrame(neurons).to_csv(folder / "neuroids.csv", index=False)
    responses = folder / f"responses.{'npy' if suffix == 'zip' else suffix}"
    if suffix == "csv":
        table = pd.DataFrame(values, columns=neurons["neuroid_id"], index=ids)
        table.rename_axis("stimulus_id").to_csv(responses)
    elif suffix == "zarr":
        zarr.create_array(responses, data=values)
    else:
        np.save(responses, values)
    tables = {} if suffix == "csv" else {"neuroid_table": str(folder / "neuroids.csv")}
    return {
        "kind": "files",
        "name": "lab",
        "images": str(images),
        "responses": str(responses),
        "stimulus_table": str(folder / "stimuli.csv"),
        **tables,
    }


def nx414(folder: Path, _: str) -> Config:
    return {"kind": "nx414", "path": str(write_nx414(folder / "IT_data.h5"))}


def majaj_hong(folder: Path, _: str) -> Config:
    SyntheticAssembly().write(folder / "assembly")
    path = str(folder / "assembly")
    return {"kind": "majaj_hong", "path": path, "regions": ["IT", "V4"], "val_variation": 3}


def xiao2024(folder: Path, _: str) -> Config:
    session = SyntheticSession()
    session.write(folder / "sessions")
    session.write_images(folder / "images")
    (folder / "areas.csv").write_text(
        "Session,Bank,Array ID,Hemisphere,Region\nAn220105,0,1,L,V4\n", encoding="utf-8"
    )
    labels = {"filename": sorted(session.image_names), "label": ["face", "car", "cat"] * 4}
    table = pd.DataFrame({**labels, "split": ["train"] * 8 + ["val"] * 4})
    table.to_csv(folder / "labels.csv", index=False)
    return {
        "kind": "xiao2024",
        "sessions": str(folder / "sessions"),
        "images": str(folder / "images"),
        "session_table": str(folder / "areas.csv"),
        "label_table": str(folder / "labels.csv"),
        "frame": {"mode": "letterbox", "size_px": 32},
    }


def one_more(array: Any) -> None:
    array[tuple(0 for _ in array.shape)] = 1 + array[tuple(0 for _ in array.shape)]


def change_npy(folder: Path) -> None:
    values = np.load(folder / "responses.npy")
    one_more(values)
    np.save(folder / "responses.npy", values)


def change_csv(folder: Path) -> None:
    table = pd.read_csv(folder / "responses.csv")
    table.loc[3, "b"] += 1
    table.to_csv(folder / "responses.csv", index=False)


def change_zarr(folder: Path) -> None:
    one_more(zarr.open_array(folder / "responses.zarr"))


def change_picture(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        pixels = np.asarray(Image.open(folder / "images" / name)).copy()
        pixels[0, 0, 0] ^= 1
        Image.fromarray(pixels).save(folder / "images" / name)

    return change


def change_zip(folder: Path) -> None:
    change_picture("im03.png")(folder)
    shutil.make_archive(str(folder / "images"), "zip", folder / "images")


def change_table(name: str, column: str, value: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        table = pd.read_csv(folder / name)
        table.loc[0, column] = value
        table.to_csv(folder / name, index=False)

    return change


def reverse_table(folder: Path) -> None:
    pd.read_csv(folder / "stimuli.csv")[::-1].to_csv(folder / "stimuli.csv", index=False)


def change_hdf5(key: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with h5py.File(folder / "IT_data.h5", "r+") as file:
            values = file[key][:]
            if values.dtype.kind == "f":
                one_more(values)
            else:
                values[0] = b"other"
            file[key][:] = values

    return change


def change_assembly(change: Callable[[SyntheticAssembly], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        assembly = SyntheticAssembly()
        change(assembly)
        shutil.rmtree(folder / "assembly")
        assembly.write(folder / "assembly")

    return rewrite


def change_session(change: Callable[[SyntheticSession], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        session = SyntheticSession()
        change(session)
        session.write(folder / "sessions")

    return rewrite


def relabel(assembly: SyntheticAssembly) -> None:
    for table in (assembly.images, assembly.presentations):
        table.loc[table["object_name"] == "object0", "object_name"] = "object9"


def rename_area(assembly: SyntheticAssembly) -> None:
    assembly.neuroids.loc[0, "region"] = "V4"


def shift_presentation(session: SyntheticSession) -> None:
    session.image[:2] = session.image[1::-1]


CHANGES = [
    (own_files, "npy", change_npy),
    (own_files, "csv", change_csv),
    (own_files, "zarr", change_zarr),
    (own_files, "npy", change_picture("im03.png")),
    (own_files, "zip", change_zip),
    (own_files, "npy", change_table("stimuli.csv", "object_name", "cat")),
    (own_files, "npy", change_table("stimuli.csv", "split", "val")),
    (own_files, "npy", change_table("stimuli.csv", "split", "test")),
    (own_files, "npy", change_table("neuroids.csv", "region", "V1")),
    (own_files, "npy", change_table("neuroids.csv", "neuroid_id", "d")),
    (own_files, "npy", reverse_table),
    (nx414, "", change_hdf5("spikes_val")),
    (nx414, "", change_hdf5("stimulus_train")),
    (nx414, "", change_hdf5("object_val")),
    (majaj_hong, "", change_assembly(lambda assembly: one_more(assembly.values))),
    (majaj_hong, "", change_assembly(lambda assembly: one_more(assembly.colours))),
    (majaj_hong, "", change_assembly(relabel)),
    (majaj_hong, "", change_assembly(rename_area)),
    (xiao2024, "", change_session(shift_presentation)),
    (xiao2024, "", change_picture("image003.png")),
    (xiao2024, "", change_table("labels.csv", "label", "cat")),
    (xiao2024, "", change_table("labels.csv", "split", "val")),
    (xiao2024, "", change_table("areas.csv", "Region", "AIT")),
]


@pytest.mark.parametrize("is_extracted", [False, True], ids=["before", "after extraction"])
@pytest.mark.parametrize(("make", "suffix", "change"), CHANGES)
def test_a_file_that_changes_after_planning_is_noticed(
    remembered: Path,
    tmp_path: Path,
    make: Callable[[Path, str], Config],
    suffix: str,
    change: Callable[[Path], None],
    is_extracted: bool,
) -> None:
    """Nothing is published of it, or if its images were extracted before, what was planned is."""
    config = {
        "name": "relations",
        "dataset": make(tmp_path, suffix),
        "models": [{"library": "pixels"}],
        "readouts": [{"kind": "linear", "n_components": 2}],
    }
    run, untouched = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "untouched")
    plan = plan_of(remembered, config)
    for folder in (run, untouched):
        folder.create()
        folder.write_plan(plan.tasks, {})
    work_through(untouched, untouched.tasks(), 1)
    assert untouched.done_ids() == ids(plan)
    if is_extracted:
        work_through(run, plan.extract, 1)
    change(tmp_path)
    assert ids(plan_of(remembered, config)) != ids(plan)
    work_through(run, run.tasks(), 1)
    if is_extracted and run.done_ids() == ids(plan):
        scores = [read_scores(one.result_path(plan.encode[0].id))[0] for one in (run, untouched)]
        pd.testing.assert_frame_equal(*scores)
        return
    assert not run.is_done(plan.encode[0].id)
    assert {one.error_class for one in run.attempts().values()} == {"data_changed"}


def test_images_without_responses_that_change_after_planning_are_noticed(
    remembered: Path, tmp_path: Path
) -> None:
    entry = {"network": SHALLOW, "recipe": RECIPE, "predict": ["val", "test"]}
    config = {"name": "x", "dataset": nx414(tmp_path, ""), "training": {"predicting": entry}}
    plan = plan_of(remembered, config)
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan(plan.tasks, {})
    change_hdf5("stimulus_test")(tmp_path)
    assert not ids(plan_of(remembered, config)) & ids(plan)
    work_through(run, run.tasks(), 1)
    (attempt,) = run.attempts().values()
    assert attempt.error_class == "data_changed"
    assert not run.done_ids() and not run.predictions_path(attempt.task_id).exists()


# ---- every key of a config

KEYS = f"""\
name: relations
dataset: {SMALL | {"n_neuroids": 3}}
protocol: {{kind: kfold, n_splits: 3}}
models:
  - library: timm
    names: test_resnet
    layers: [layer3]
    features: [{{keep: projection, n_dims: 20}}, {{keep: projection, eps: 0.9}}]
readouts:
  - {{kind: ridge, n_components: 3, alphas: {{min: 1, max: 100, n: 3}}}}
  - {{kind: linear, n_components: 3}}
  - {{kind: pls, n_components: 2}}
  - {{kind: rdm}}
  - {{kind: cka}}
training:
  zoo:
    network: {{library: timm, names: test_resnet, weights: random, layers: layer3, input_px: 32}}
    objectives: {{mse: 1, category: 1}}
    recipe: {RECIPE}
  plain: {{network: {SHALLOW}, recipe: {RECIPE}}}
  shallow:
    network: {SHALLOW}
    recipe: {RECIPE | {"n_epochs": 4}}
    search:
      kind: random
      over: {{optimizer.lr: {{min: 0.001, max: 0.1}}}}
      n_trials: 3
      halving: {{eta: 2}}
  grown:
    network: {{library: hmo, brief: {RECIPE}, n_modules: 4, n_chosen: 2, n_stages: 2}}
    objectives: object
    recipe: {RECIPE}
executor: {{kind: inprocess}}
"""
ALEXNET = "training.zoo.network={library: torchvision, names: alexnet, weights: random}"
# Key of a class → what to change first, if anything, and the change that changes what is computed.
SWAPPED = "protocol={kind: fixed, train: val, test: train}"
STRATIFIED = "protocol={kind: stratified, train_size: 0.8}"
DECIDES: dict[str, tuple[str, ...]] = {
    "SweepConfig.seed": ("seed=1",),
    "SyntheticDataset.n_train": ("dataset.n_train=61",),
    "SyntheticDataset.n_val": ("dataset.n_val=31",),
    "SyntheticDataset.n_neuroids": ("dataset.n_neuroids=4",),
    "SyntheticDataset.n_repetitions": ("dataset.n_repetitions=2",),
    "SyntheticDataset.n_categories": ("dataset.n_categories=4",),
    "SyntheticDataset.image_px": ("dataset.image_px=17",),
    "SyntheticDataset.seed": ("dataset.seed=1",),
    "FixedProtocol.train": ("protocol={kind: fixed}", SWAPPED),
    "FixedProtocol.test": (SWAPPED, "protocol={kind: fixed}"),
    "KFoldProtocol.n_splits": ("protocol.n_splits=4",),
    "KFoldProtocol.by": ("protocol.by=object",),
    "KFoldProtocol.seed": ("protocol.seed=1",),
    "StratifiedProtocol.n_splits": (STRATIFIED, "protocol.n_splits=3"),
    "StratifiedProtocol.train_size": (STRATIFIED, "protocol.train_size=0.5"),
    "StratifiedProtocol.seed": (STRATIFIED, "protocol.seed=2"),
    "ModelConfig.library": ("models.0={library: pixels}",),
    "ModelConfig.names": ("models.0.layers=auto", "models.0.names=test_byobnet"),
    "ModelConfig.weights": ("models.0.weights=CHECKPOINT",),
    "ModelConfig.seeds": ("models.0.seeds=[1]",),
    "ModelConfig.layers": ("models.0.layers=[layer4]",),
    "FeaturesConfig.keep": ("models.0.features.0.keep=average",),
    "FeaturesConfig.n_dims": ("models.0.features.0.n_dims=21",),
    "FeaturesConfig.eps": ("models.0.features.1.eps=0.8",),
    "FeaturesConfig.seed": ("models.0.features.0.seed=1",),
    "FeaturesConfig.dtype": ("models.0.features.0.dtype=float16",),
    "RidgeReadout.n_components": ("readouts.0.n_components=4",),
    "RidgeReadout.alphas": ("readouts.0.alphas=auto",),
    "RidgeReadout.alpha": ("readouts.0.alpha=shared",),
    "RidgeReadout.folds": ("readouts.0.folds=4",),
    "AlphaGrid.min": ("readouts.0.alphas.min=2",),
    "AlphaGrid.max": ("readouts.0.alphas.max=200",),
    "AlphaGrid.n": ("readouts.0.alphas.n=4",),
    "LinearReadout.n_components": ("readouts.1.n_components=4",),
    "PlsReadout.n_components": ("readouts.2.n_components=3",),
    "PlsReadout.neurons": ("readouts.2.neurons=separate",),
    "PlsReadout.tolerance": ("readouts.2.tolerance=0.000001",),
    "RdmReadout.distance": ("readouts.3.distance=cosine",),
    "RdmReadout.comparison": ("readouts.3.comparison=pearson",),
    "RdmReadout.level": ("readouts.3.level=object",),
    "TrainingConfig.trained": ("training.zoo.trained=none",),
    "TrainingConfig.decoder": ("training.zoo.decoder={pool_px: 2}",),
    "TrainingConfig.objectives": ("training.zoo.objectives={mse: 1, category: 2}",),
    "TrainingConfig.n_logits": ("training.zoo.n_logits=5",),
    "TrainingConfig.recipe": ("training.zoo.recipe.batch_size=6",),
    "TrainingConfig.seeds": ("training.zoo.seeds=1",),
    "TrainingConfig.folds": ("training.zoo.folds=1",),
    "TrainingConfig.predict": ("training.zoo.predict=val",),
    "ZooNetwork.library": (ALEXNET,),
    "ZooNetwork.names": ("training.zoo.network.layers=null", "training.zoo.network.names=test_vit"),
    "ZooNetwork.weights": ("training.zoo.network.weights=CHECKPOINT",),
    "ZooNetwork.layers": ("training.zoo.network.layers=layer2",),
    "ZooNetwork.n_blocks": (ALEXNET, "training.zoo.network.n_blocks=5"),
    "ZooNetwork.input_px": ("training.zoo.network.input_px=48",),
    "ShallowNetwork.weights": ("training.shallow.network.weights=trained:plain",),
    "ShallowNetwork.channels": ("training.shallow.network.channels=[3]",),
    "ShallowNetwork.kernel_px": ("training.shallow.network.kernel_px=5",),
    "ShallowNetwork.pooling": ("training.shallow.network.pooling=average",),
    "ShallowNetwork.normalised": ("training.shallow.network.normalised=true",),
    "ShallowNetwork.dropout": ("training.shallow.network.dropout=0.1",),
    "ShallowNetwork.input_px": ("training.shallow.network.input_px=32",),
    "HmoNetwork.brief": ("training.grown.network.brief.n_epochs=3",),
    "HmoNetwork.space": ("training.grown.network.space={channels: [16]}",),
    "HmoNetwork.n_modules": ("training.grown.network.n_modules=5",),
    "HmoNetwork.n_chosen": ("training.grown.network.n_chosen=1",),
    "HmoNetwork.n_stages": ("training.grown.network.n_stages=1",),
    "HmoNetwork.n_features": ("training.grown.network.n_features=50",),
    "HmoNetwork.selection_share": ("training.grown.network.selection_share=0.5",),
    "HmoNetwork.input_px": ("training.grown.network.input_px=32",),
    "SearchConfig.kind": ("training.shallow.search={over: {optimizer.lr: [0.1, 0.01, 0.001]}}",),
    "SearchConfig.over": ("training.shallow.search.over={optimizer.lr: [0.1, 0.01, 0.001]}",),
    "SearchConfig.n_trials": ("training.shallow.search.n_trials=4",),
    "SearchConfig.seed": ("training.shallow.search.seed=1",),
    "SearchConfig.refit": ("training.shallow.search.refit=true",),
    "Range.min": ("training.shallow.search.over={optimizer.lr: {min: 0.002, max: 0.1}}",),
    "Range.max": ("training.shallow.search.over={optimizer.lr: {min: 0.001, max: 0.2}}",),
    "Range.log": (
        "training.shallow.search.over={optimizer.lr: {min: 1, max: 9}}",
        "training.shallow.search.over={optimizer.lr: {min: 1, max: 9, log: true}}",
    ),
    "HalvingConfig.eta": ("training.shallow.search.halving.eta=3",),
    "HalvingConfig.first_epochs": ("training.shallow.search.halving.first_epochs=2",),
    "PcaConfig.solver": ("pca.solver=incremental",),
    "StatisticsConfig.bootstrap": ("statistics.bootstrap=10",),
    "StatisticsConfig.permutations": ("statistics.permutations=10",),
    "StatisticsConfig.ceiling_images": ("statistics.ceiling_images=all",),
    "ExtractionConfig.autocast": ("extraction.autocast=bfloat16",),
}  # fmt: skip
# Names, and how and where things run: no result depends on them.
HOW: dict[str, str] = {
    "SweepConfig.name": "name=other",
    "SyntheticDataset.name": "dataset.name=synthetic-other",
    "RidgeReadout.name": "readouts.0.name=other",
    "LinearReadout.name": "readouts.1.name=other",
    "PlsReadout.name": "readouts.2.name=other",
    "RdmReadout.name": "readouts.3.name=other",
    "CkaReadout.name": "readouts.4.name=other",
    "ShallowNetwork.name": "training.shallow.network.name=other",
    "HmoNetwork.name": "training.grown.network.name=other",
    "TrainingConfig.device": "training.zoo.device=cpu",
    "TrainingConfig.compile": "training.zoo.compile=true",
    "TrainingConfig.checkpoint_s": "training.zoo.checkpoint_s=1",
    "DaskConfig.workers": "dask.workers=processes",
    "DaskConfig.n_nodes": "dask={workers: allocation, n_nodes: 2}",
    "ExtractionConfig.batch_size": "extraction.batch_size=2",
    "ExtractionConfig.device": "extraction.device=cpu",
    "ExtractionConfig.compile": "extraction.compile=true",
    "ExecutorConfig.kind": "executor.kind=local",
    "ExecutorConfig.max_parallel": "executor.max_parallel=2",
    "ExecutorConfig.profile": "executor.profile=other",
    "ExecutorConfig.canary_above": "executor.canary_above=5",
    "Resources.cpus": "resources.encode.cpus=1",
    "Resources.gpus": "resources.train.gpus=1",
    "Resources.memory_gb": "resources.extract.memory_gb=9",
    "Resources.timeout_min": "resources.encode.timeout_min=5",
}
# How the work is cut into tasks: these have other ids, what is made of them has not.
CUTS = {
    "ExtractionConfig.parts": ("extraction.parts=2", "extract"),
    "HmoNetwork.modules_per_task": ("training.grown.network.modules_per_task=2", "train"),
}
# What is loaded from files is in the ids by its content: see OF_FILES. Rules leave rows out.
BY_CONTENT = {"Nx414Dataset", "MajajHongDataset", "Xiao2024Dataset", "FilesDataset", "SquareFrame"}
OF_NO_RESULT = {"Sizes", "ExcludeRule"}


def sections(annotation: Any) -> dict[type[BaseModel], None]:
    """The classes of a config that a type speaks of, one below another."""
    found: dict[type[BaseModel], None] = {}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found[annotation] = None
        for field in annotation.model_fields.values():
            found |= sections(field.annotation)
    for part in get_args(annotation):
        found |= sections(part)
    return found


def keys() -> set[str]:
    """Class and name of every key of a config that has a value of its own to choose."""
    return {
        f"{section.__name__}.{name}"
        for section in sections(SweepConfig)
        for name, field in section.model_fields.items()
        if section.__name__ not in BY_CONTENT | OF_NO_RESULT
        if len(get_args(field.annotation)) != 1 or get_origin(field.annotation) is not Literal
        if not sections(field.annotation) or f"{section.__name__}.{name}" in DECIDES
    }


def test_of_every_key_it_is_known_whether_results_depend_on_it() -> None:
    known = [*DECIDES, *HOW, *CUTS]
    assert len(known) == len(set(known))
    assert set(known) == keys()


@cache
def changed(folder: Path, *overrides: str) -> Plan:
    path = folder / "keys.yaml"
    path.write_text(KEYS, encoding="utf-8")
    return remembering(folder, *load_config(path, overrides))


@pytest.mark.parametrize("key", DECIDES)
def test_what_decides_a_result_is_in_its_id(
    remembered: Path, checkpoints: list[str], key: str
) -> None:
    *first, change = [one.replace("CHECKPOINT", checkpoints[0]) for one in DECIDES[key]]
    before, after = changed(remembered, *first), changed(remembered, *first, change)
    assert ids(after) - ids(before)


@pytest.mark.parametrize("key", HOW)
def test_names_and_how_it_runs_are_in_no_id(remembered: Path, key: str) -> None:
    assert ids(changed(remembered, HOW[key])) == ids(changed(remembered))


@pytest.mark.parametrize("key", CUTS)
def test_how_the_work_is_cut_changes_only_its_parts(remembered: Path, key: str) -> None:
    override, kind = CUTS[key]
    before, after = changed(remembered), changed(remembered, override)
    other = {task.id for task in before.tasks} ^ {task.id for task in after.tasks}
    assert other and all(task_id.startswith(kind) for task_id in other)
    assert {task.id for task in before.train if task.params["step"] != "modules"} <= ids(after)


FIXATIONS = {"align": "fixation", "frame": None}
WIDER = {"field_of_view_deg": 10}
# Key of a class → the data set, what to change first, and the change that changes what is loaded.
OF_FILES: dict[str, tuple[Callable[[Path, str], Config], Config, Config]] = {
    "MajajHongDataset.regions": (majaj_hong, {}, {"regions": ["IT"]}),
    "MajajHongDataset.animals": (majaj_hong, {}, {"animals": ["Tito"]}),
    "MajajHongDataset.variations": (majaj_hong, {"val_variation": None}, {"variations": [3]}),
    "MajajHongDataset.val_variation": (majaj_hong, {}, {"val_variation": None}),
    "MajajHongDataset.field_of_view_deg": (majaj_hong, {}, WIDER),
    "MajajHongDataset.background": (majaj_hong, WIDER, {"background": [0, 0, 0]}),
    "Xiao2024Dataset.session_table": (xiao2024, {}, {"session_table": None}),
    "Xiao2024Dataset.region": (xiao2024, {"session_table": None}, {"region": "IT"}),
    "Xiao2024Dataset.label_table": (xiao2024, {}, {"label_table": None}),
    "Xiao2024Dataset.align": (xiao2024, FIXATIONS, {"align": "image"}),
    "Xiao2024Dataset.window_ms": (xiao2024, {}, {"window_ms": [50, 150]}),
    "Xiao2024Dataset.baseline_ms": (xiao2024, {}, {"baseline_ms": [-100, 0]}),
    "Xiao2024Dataset.stabilise": (xiao2024, {}, {"stabilise": "sqrt"}),
    "Xiao2024Dataset.zscore": (xiao2024, {}, {"zscore": True}),
    "Xiao2024Dataset.gaze_latency_ms": (xiao2024, FIXATIONS, {"gaze_latency_ms": 20}),
    "Xiao2024Dataset.patch_deg": (xiao2024, FIXATIONS, {"patch_deg": 3}),
    "Xiao2024Dataset.frame": (xiao2024, {}, {"frame": None}),
    "SquareFrame.mode": (xiao2024, {}, {"frame": {"mode": "pad"}}),
    "SquareFrame.size_px": (xiao2024, {}, {"frame": {"mode": "letterbox", "size_px": 40}}),
    "SquareFrame.background": (
        xiao2024,
        {},
        {"frame": {"mode": "letterbox", "size_px": 32, "background": [0, 0, 0]}},
    ),
    "FilesDataset.stimulus_table": (own_files, {}, {"stimulus_table": None}),
    "FilesDataset.neuroid_table": (own_files, {}, {"neuroid_table": None}),
    "FilesDataset.region": (own_files, {"neuroid_table": None}, {"region": "IT"}),
    "FilesDataset.framed": (own_files, {}, {"framed": True}),
    "FilesDataset.frame": (own_files, {}, {"frame": {"mode": "pad"}}),
}
# Names; where files are, whose content is what counts; how an array lies in its file, and what is
# refused; and of two areas that a recording here does not have.
OF_NO_CONTENT = {
    *(f"{section}.name" for section in BY_CONTENT - {"SquareFrame"}),
    "Nx414Dataset.path",
    "MajajHongDataset.path",
    "Xiao2024Dataset.sessions",
    "Xiao2024Dataset.images",
    "Xiao2024Dataset.regions",
    "FilesDataset.images",
    "FilesDataset.image_order",
    "FilesDataset.neuroid_columns",
    "FilesDataset.responses",
    "FilesDataset.response_axes",
    "FilesDataset.missing_responses",
}


PIXELS = {"models": [{"library": "pixels"}], "readouts": [{"kind": "linear"}]}


def ids_of_data(folder: Path, dataset: Config) -> set[str]:
    protocol = {"kind": "fixed"} if "align" in dataset else {"kind": "kfold", "n_splits": 2}
    plan = plan_of(folder, {"name": "x", "protocol": protocol, **PIXELS, "dataset": dataset})
    return {task.id for task in plan.encode}


def test_of_every_key_of_a_file_it_is_known_whether_content_depends_on_it() -> None:
    given = {
        f"{section.__name__}.{name}"
        for section in sections(SweepConfig)
        for name in section.model_fields
        if section.__name__ in BY_CONTENT and name not in ("kind", "sizes")
    }
    assert given == OF_FILES.keys() | OF_NO_CONTENT
    assert not OF_FILES.keys() & OF_NO_CONTENT


@pytest.mark.parametrize("key", OF_FILES)
def test_what_decides_the_content_of_a_data_set_is_in_the_ids_of_scores(
    remembered: Path, tmp_path: Path, key: str
) -> None:
    make, first, change = OF_FILES[key]
    dataset = make(tmp_path, "npy") | first
    before = ids_of_data(remembered, dataset)
    assert not before & ids_of_data(remembered, dataset | change)


@pytest.mark.parametrize("make", [own_files, nx414, majaj_hong, xiao2024])
def test_where_files_are_and_what_they_are_called_is_in_no_id(
    remembered: Path, tmp_path: Path, make: Callable[[Path, str], Config]
) -> None:
    (tmp_path / "here").mkdir()
    dataset = make(tmp_path / "here", "npy")
    before = ids_of_data(remembered, dataset)
    moved = {
        key: value.replace(str(tmp_path / "here"), str(tmp_path / "there"))
        if isinstance(value, str)
        else value
        for key, value in dataset.items()
    }
    (tmp_path / "here").rename(tmp_path / "there")
    assert ids_of_data(remembered, {**moved, "name": "other"}) == before
