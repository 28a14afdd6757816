"""Trainings as tasks of a sweep: what they leave behind, and what is used of it elsewhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from training_sweeps import collected, sweep

from jobs.assignments import assignment_of, rows_of
from jobs.interruption import Interruption, JobEndingError
from jobs.run import work_through
from jobs.session import Session
from toolkit.cluster.run_folder import RunFolder
from toolkit.metrics import explained_variance
from toolkit.models import ModelSpec, load_network
from toolkit.results import read_scores
from toolkit.task import Task
from toolkit.training import load_trained, predict, save_trained, train
from toolkit.training.preparation import carve_validation

CONFIG = """\
name: tiny
dataset: {kind: synthetic, n_train: 60, n_val: 30, n_neuroids: 6, image_px: 32, n_categories: 3}
training:
  joint:
    network: {library: shallow, channels: [4, 8], normalised: true, input_px: 32}
    decoder: {pool_px: 2}
    objectives: {mse: 1, category: 0.3}
    recipe: {n_epochs: 3, batch_size: 20, optimizer: {lr: 1e-2}}
    predict: val
  classes:
    network: {library: timm, names: test_resnet, weights: random, input_px: 32}
    objectives: category
    recipe: {n_epochs: 2, batch_size: 20}
  tuned:
    network: {library: timm, names: test_resnet, weights: "trained:classes", input_px: 32}
    trained: [all, none]
    recipe: {n_epochs: 2, batch_size: 20}
models:
  - {weights: "trained:classes", layers: [layer1]}
  - {library: timm, names: test_resnet, weights: "trained:tuned", layers: [layer1]}
readouts: [{kind: ridge, n_components: 10}]
executor: {kind: inprocess}
resources: {extract: {cpus: 1}, encode: {cpus: 1}, train: {cpus: 1}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(config: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that no test changes."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    sweep(config, folder)
    return RunFolder(folder)


@pytest.fixture(scope="module")
def rows(finished: RunFolder) -> pd.DataFrame:
    return collected(finished.path)


def task_of(run: RunFolder, training: str, readout: str = "finetune") -> Task:
    (found,) = [
        task
        for task in run.tasks()
        if task.columns.get("training") == training and task.columns.get("readout") == readout
    ]
    return found


def trunk_of(run: RunFolder, task: Task) -> dict[str, torch.Tensor]:
    weights = load_file(run.network_path(task.id))
    return {name: value for name, value in weights.items() if name.startswith("trunk.")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_every_training_has_a_row_like_that_of_a_readout(rows: pd.DataFrame) -> None:
    trained = rows[rows["step"] == "training"].set_index(["training", "readout"])
    assert (rows["status"] == "done").all()
    assert (trained["outcome"] == "trained").all()
    joint = trained.loc["joint", "finetune"]
    assert (joint["n_train"], joint["n_test"], joint["n_epochs"]) == (54, 30, 3)
    assert np.isfinite(
        joint[["ev_mean", "r_median", "ceiled_median_2026", "val_score"]].astype(float)
    ).all()
    assert 0 <= joint["accuracy"] <= 1
    classes = trained.loc["classes", "finetune"]
    assert np.isnan(classes["ev_mean"]) and 0 <= classes["accuracy"] <= 1
    assert classes["n_neurons"] == 0
    readouts = rows[rows["readout"] == "pca10-ridge"]
    assert list(readouts["training"]) == ["classes", "tuned", "tuned"]
    assert readouts["weights"].str.startswith("trained:").all()
    assert readouts["weights"].nunique() == 3


def test_scores_are_those_of_the_test_images_alone(finished: RunFolder) -> None:
    task = task_of(finished, "joint")
    session = Session(finished, 1)
    assignment = assignment_of(task, session)
    train_rows, test = rows_of(task, assignment.dataset)
    assert not set(train_rows) & set(test)
    fitted, validation = carve_validation(train_rows, assignment.recipe)
    assert set(validation) < set(train_rows) and not set(validation) & set(fitted)
    trained = load_trained(finished.network_path(task.id))
    predicted = predict(trained, assignment.bank, test).responses
    neurons, summary = read_scores(finished.result_path(task.id))
    expected = explained_variance(assignment.dataset.responses[test], predicted)
    np.testing.assert_allclose(neurons["ev"], expected, rtol=1e-6, atol=1e-9)
    curve = pd.read_parquet(finished.curve_path(task.id))
    assert summary["val_score"] == pytest.approx(-curve["val_loss"].min())
    assert summary["best_epoch"] == curve["val_loss"].idxmin()


def test_the_weights_are_those_of_training_alone(finished: RunFolder, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task = task_of(finished, "joint")
    result = train(assignment_of(task, Session(finished, 1)), tmp_path / "alone")
    save_trained(result.path, replace(result.trained, task=task.id))
    assert result.path.read_bytes() == finished.network_path(task.id).read_bytes()
    assert not finished.checkpoints_path(task.id).exists()


def test_a_frozen_trunk_is_that_of_the_training_it_started_from(finished: RunFolder) -> None:
    classes = trunk_of(finished, task_of(finished, "classes"))
    assert same(trunk_of(finished, task_of(finished, "tuned", "frozen")), classes)
    assert not same(trunk_of(finished, task_of(finished, "tuned")), classes)


def features(run: RunFolder, weights: str) -> np.ndarray:
    import zarr

    for task in run.tasks():
        if task.kind == "extract" and task.options["weights"].startswith(weights):
            return zarr.open_group(run.features_path(task.id))["layer1"][:]
    raise AssertionError(weights)


def test_features_are_those_of_the_trained_network(finished: RunFolder) -> None:
    task = task_of(finished, "classes")
    trained = load_trained(finished.network_path(task.id)).trunk()
    library = load_network(ModelSpec("timm", "test_resnet"))
    library.module.load_state_dict(trained.module.state_dict(), strict=False)
    dataset = Session(finished, 1).dataset(task.options["dataset"])
    images = torch.stack(
        [trained.preprocessing(dataset.stimuli[i], dataset.stimuli.framed) for i in range(3)]
    )
    with torch.no_grad():
        expected = library.module.layer1(
            library.module.maxpool(
                library.module.act1(library.module.bn1(library.module.conv1(images)))
            )
        )
    found = features(finished, f"trained:{task.id}")[:3]
    np.testing.assert_allclose(found, expected.flatten(1), rtol=1e-4, atol=1e-5)


def test_predictions_name_their_images(finished: RunFolder) -> None:
    task = task_of(finished, "joint")
    table = pd.read_parquet(finished.predictions_path(task.id))
    dataset = Session(finished, 1).dataset(task.options["dataset"])
    test = dataset.splits["val"]
    assert list(table["stimulus_id"]) == [dataset.stimuli.ids[row] for row in test]
    assert set(table["predicted_category"]) <= set(dataset.category_names)
    ev = explained_variance(dataset.responses[test], table[list(dataset.neuroid_ids)].to_numpy())
    np.testing.assert_allclose(read_scores(finished.result_path(task.id))[0]["ev"], ev, rtol=1e-6)


def test_a_network_of_another_sweep_is_used_like_any(
    finished: RunFolder, config: Path, tmp_path: Path
) -> None:
    task = task_of(finished, "classes")
    (tmp_path / "other.yaml").write_text(
        "name: other\n"
        + CONFIG.splitlines()[1]
        + f"""
training:
  again:
    network:
      {{library: timm, names: test_resnet, weights: "run:{finished.path}/{task.id}", input_px: 32}}
    trained: none
    recipe: {{n_epochs: 1}}
models: [{{weights: "run:{finished.path}/{task.id}", layers: [layer1]}}]
readouts: [{{kind: ridge, n_components: 10}}]
executor: {{kind: inprocess}}
""",
        encoding="utf-8",
    )
    sweep(tmp_path / "other.yaml", tmp_path / "run")
    other = RunFolder(tmp_path / "run")
    assert same(trunk_of(other, task_of(other, "again", "frozen")), trunk_of(finished, task))
    (extract,) = [one for one in other.tasks() if one.kind == "extract"]
    assert len(extract.params["weights"]) == 64
    found = collected(other.path)
    mine = found[found["readout"] == "pca10-ridge"]
    theirs = collected(finished.path)
    theirs = theirs[(theirs["readout"] == "pca10-ridge") & (theirs["training"] == "classes")]
    np.testing.assert_allclose(mine["r_mean"], theirs["r_mean"], rtol=1e-5)


class _Warning(Interruption):
    """The scheduler's warning after so many looks at it."""

    def __init__(self, n_looks: int) -> None:
        super().__init__()
        self.n_looks, self.signal_name = n_looks, "SIGUSR2"

    @property
    def is_set(self) -> bool:
        self.n_looks -= 1
        return self.n_looks < 0


def test_a_warned_training_writes_a_checkpoint_and_goes_on_to_the_bit(
    finished: RunFolder, tmp_path: Path
) -> None:
    task = task_of(finished, "joint")
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan([task], {"name": "tiny"})
    for n_looks in (3, 2):
        with pytest.raises(JobEndingError):
            work_through(run, [task], 1, _Warning(n_looks))
        attempt = run.attempt(task.id)
        assert attempt is not None and attempt.state == "pending"
        assert (run.checkpoints_path(task.id) / "checkpoint.pt").is_file()
        assert not run.is_done(task.id)
    work_through(run, [task], 1)
    assert run.network_path(task.id).read_bytes() == finished.network_path(task.id).read_bytes()


def test_a_diverged_training_fails_by_name(finished: RunFolder, tmp_path: Path) -> None:
    task = task_of(finished, "joint")
    wild = {**task.params["recipe"], "optimizer": {**task.params["recipe"]["optimizer"], "lr": 1e9}}
    task = replace(task, params={**task.params, "recipe": wild})
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan([task], {"name": "tiny"})
    work_through(run, [task], 1)
    attempt = run.attempt(task.id)
    assert attempt is not None and attempt.error_class == "diverged"
    assert "optimizer.lr" in attempt.error_message


def test_changed_images_are_not_trained_on(finished: RunFolder, tmp_path: Path) -> None:
    task = task_of(finished, "joint")
    task = replace(task, params={**task.params, "stimuli": "0" * 64})
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan([task], {"name": "tiny"})
    work_through(run, [task], 1)
    attempt = run.attempt(task.id)
    assert attempt is not None and attempt.error_class == "data_changed"
