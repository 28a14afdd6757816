"""A network grown by the tasks of a sweep is the one that is grown in one go."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from training_sweeps import collected, plan_of

from jobs.assignments import bank_of, rows_of
from jobs.run import work_through
from jobs.session import Session
from toolkit.cluster.run_folder import RunFolder
from toolkit.training import load_trained
from toolkit.training.hmo.search import HmoData, HmoSearch, grow

GROWN = """\
name: tiny
dataset: {kind: synthetic, n_train: 60, n_val: 30, n_neuroids: 4, image_px: 32, n_categories: 3}
training:
  grown:
    network:
      library: hmo
      brief: {n_epochs: 2, batch_size: 20, optimizer: {lr: 3e-3}, validation_share: 0}
      space: {n_layers: [1, 2], channels: [4, 8], kernels_px: [3]}
      n_modules: 5
      n_chosen: 2
      n_stages: 2
      input_px: 32
      modules_per_task: 2
    objectives: category
    recipe: {n_epochs: 2, batch_size: 20}
models: [{weights: "trained:grown"}]
readouts: [{kind: pls, n_components: 5, neurons: separate}, {kind: rdm}]
resources: {train: {cpus: 1}}
"""


def run_tasks_of(folder: Path, text: str, *overrides: str) -> RunFolder:
    plan = plan_of(folder, text, *overrides)
    run = RunFolder(folder / "run")
    run.create()
    run.write_plan(plan.tasks, {"name": plan.name})
    work_through(run, plan.tasks, 1)
    return run


@pytest.mark.slow
def test_tasks_grow_what_one_go_grows(tmp_path: Path) -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = run_tasks_of(tmp_path, GROWN)
    rows = collected(run.path)
    assert (rows["status"] == "done").all()
    *_, last = [task for task in run.tasks() if task.kind == "train"]
    session = Session(run, 1)
    dataset = session.dataset(last.options["dataset"])
    trained = load_trained(run.network_path(last.id))
    bank = bank_of(session, dataset, trained.spec.trunk)
    data = HmoData(dataset, bank, *rows_of(last, dataset))
    result = grow(HmoSearch.from_plain(last.params["search"]), data, tmp_path / "one go")
    torch.set_num_threads(n_threads)
    weights = load_file(run.network_path(last.id))
    in_one_go = load_file(result.boosted.path)
    assert weights.keys() == in_one_go.keys()
    assert all(torch.equal(weights[name], in_one_go[name]) for name in weights)
    grown = rows[rows["step"] == "grown"].set_index("readout")["accuracy"]
    assert grown.to_dict() == result.accuracy
    layer = rows[rows["layer"] == "top"]
    assert (
        list(layer["readout"]) == ["pls5-separate", "rdm-correlation-spearman"] or len(layer) == 2
    )
    assert (layer["n_features"] == 1250).all()


CO_TRAINED = """\
name: tiny
training:
  co_trained:
    network: {library: shallow, channels: [4, 8], input_px: 32}
    decoder: {pool_px: 2}
    objectives: {object: 1, mse: 1}
    recipe: {n_epochs: 1, batch_size: 10}
    predict: test
resources: {train: {cpus: 1}}
"""


def test_a_split_without_responses_is_predicted(tmp_path: Path) -> None:
    path, rng = tmp_path / "IT_data.h5", np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, n in (("train", 30), ("val", 10), ("test", 7)):
            images = rng.uniform(-1, 1, (n, 3, 224, 224)).astype(np.float32)
            file[f"stimulus_{split}"] = images
            file[f"object_{split}"] = np.array([b"car", b"dog"] * n)[:n]
            if split != "test":
                file[f"spikes_{split}"] = rng.normal(size=(n, 4))
    run = run_tasks_of(tmp_path, CO_TRAINED, f"dataset={{kind: nx414, path: {path}}}")
    (task,) = run.tasks()
    table = pd.read_parquet(run.predictions_path(task.id))
    assert list(table["stimulus_id"]) == [f"test-{row:05d}" for row in range(7)]
    assert list(table["split"].unique()) == ["test"]
    neurons = [name for name in table if name.startswith("IT-")]
    assert [name.partition("@")[0] for name in neurons] == [f"IT-{i:03d}" for i in range(4)]
    assert np.isfinite(table[neurons].to_numpy()).all()
    assert set(table["predicted_object"]) <= {"car", "dog"}
    assert collected(run.path)["n_test"].item() == 10


def test_modules_in_other_batches_are_the_same_network(tmp_path: Path) -> None:
    few, many = (
        plan_of(tmp_path, GROWN, f"training.grown.network.modules_per_task={n}") for n in (1, 5)
    )
    assert len(few.train) == 5 * 3 + 3 and len(many.train) == 3 + 3
    assert [task.id for task in few.train[-3:]] == [task.id for task in many.train[-3:]]
    assert few.extract[0].id == many.extract[0].id
