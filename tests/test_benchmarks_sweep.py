"""The benchmark of sweeps on Slurm, with few tasks."""

import re
from pathlib import Path

import pytest

from benchmarks.finished_run import write_config, write_finished_run
from benchmarks.sweep import Setting, _records, run_toolkit
from benchmarks.sweep_submitit import Turn, run_submitit
from slurm.devcluster import DevCluster
from toolkit.cluster.manifests import read_submissions
from toolkit.cluster.run_folder import RunFolder
from toolkit.results import load, read_scores
from toolkit.sweep import main
from toolkit.task import TaskKind

N_TASKS = 6


def test_submitit_runs_all_tasks(slurm_cluster: DevCluster, tmp_path: Path) -> None:
    turn = run_submitit(tmp_path, N_TASKS, "cpu")
    assert 0 < turn.submit_s < turn.results_s
    assert turn.n_queries >= 1
    assert turn.n_files == 4 * N_TASKS + turn.n_common_files == 25


@pytest.mark.parametrize(
    ("setting", "n_elements"),
    [
        (Setting(), [6]),
        (Setting(tasks_per_job=4), [2]),
        (Setting(canary_above=5), [1, 5]),
    ],
)
def test_the_toolkit_runs_all_tasks(
    slurm_cluster: DevCluster, tmp_path: Path, setting: Setting, n_elements: list[int]
) -> None:
    turn = run_toolkit(tmp_path, N_TASKS, setting)
    assert 0 < turn.submit_s < turn.results_s
    run = RunFolder(tmp_path)
    assert run.done_ids() == {task.id for task in run.tasks()}
    assert len(run.tasks()) == N_TASKS
    assert [len(submission.elements) for submission in read_submissions(run)] == n_elements
    assert turn.n_queries <= 1 + turn.results_s / 30
    # A result and a log each, what each job prints, and the script of each array.
    assert turn.n_files - turn.n_common_files == 2 * N_TASKS + sum(n_elements) + len(n_elements)


def test_a_round_is_compared_with_the_floor_of_the_same_round() -> None:
    floor = [Turn(1.0, 10.0, 2, 42, 2), Turn(2.0, 40.0, 3, 42, 2), Turn(4.0, 100.0, 3, 42, 2)]
    own = [Turn(3.0, 5.0, n_queries, 35, 5, 0.5) for n_queries in (0, 2, 1)]
    submit, results = _records("toolkit", own, floor, n_tasks=10)
    assert submit.ratio_to_floor == pytest.approx(1.5)
    assert results.ratio_to_floor == pytest.approx(5 / 40)
    assert (submit.seconds, results.seconds) == (3.0, 5.0)
    assert "0.50 s of it to plan" in submit.note
    assert "2 questions to the scheduler in 5 s; 3.00 files a task and 5 more" in results.note


def test_a_finished_run_looks_like_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slurm_cluster: DevCluster
) -> None:
    config, folder = tmp_path / "config.yaml", tmp_path / "run"
    write_config(config, 150)
    n_tasks = write_finished_run(config, folder)
    run = RunFolder.open(folder)
    assert len(run.tasks()) == n_tasks == 202
    assert main(["status", str(folder)]) == 0
    assert re.search(r"encode +200 ", capsys.readouterr().out)

    assert main(["plan", str(config), "--out", str(folder)]) == 0
    assert re.search(r"encode +200 +200 +0 ", capsys.readouterr().out)

    assert main([str(config), "--out", str(folder)]) == 0
    assert "Nothing to run" in capsys.readouterr().out
    table = load(folder).results
    assert len(table) == 200
    assert set(table["status"]) == {"done"}
    some = next(task for task in run.tasks() if task.kind is TaskKind.ENCODE)
    neurons, summary = read_scores(run.result_path(some.id))
    assert neurons["neuron_id"].str.startswith("synthetic").all()
    assert summary["r_mean"] == pytest.approx(neurons["r"].mean())
