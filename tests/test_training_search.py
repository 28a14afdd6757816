"""Searches as tasks that are known beforehand: who goes on, who wins, and killed ones."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from training_sweeps import collected, plan_of, start, sweep

from jobs.assignments import assignment_of
from jobs.run import work_through
from jobs.session import Session
from jobs.train import ranking
from toolkit.cluster.run_folder import RunFolder
from toolkit.results import read_scores, write_scores
from toolkit.task import Task, TaskState
from toolkit.training import load_trained, save_trained, train

CONFIG = """\
name: tiny
dataset: {kind: synthetic, n_train: 60, n_val: 30, n_neuroids: 6, image_px: 32, n_categories: 3}
training:
  halved:
    network: {library: shallow, channels: [4, 8], normalised: true, dropout: 0.1, input_px: 32}
    decoder: {pool_px: 2}
    recipe:
      n_epochs: 4
      batch_size: 18
      schedule: {kind: onecycle, warmup_epochs: 1}
      validation_share: 0.2
    search:
      over: {optimizer.lr: [1e-4, 1e-2, 1e+9, 1e-3, 3e-3]}
      halving: {eta: 2}
      refit: true
executor: {kind: inprocess}
resources: {extract: {cpus: 1}, encode: {cpus: 1}, train: {cpus: 1}}
"""
KILLED = """\
name: tiny
dataset: {kind: synthetic, n_train: 120, n_val: 30, n_neuroids: 6, image_px: 32, n_categories: 3}
training:
  killed:
    network: {library: shallow, channels: [8, 16], normalised: true, dropout: 0.2, input_px: 32}
    decoder: {pool_px: 2, hidden: [20], dropout: 0.3}
    objectives: {mse: 1, object: 0.3}
    recipe:
      n_epochs: 8
      batch_size: 9
      optimizer: {kind: nadam, lr: 3e-3}
      schedule: {kind: onecycle, warmup_epochs: 2}
      augmentation: {flip: true, shift_px: 2}
      validation_share: 0.2
      patience: 6
      monitor: ev
    checkpoint_s: 0
executor: {kind: local}
resources: {extract: {cpus: 1}, encode: {cpus: 1}, train: {cpus: 1}}
"""
LR = [1e-4, 1e-2, 1e9, 1e-3, 3e-3]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(CONFIG, encoding="utf-8")
    sweep(folder / "tiny.yaml", folder / "run")
    return RunFolder(folder / "run")


@pytest.fixture(scope="module")
def rows(finished: RunFolder) -> pd.DataFrame:
    return collected(finished.path)


@pytest.fixture
def one_thread():
    """Sums over threads depend on their number."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def rung(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    return rows[rows["rung"] == number].set_index("slot")


def test_all_trials_are_in_the_table_and_only_the_winner_was_tested(rows: pd.DataFrame) -> None:
    assert list(rows["step"]) == ["trial"] * 5 + ["slot"] * (3 + 2) + ["winner"]
    assert (rows["status"] == "done").all()
    assert rows["ev_mean"].notna().tolist() == [False] * 10 + [True]
    assert (rows["n_test"][:-1] == 0).all()
    assert list(rung(rows, 0)["outcome"]) == ["trained", "trained", "diverged"] + ["trained"] * 2
    assert rows["recipe_digest"][:5].nunique() == 5


def test_the_best_of_a_rung_go_on_in_their_order(rows: pd.DataFrame) -> None:
    for number, n_epochs in ((1, 2), (2, 4)):
        before, after = rung(rows, number - 1), rung(rows, number)
        best = before.sort_values("val_score", ascending=False)["trial"].tolist()
        assert after["trial"].tolist() == best[: len(after)]
        assert (after["n_epochs"] == n_epochs).all()
        assert (
            after["val_score"].to_numpy()
            >= before.set_index("trial").loc[after["trial"], "val_score"].to_numpy()
        ).all()
    winner = rows.iloc[-1]
    last = rung(rows, 2)
    assert winner["trial"] == last.loc[last["val_score"].idxmax(), "trial"]
    assert winner["val_score"] == last["val_score"].max()
    assert winner["n_train"] == 60 and (last["n_train"] == 48).all()


@pytest.mark.usefixtures("one_thread")
def test_a_trial_in_rungs_is_the_trial_in_one_go(
    finished: RunFolder, rows: pd.DataFrame, tmp_path: Path
) -> None:
    row = rung(rows, 2).iloc[0]
    origin = finished.task(rung(rows, 0).loc[row["trial"], "task_id"])
    result = train(assignment_of(origin, Session(finished, 1)), tmp_path / "in one go")
    save_trained(result.path, replace(result.trained, task=row["task_id"]))
    assert result.path.read_bytes() == finished.network_path(row["task_id"]).read_bytes()
    curve = pd.DataFrame(result.curve).drop(columns="seconds")
    found = pd.read_parquet(finished.curve_path(row["task_id"])).drop(columns="seconds")
    pd.testing.assert_frame_equal(found, curve)


@pytest.mark.usefixtures("one_thread")
def test_the_winner_is_trained_again_on_all_training_images(
    finished: RunFolder, rows: pd.DataFrame
) -> None:
    winner = rows.iloc[-1]
    about = load_trained(finished.network_path(winner["task_id"])).about
    assert about["recipe"]["validation_share"] == 0
    assert about["recipe"]["optimizer"]["lr"] == LR[int(winner["trial"])]
    last = rung(rows, 2)
    assert winner["n_epochs"] == last.loc[last["val_score"].idxmax(), "best_epoch"] + 1


def test_nothing_is_left_of_what_nobody_needs(finished: RunFolder, rows: pd.DataFrame) -> None:
    assert not list(finished.path.glob("checkpoints/*/*"))
    kept = {path.parent.name for path in finished.path.glob("networks/*/weights.safetensors")}
    assert kept == set(rung(rows, 2)["task_id"]) | {rows.iloc[-1]["task_id"]}
    assert len(list(finished.path.glob("curves/*.parquet"))) == 10


@pytest.mark.usefixtures("one_thread")
def test_a_rung_whose_checkpoints_are_gone_is_trained_anew(
    finished: RunFolder, rows: pd.DataFrame, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path)
    row = rung(rows, 2).iloc[0]
    run.result_path(row["task_id"]).unlink()
    run.network_path(row["task_id"]).unlink()
    work_through(run, [run.task(row["task_id"])], 1)
    weights = finished.network_path(row["task_id"]).read_bytes()
    assert run.network_path(row["task_id"]).read_bytes() == weights
    assert "begins anew" in run.log_path(row["task_id"]).read_text()


def with_scores(run: RunFolder, tasks: list[Task], scores: list[float | None]) -> None:
    for task, score in zip(tasks, scores, strict=True):
        neurons, summary = read_scores(run.result_path(task.id))
        write_scores(run.result_path(task.id), neurons, {**summary, "val_score": score})


def test_ties_go_by_what_the_trials_are_and_diverged_trials_come_last(
    finished: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path)
    trials = [task for task in run.tasks() if task.params["step"] == "trial"]
    slot = next(task for task in run.tasks() if task.params["step"] == "slot")
    with_scores(run, trials, [-0.5, None, -0.25, None, -0.25])
    ids = [task.id for task in trials]
    expected = [*sorted((ids[2], ids[4])), ids[0], *sorted((ids[1], ids[3]))]
    assert [one.origin.id for one in ranking(slot, Session(run, 1))] == expected


def test_a_search_without_any_winner_says_so(finished: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path)
    *_, winner = run.tasks()
    last = [run.task(task_id) for task_id in winner.params["from"]]
    with_scores(run, last, [None] * len(last))
    run.result_path(winner.id).unlink()
    work_through(run, [winner], 1)
    attempt = run.attempt(winner.id)
    assert attempt is not None and attempt.error_class == "diverged"
    assert "trials diverged" in attempt.error_message


def kill_after(run: RunFolder, process, n_checkpoints: int) -> None:
    """Kill the job that trains, with SIGKILL, when it has written so many checkpoints."""
    import psutil

    seen: set[int] = set()
    while len(seen) < n_checkpoints:
        assert process.poll() is None, process.communicate()[0]
        for path in run.path.glob("checkpoints/*/checkpoint.pt"):
            try:
                seen.add(path.stat().st_mtime_ns)
            except FileNotFoundError:
                continue
    (attempt,) = [a for a in run.attempts().values() if a.state is TaskState.RUNNING]
    psutil.Process(attempt.pid).kill()


def test_killed_jobs_of_a_sweep_end_with_the_same_bits(tmp_path: Path) -> None:
    config = tmp_path / "killed.yaml"
    config.write_text(KILLED, encoding="utf-8")
    sweep(config, tmp_path / "undisturbed", "--executor", "inprocess")
    undisturbed = RunFolder(tmp_path / "undisturbed")
    (task,) = undisturbed.tasks()
    run = RunFolder(tmp_path / "run")
    for n_checkpoints in np.random.default_rng(0).integers(2, 20, 2):
        process = start(config, run.path)
        kill_after(run, process, int(n_checkpoints))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 1, output
        assert not run.is_done(task.id)
    sweep(config, run.path)
    assert "going on at epoch" in run.log_path(task.id).read_text()
    weights = undisturbed.network_path(task.id).read_bytes()
    assert run.network_path(task.id).read_bytes() == weights
    ours, theirs = (collected(one.path).iloc[0] for one in (run, undisturbed))
    for name in ("ev_mean", "r_median", "val_score", "accuracy", "best_epoch"):
        assert ours[name] == theirs[name], name


def test_trials_are_numbered_by_the_config_that_asks_for_them_now(
    finished: RunFolder, tmp_path: Path
) -> None:
    """A search in another order, and another search that shares a trial, reuse what is there."""
    run = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, run.path)
    order, other = [3e-3, 1e-4, 1e-2, 1e9, 1e-3], [5e-3, 1e-4]
    plan = plan_of(tmp_path, CONFIG, f"training.halved.search.over={over(order)}")
    assert {task.id for task in plan.tasks} == {task.id for task in finished.tasks()}
    entry = CONFIG.partition("training:\n")[2].partition("executor:")[0].replace("halved", "other")
    both = CONFIG.replace("executor:", f"{entry}executor:")
    overrides = [
        f"training.{name}.search.over={over(lr)}"
        for name, lr in (("halved", order), ("other", other))
    ]
    run.write_plan(plan_of(tmp_path, both, *overrides).tasks, finished.read_summary())
    rows = collected(run.path)
    done = rows[rows["status"] == "done"]
    assert done["training"].value_counts().to_dict() == {"halved": 11, "other": 1}
    for _, row in done.iterrows():
        lr = {"halved": order, "other": other}[row["training"]][int(row["trial"])]
        assert json.loads(row["recipe"])["recipe"]["optimizer"]["lr"] == lr


def over(lr: list[float]) -> str:
    return f"{{optimizer.lr: [{', '.join(f'{one:.1e}' for one in lr)}]}}"
