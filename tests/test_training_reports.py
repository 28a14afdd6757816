"""Every training of the reports, shrunk to synthetic data: the same code path in seconds."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from training_sweeps import collected

from jobs.run import work_through
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.plan import make_plan

REPORTS = Path(__file__).resolve().parents[1] / "configs" / "reports"
SHRUNK = sorted(path for path in (REPORTS / "shrunk").glob("[A-E]*.yaml"))
TRAINED = sorted(p for p in REPORTS.glob("[A-E]*.yaml") if "training:" in p.read_text())
# Reference facts: the rows of the reports whose networks are trained.
ROWS = ["A6", "A7", "A8", "A9", "A10", "B3", "B5", "B6", "B7", "B8", "C4", "C5", "C6", "C7"]
ROWS += ["D1_D2_D3", "E2", "E3"]


def test_every_trained_report_has_a_config_and_a_shrunk_one() -> None:
    assert sorted(path.stem for path in TRAINED) == sorted(ROWS)
    assert sorted(path.stem for path in SHRUNK) == sorted(ROWS)


@pytest.mark.parametrize("path", SHRUNK, ids=lambda path: path.stem)
def test_a_shrunk_config_shortens_and_changes_nothing_else(path: Path) -> None:
    """What it says of recipes are numbers of epochs and images, no optimizer and no schedule."""
    training = yaml.safe_load(path.read_text(encoding="utf-8"))["training"]
    for entry in training.values():
        assert set(entry["recipe"]) <= {"n_epochs", "batch_size", "validation_share", "schedule"}
        assert set(entry["recipe"].get("schedule", {})) <= {"warmup_epochs"}
        assert "objectives" not in entry and "trained" not in entry


def run_config(path: Path, folder: Path) -> pd.DataFrame:
    config, source = load_config(path)
    plan = make_plan(config, source, Catalog(folder / "catalog.json"))
    run = RunFolder(folder / "run")
    run.create()
    run.write_plan(plan.tasks, {"name": plan.name})
    work_through(run, plan.tasks, 1)
    return collected(run.path)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHRUNK, ids=lambda path: path.stem)
def test_a_shrunk_report_runs_to_its_scores(path: Path, tmp_path: Path) -> None:
    rows = run_config(path, tmp_path)
    assert (rows["status"] == "done").all(), rows["error_message"].dropna().tolist()
    scored = rows[rows["step"].isin(["training", "winner", "grown"])]
    assert len(scored)
    neural = scored["objective"].str.contains("mse")
    assert np.isfinite(scored.loc[neural, ["ev_mean", "r2_mean", "mse_mean"]].to_numpy(float)).all()
    classes = scored["objective"].str.contains("object|category")
    assert scored.loc[classes, "accuracy"].between(0, 1).all()
    if table := os.environ.get("SHRUNK_TABLE"):
        columns = ["experiment", "training", "model", "layer", "weights", "readout", "objective"]
        columns += ["step", "ev_mean", "r_mean", "accuracy", "val_score", "seconds"]
        rows[columns].to_csv(table, mode="a", header=not Path(table).exists(), index=False)
