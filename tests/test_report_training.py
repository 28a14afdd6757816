"""Trainings and searches in a report: what is drawn, on paper and in a browser, is what was run."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_browser import (
    assert_quiet,
    hide,
    hovered,
    needs_browser,
    open_page,
    plot,
    start_browser,
    wait_for,
)
from report_runs import run_trainings, write_synthetic_search
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from toolkit import report
from toolkit.cluster.run_folder import RunFolder
from toolkit.report.chart import Chart
from toolkit.report.figures import all_charts
from toolkit.report.figures.training import MOST_CURVE_ROWS, learning_curves, search_results
from toolkit.report.paper import write_charts
from toolkit.report.recordings import Recordings
from toolkit.report.study import Study, read_study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_trainings(tmp_path_factory.mktemp("trainings"))


@pytest.fixture(scope="module")
def study(run: Path) -> Study:
    return read_study([run])


@pytest.fixture(scope="module")
def charts(study: Study) -> dict[str, Chart]:
    return {chart.name: chart for chart in all_charts(study, Recordings(study))}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    yield from start_browser(tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def opened(browser: webdriver.Chrome, run: Path) -> Iterator[webdriver.Chrome]:
    page = run / "report.html"
    if not page.is_file():
        report.main([run])
    open_page(browser, page, width=1200)
    yield browser
    assert_quiet(browser)


def curve_of(study: Study, **columns: object) -> tuple[pd.Series, pd.DataFrame]:
    """A row of the results, and its curve as the training left it."""
    rows = study.results
    for column, value in columns.items():
        rows = rows[rows[column] == value]
    (row,) = (row for _, row in rows.iterrows())
    return row, pd.read_parquet(RunFolder(study.runs[row["run"]]).curve_path(row["task_id"]))


def test_curves_are_those_that_the_trainings_left(study: Study, charts: dict[str, Chart]) -> None:
    chart = charts["learning_curves"]
    assert chart.measures[0].column == "epoch_loss"
    assert {"category", "epoch_ev", "epoch_r", "epoch_accuracy"} <= {
        m.column for m in chart.measures
    }
    row, curve = curve_of(study, training="joint", seed=1)
    line = chart.rows[chart.rows["row"] == row["row"]]
    for images, prefix in (("validation", "val"), ("training", "train")):
        drawn = line[line["images"] == images]
        assert list(drawn["epoch"]) == list(curve["epoch"])
        for column, name in (("epoch_loss", "loss"), ("category", "category"), ("mse", "mse")):
            np.testing.assert_array_equal(drawn[column], curve[f"{prefix}_{name}"])
    on_validation = line[line["images"] == "validation"]
    np.testing.assert_array_equal(on_validation["epoch_ev"], curve["val_ev"])
    assert line.loc[line["mark"] == "best epoch", "epoch"].tolist() == [row["best_epoch"]]
    assert row["n_epochs"] < 20
    assert on_validation["mark"].iloc[-1] == "stopped early"


def test_the_curve_of_another_training_is_none(study: Study, tmp_path: Path) -> None:
    (row, curve), (other, _) = (curve_of(study, training="joint", seed=seed) for seed in (0, 1))
    copied = replace(study, runs={row["run"]: tmp_path})
    target = RunFolder(tmp_path).curve_path(row["task_id"])
    target.parent.mkdir()
    for origin, is_own in ((row, True), (other, False)):
        path = RunFolder(study.runs[row["run"]]).curve_path(origin["task_id"])
        shutil.copy(path, target)
        found = copied.curve(row)
        assert (found is not None) == is_own
        if is_own:
            pd.testing.assert_frame_equal(found, curve)


def test_a_trial_is_one_line_as_far_as_it_came(study: Study, charts: dict[str, Chart]) -> None:
    rows = charts["learning_curves"].rows
    halved = rows[(rows["entry"] == "halved") & (rows["images"] != "training")]
    trials = study.results[study.results["step"].isin(["trial", "slot"])]
    winner = study.results.loc[study.results["step"] == "winner", "trial"].item()
    lines = halved.groupby("line")
    assert len(lines) == trials["trial"].nunique()
    for trial, own in trials.groupby("trial"):
        line = lines.get_group(f"trial {trial:.0f}" + ", winner" * (trial == winner))
        diverged = (own["outcome"] == "diverged").any()
        assert (line["mark"] == "diverged").sum() == diverged
        if not diverged:
            assert list(line["epoch"]) == list(range(int(own["n_epochs"].max())))
        lr = json.loads(own["recipe"].iloc[0])["recipe"]["optimizer"]["lr"]
        assert f"optimizer.lr {json.dumps(lr)}" in line["searched"].iloc[0]
    assert (halved["mark"] == "diverged").sum() == 2


def test_every_score_of_a_search_is_drawn_against_every_field(
    study: Study, charts: dict[str, Chart]
) -> None:
    chart = charts["search_results"]
    trials = study.results[study.results["step"].isin(["trial", "slot"])]
    assert [name for name, _ in chart.panels] == ["optimizer.kind", "optimizer.lr"]
    for field, rows in chart.panels:
        assert list(rows["row"]) == list(trials["row"])
        for (_, row), (_, task) in zip(rows.iterrows(), trials.iterrows(), strict=True):
            optimizer = json.loads(task["recipe"])["recipe"]["optimizer"]
            value = optimizer[field.removeprefix("optimizer.")]
            assert row["value"] == (value if isinstance(value, str) else json.dumps(value))
            assert row["val_score"] == task["val_score"] or math.isnan(task["val_score"])
            assert (row["mark"] == "diverged") == (task["outcome"] == "diverged")
        won = rows[rows["mark"] == "winner"]
        assert list(won["rung_name"]) == ["rung 2, to epoch 3"]
        assert won["val_score"].item() == trials["val_score"].max()


def test_figures_come_with_text_as_text(charts: dict[str, Chart], tmp_path: Path) -> None:
    curves = charts["learning_curves"]
    ev = next(measure for measure in curves.measures if measure.column == "epoch_ev")
    files = write_charts([replace(curves, measures=(ev,)), charts["search_results"]], tmp_path)
    assert {path.suffix for path in files} == {".png", ".svg", ".pdf"}
    svg = (tmp_path / "search_results.svg").read_text(encoding="utf-8")
    for text in ("optimizer.lr", "winner", "diverged", "sgd"):
        assert f">{text}<" in svg
    svg = (tmp_path / "learning_curves.svg").read_text(encoding="utf-8")
    for text in ("seed 0", "best epoch", "stopped early", "explained variance"):
        assert f">{text}<" in svg
    assert b"/FontFile2" in (tmp_path / "search_results.pdf").read_bytes()


def test_the_cost_of_a_trained_network_has_that_of_its_search(
    study: Study, charts: dict[str, Chart]
) -> None:
    costs = charts["cost"].rows
    searched = study.results[study.results["training"] == "halved"]
    searching = searched.loc[searched["step"].notna(), "seconds"].sum()
    winner = costs[costs["step"] == "winner"].iloc[0]
    assert winner["train_s"] == winner["device_s"] == pytest.approx(searching)
    read_out = costs[costs["weights"] == "trained:halved"]
    assert len(read_out) == 2
    np.testing.assert_allclose(read_out["train_s"], searching)
    np.testing.assert_allclose(
        read_out["encode_s"], searched.loc[searched["step"].isna(), "seconds"].sum()
    )
    assert (read_out["extract_s"] > 0).all()


def test_each_data_set_has_its_matrices_sites_and_predictions(charts: dict[str, Chart]) -> None:
    names = {"synthetic", "synthetic-other"}
    assert {name for name, _ in charts["object_rdms"].panels} == names
    for figure in ("site_responses", "predicted_and_measured"):
        panels = [name.split(" · ")[0] for name, _ in charts[figure].panels]
        assert set(panels[:2]) == names  # by turns
        assert len(panels) == 6 + 5


def test_many_long_curves_stay_bounded(tmp_path: Path) -> None:
    folder = write_synthetic_search(tmp_path / "search", n_trials=200, n_epochs=100)
    study = read_study([folder])
    chart = learning_curves(study)
    assert chart is not None
    assert len(chart.rows) <= MOST_CURVE_ROWS + 2 * 200
    for _, line in chart.rows[chart.rows["images"] == "validation"].groupby("line"):
        (best,) = line.loc[line["mark"] == "best epoch", "epoch_ev"]
        assert best == line["epoch_ev"].max()
        assert {0, 99} <= set(line["epoch"])
    searched = search_results(study)
    assert searched is not None
    assert len(searched.rows) == 2 * 200
    page = tmp_path / "page.html"
    report.write_page([folder], page)
    assert page.stat().st_size < 6_000_000


@needs_browser
def test_curves_tell_the_numbers_of_their_files(opened: webdriver.Chrome, study: Study) -> None:
    row, curve = curve_of(study, training="joint", seed=0)
    host = plot(opened, "learning_curves")
    best = host.find_elements(By.CSS_SELECTOR, ".scatterlayer .trace .points path")
    label = next(
        text
        for text in (hovered(opened, mark, host) for mark in best)
        if "seed 0" in text and "best epoch" in text
    )
    assert f"epoch: {row['best_epoch']:.0f}" in label
    assert f"loss: {curve.loc[int(row['best_epoch']), 'val_loss']:.4g}" in label
    drawn = opened.execute_script(
        "return arguments[0].data.filter((t) => t.mode === 'lines').map((t) => t.y)", host
    )
    assert any(y == pytest.approx(list(curve["val_loss"])) for y in drawn)
    menu = Select(opened.find_element(By.CSS_SELECTOR, "[aria-label='Learning curves: quantity']"))
    menu.select_by_visible_text("explained variance")
    drawn = opened.execute_script(
        "return arguments[0].data.filter((t) => t.mode === 'lines').map((t) => t.y)", host
    )
    assert any(y == pytest.approx(list(curve["val_ev"])) for y in drawn)


@needs_browser
def test_a_search_tells_each_trial_and_its_marks(opened: webdriver.Chrome, study: Study) -> None:
    host = plot(opened, "search_results")
    menu = Select(opened.find_element(By.CSS_SELECTOR, "[aria-label='Searches: shown']"))
    menu.select_by_visible_text("optimizer.lr")
    assert opened.execute_script("return arguments[0].layout.xaxis.type", host) == "log"
    winner = study.results[study.results["step"] == "winner"].iloc[0]
    (star,) = opened.execute_script(
        "return arguments[0].data.filter((t) => t.name === 'winner').map((t) => [t.x, t.y])", host
    )
    lr = json.loads(winner["recipe"])["recipe"]["optimizer"]["lr"]
    assert star == [[lr], [pytest.approx(winner["val_score"])]]
    (label,) = opened.execute_script(
        "return arguments[0].data.filter((t) => t.name === 'diverged').map((t) => t.customdata[0])",
        host,
    )
    assert "optimizer.lr 1000000000.0" in label
    assert "validation score" not in label


@needs_browser
def test_the_filter_chooses_trainings(opened: webdriver.Chrome) -> None:
    host = plot(opened, "learning_curves")
    names = "return arguments[0].data.map((trace) => trace.name)"
    assert "seed 1" in opened.execute_script(names, host)
    hide(opened, "training", "joint")
    wait_for(lambda: "trial 0" in opened.execute_script(names, host))
    assert "seed 1" not in opened.execute_script(names, host)


@needs_browser
def test_a_phone_shows_trainings_without_scrolling(browser: webdriver.Chrome, run: Path) -> None:
    report.main([run])
    open_page(browser, run / "report.html", width=390, theme="dark")
    for name in ("learning_curves", "search_results"):
        assert plot(browser, name).find_element(By.CSS_SELECTOR, ".main-svg").size["width"] <= 390
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    assert_quiet(browser)
