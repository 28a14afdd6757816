"""What holds between configs: more is only more, order is nothing, names are labels."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.run import work_through
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.plan import Plan, make_plan
from toolkit.results import Tables, collect_run, load
from toolkit.yaml_source import ConfigError

Config = dict[str, Any]
Row = tuple[str, tuple[tuple[str, Any], ...]]

SMALL = {"kind": "synthetic", "n_train": 24, "n_val": 12, "n_categories": 3, "image_px": 16}
# The first and the last are one data set, under two names.
DATASETS = [
    {**SMALL, "name": "one", "n_neuroids": 3},
    {**SMALL, "name": "same images", "n_neuroids": 4},
    {**SMALL, "name": "other", "n_neuroids": 3, "seed": 1},
    {**SMALL, "name": "one again", "n_neuroids": 3, "seed": 0},
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
    {"kind": "stratified", "n_splits": 2},
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
    return make_plan(*load_config(path), Catalog(folder / "catalog.json"))


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


@settings(max_examples=25, deadline=None)
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


@settings(max_examples=15, deadline=None)
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
            {"dataset": [DATASETS[0], {**DATASETS[1], "name": "one"}]},
            ("sweep.yaml:", "dataset[1].name: a data set called 'one' stands at dataset[0]", "one-1"),
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
    """The tables of a run in this process; every planned row must be one of its rows."""
    run = RunFolder(folder)
    run.create()
    run.write_plan(plan.tasks, {})
    work_through(run, run.tasks(), 1)
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
    from rich.console import Console

    from toolkit.results import print_best

    config = {
        "name": "relations",
        "dataset": DATASETS[0],
        "models": [{**TIMM, "weights": checkpoints, "layers": "layer4"}],
        "readouts": [{"kind": "ridge"}],
    }
    console = Console(width=200)
    with console.capture() as printed:
        print_best(computed(tmp_path / "run", plan_of(remembered, config)).results, console)
    assert "a/best.pth" in printed.get() and "b/best.pth" in printed.get()
