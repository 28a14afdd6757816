"""The table of published and measured values: complete, unambiguous, and never made up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from training_sweeps import collected

from docs.generate import reports
from docs.generate.published import METRICS, Line, ReportError, SelectionError, lines
from docs.generate.reports import measure, work_digests
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.plan import Plan, make_plan
from toolkit.results import Tables, summarise, write_scores
from toolkit.results.columns import SUMMARY_COLUMNS, names
from toolkit.task import TaskKind

EXPERIMENTS = [f"A{n}" for n in range(1, 11)] + [f"B{n}" for n in range(1, 9)]
EXPERIMENTS += [f"C{n}" for n in range(1, 9)] + [f"D{n}" for n in range(1, 5)] + ["E1", "E2", "E3"]
CONFIGS = sorted(path.stem for path in reports.CONFIGS.glob("[A-E]*.yaml"))
ROOT = Path(__file__).resolve().parents[1]
BY_ID = {line.id: line for line in lines()}


@pytest.fixture(autouse=True)
def without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data paths of configs are relative to the working folder, in which there are none."""
    monkeypatch.chdir(tmp_path)


# What was published


def test_every_experiment_has_its_lines_and_every_config_is_named() -> None:
    assert list(dict.fromkeys(line.row for line in lines())) == EXPERIMENTS
    assert {line.config for line in lines()} == set(CONFIGS)
    assert len(BY_ID) == len(lines())


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.id)
def test_a_line_says_what_is_measured_and_how_it_is_written(line: Line) -> None:
    assert line.published and line.system
    assert bool(line.metrics) == bool(line.select)
    assert set(line.metrics) <= set(METRICS)
    if not isinstance(line.published, str):
        for text in line.published.values():
            value = float(text.rstrip(" %")) / (100 if "%" in text else 1)
            assert reports._written_like(text, str(value)) == text


def plan_rows(plan: Plan) -> pd.DataFrame:
    columns = [task.columns for task in plan.tasks if task.kind.gives_scores]
    return pd.DataFrame(columns)


@pytest.mark.parametrize("config", CONFIGS)
def test_each_line_selects_one_planned_row_of_its_own(config: str) -> None:
    rows = plan_rows(reports.plan_of(config, Path("catalog.json")))
    selected: list[int] = []
    for line in (line for line in lines() if line.config == config and line.select):
        found = line.rows_in(rows)
        assert (len(found) > 1) == line.is_best, line.id
        selected += list(found.index)
    assert len(selected) == len(set(selected))


def test_published_values_of_several_units() -> None:
    assert BY_ID["A1"].published == {"ev": "0.0953", "r": "0.2932"}
    assert BY_ID["C2 layer3"].published == {"ev": "40.70 %", "r": "63.24 %"}
    assert BY_ID["E2"].published == {"ev": "0.2100"}
    assert BY_ID["B3"].published == "about B2"


def test_none_or_several_rows_are_named() -> None:
    line = Line("A1", "", "pixels", "A1", "–", {"ev": "0.0"}, {"readout": "ridge"}, False)
    rows = pd.DataFrame({"experiment": ["A1", "A1", "A2"], "readout": ["ridge", "ridge", "ridge"]})
    with pytest.raises(SelectionError, match=r"'A1'.*readout.*ridge.* 2 of the 3 rows"):
        line.rows_in(rows)
    with pytest.raises(SelectionError, match="0 of the 1 rows"):
        line.rows_in(rows[2:])
    assert len(replace(line, is_best=True).rows_in(rows)) == 2


# What was measured: runs on stand-ins for IT_data.h5, synthetic throughout


def write_synthetic_stand_in(path: Path, *, n_val: int = 288, n_neurons: int = 168) -> Path:
    """Noise in the shape of the file, with tiny images; no value from it is kept."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, n in {"train": 2592, "val": n_val, "test": 320}.items():
            file[f"stimulus_{split}"] = random.uniform(-1, 1, (n, 3, 4, 4)).astype(np.float32)
            file[f"object_{split}"] = np.array([f"object{i % 64}".encode() for i in range(n)])
            if split != "test":
                file[f"spikes_{split}"] = random.normal(size=(n, n_neurons)).astype(np.float32)
    return path


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_stand_in(tmp_path_factory.mktemp("synthetic") / "IT_data.h5")


def plan_on(data: Path, config: str, *overrides: str) -> Plan:
    words = [f"dataset.path={data}", *overrides]
    loaded = load_config(reports.CONFIGS / f"{config}.yaml", words)
    return make_plan(*loaded, Catalog(Path("catalog.json")))


def synthetic_scores(run: RunFolder, task_id: str, r: float, n_test: int, n_neurons: int) -> None:
    """Publish made-up scores of a task; EV is half of r in every neuron."""
    numbers = np.full(n_neurons, r)
    neurons = pd.DataFrame(
        {
            "neuron_id": [f"synthetic-{i}" for i in range(n_neurons)],
            "region": "IT",
            "alpha": np.nan,
            "alpha_at_edge": np.nan,
            "ev": numbers / 2,
            "r": numbers,
            "r2": numbers / 3,
            "mse": 1 - numbers,
            "n_splits_scored": 1,
            "ceiling": np.nan,
        }
    )
    summary = {
        **dict.fromkeys(names(SUMMARY_COLUMNS)),
        **summarise(neurons),
        "n_train": 2592,
        "n_test": n_test,
        "n_splits": 1,
        "seconds": 1.0,
        "device": "cpu",
        "config_hash": "",
        "git_sha": "0" * 40,
        "versions": {},
        "created": datetime(2026, 1, 2, tzinfo=UTC),
    }
    write_scores(run.result_path(task_id), neurons, summary)


def made_run(
    plan: Plan,
    *,
    r_of: Callable[[dict], float] = lambda columns: 0.25,
    is_done: Callable[[dict], bool] = lambda columns: True,
    n_test: int = 288,
    n_neurons: int = 168,
) -> Path:
    """A run folder of a plan with made-up scores, collected."""
    run = RunFolder("synthetic-run")
    run.create()
    run.write_plan(plan.tasks, {"name": plan.name})
    for task in plan.tasks:
        if task.kind is TaskKind.EXTRACT:
            run.result_path(task.id).write_text("{}", encoding="utf-8")
        elif is_done(task.columns):
            synthetic_scores(run, task.id, r_of(task.columns), n_test, n_neurons)
    collected(run.path)
    return run.path


@pytest.mark.parametrize("config", ["A3_A4", "A7", "A10", "B3", "B6", "C1", "E3"])
def test_planned_without_the_data_the_work_is_the_same(config: str, stand_in: Path) -> None:
    here = plan_on(stand_in, config)
    absent = reports.plan_of(config, Path("catalog.json"))
    assert here.datasets[0].is_present and not absent.datasets[0].is_present
    assert not {task.id for task in here.tasks} & {task.id for task in absent.tasks}
    assert list(work_digests(here.tasks).values()) == list(work_digests(absent.tasks).values())
    assert len(set(work_digests(here.tasks).values())) == len(here.tasks)


def test_how_many_tasks_share_the_images_is_not_part_of_the_work(stand_in: Path) -> None:
    whole, shared = plan_on(stand_in, "B3"), plan_on(stand_in, "B3", "extraction.parts=3")
    assert len(shared.extract) == 3 * len(whole.extract)
    digests = [work_digests(plan.tasks) for plan in (whole, shared)]
    assert set(digests[0].values()) == set(digests[1].values())


def test_a_changed_training_changes_the_work_of_what_follows_it(stand_in: Path) -> None:
    plan = plan_on(stand_in, "B3")
    shorter = plan_on(stand_in, "B3", "training.classes.recipe.n_epochs=1")
    same = set(work_digests(plan.tasks).values()) & set(work_digests(shorter.tasks).values())
    pretrained = [task for task in plan.encode if task.columns["weights"] == "pretrained"]
    assert len(same) == len(pretrained) + 1  # and their extraction


def test_each_layer_gets_the_value_of_its_row(stand_in: Path) -> None:
    layers = ["conv1", "layer1", "layer2", "layer3", "layer4", "avgpool"]
    heights = {"pretrained": 0.6, "random": 0.3}

    def height(columns: dict) -> float:
        return heights[columns["weights"]] + layers.index(columns["layer"]) / 100

    entries = measure(made_run(plan_on(stand_in, "C2_C3"), r_of=height))
    assert list(entries.columns) == list(reports.COLUMNS)
    values = entries.set_index(["line", "metric"])["value"].to_dict()
    expected = {}
    for row, weights in (("C2", "pretrained"), ("C3", "random")):
        for number, layer in enumerate(layers):
            r = heights[weights] + number / 100
            expected[f"{row} {layer}", "ev"] = f"{r / 2:.6g}"
            expected[f"{row} {layer}", "r"] = f"{r:.6g}"
    assert values == expected
    assert set(entries["row"]) == {f"resnet50 {layer}" for layer in layers}
    assert set(entries["n_neurons"]) == {168}
    assert set(entries["data_set"]) == {"nx414"}
    assert set(entries["date"]) == {"2026-01-02"}


def test_the_best_layer_is_the_one_with_the_highest_r(stand_in: Path) -> None:
    def height(columns: dict) -> float:
        heights = {"features.denseblock1": np.nan, "features.denseblock3": 0.5}
        return heights.get(columns["layer"], 0.2)

    entries = measure(made_run(plan_on(stand_in, "B4"), r_of=height)).set_index("metric")
    assert entries["value"].to_dict() == {"r2": f"{0.5 / 3:.6g}", "mse": "0.5", "ev": "0.25"}
    assert set(entries["row"]) == {"densenet169 features.denseblock3"}


def test_values_that_are_not_in_the_results_as_such() -> None:
    neurons = pd.DataFrame({"row_id": ["a", "a", "a", "b"], "r2": [-0.5, -0.1, 0.9, 7.0]})
    tables = Tables(results=pd.DataFrame(), neurons=neurons, tasks=pd.DataFrame())
    recipe = '{"recipe": {"optimizer": {"kind": "sgd", "lr": 3e-4}}}'
    row = {"row_id": "a", "recipe": recipe}
    assert METRICS["r2_median"].of(row, tables) == -0.1
    assert METRICS["optimizer"].of(row, tables) == "sgd, lr 0.0003"


def test_what_is_not_done_is_left_out(stand_in: Path) -> None:
    def is_done(columns: dict) -> bool:
        return columns["layer"] != "layer3"

    entries = measure(made_run(plan_on(stand_in, "A3_A4"), is_done=is_done))
    left_out = {line.id for line in lines() if line.config == "A3_A4"} - set(entries["line"])
    assert left_out == {"A3 layer3", "A4 layer3"}


def test_a_best_layer_waits_for_all_layers(stand_in: Path) -> None:
    run = made_run(plan_on(stand_in, "B4"), is_done=lambda columns: "3" not in columns["layer"])
    with pytest.raises(ReportError, match="no line of its config is done"):
        measure(run)


SYNTHETIC = "dataset={kind: synthetic, n_train: 1100, n_val: 20, image_px: 16}"


@pytest.mark.parametrize("name", ["A1", "shrunk-A1"])
def test_synthetic_neurons_are_refused(name: str, stand_in: Path) -> None:
    plan = plan_on(stand_in, "A1", SYNTHETIC, f"name={name}")
    with pytest.raises(ReportError, match="synthetic"):
        measure(made_run(plan))


@pytest.mark.parametrize(("n_val", "n_neurons"), [(200, 168), (288, 100)])
def test_data_of_other_sizes_are_refused(n_val: int, n_neurons: int, tmp_path: Path) -> None:
    data = write_synthetic_stand_in(tmp_path / "x.h5", n_val=n_val, n_neurons=n_neurons)
    run = made_run(plan_on(data, "A1"), n_test=n_val, n_neurons=n_neurons)
    with pytest.raises(ReportError, match="not the same data set"):
        measure(run)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["dataset.name=mine"], "data set is not that of the report: name"),
        (["name=mine"], "mine, which is no config of configs/reports: A1, A2"),
        (["readouts.0.folds=7"], "no task of configs/reports/A1.yaml as it is now"),
        (["readouts.0.n_components=10"], "'A1' selects .* 0 of the 1 rows"),
    ],
)
def test_runs_of_something_else_are_refused(
    overrides: list[str], reason: str, stand_in: Path
) -> None:
    run = made_run(plan_on(stand_in, "A1", *overrides))
    with pytest.raises(ReportError, match=reason):
        measure(run)


def test_a_shortened_training_is_refused(stand_in: Path) -> None:
    run = made_run(plan_on(stand_in, "A6", "training.base.recipe.n_epochs=1"))
    with pytest.raises(ReportError, match=r"train-.* \(A6\) is no task of configs/reports/A6.yaml"):
        measure(run)


def test_neurons_of_other_areas_are_refused() -> None:
    row = {"task_id": "encode-1", "dataset": "xiao2024", "region": "V1"}
    with pytest.raises(ReportError, match="of V1, those of the report of V1, V2, V4, PIT"):
        reports._refuse_other_sizes(BY_ID["D3"], row)


# The table and the page


def entry(line: str, metric: str, value: str, row: str = "net layer") -> dict[str, object]:
    about = {"row": row, "n_neurons": 168, "data_set": "nx414", "git_sha": "0" * 40}
    return {"line": line, "metric": metric, "value": value, **about, "date": "2026-01-02"}


def test_newer_values_replace_older_and_the_page_shows_them(tmp_path: Path) -> None:
    measured = tmp_path / "measured.csv"
    measured.write_text(",".join(reports.COLUMNS) + "\n", encoding="utf-8")
    reports.enter(
        pd.DataFrame([entry("C2 layer3", "ev", "0.4"), entry("A1", "ev", "0.1")]), measured
    )
    for entries in (
        [entry("C2 layer3", "ev", "0.4"), entry("A1", "ev", "0.1")],
        [entry("C2 layer3", "ev", "0.41236")],
        [entry("B4", "r2", "-0.12345"), entry("B6", "optimizer", "sgd, lr 0.1")],
    ):
        reports.enter(pd.DataFrame(entries), measured)
    table = reports.read_measured(measured)
    assert table[["line", "value"]].to_numpy().tolist() == [
        ["A1", "0.1"],
        ["B4", "-0.12345"],
        ["B6", "sgd, lr 0.1"],
        ["C2 layer3", "0.41236"],
    ]
    page = reports.page(measured)
    assert "| EV 40.70 %, r 63.24 % | EV 41.24 % |" in page
    assert "| EV 0.0953, r 0.2932 | EV 0.1000 |" in page
    assert "| R² −0.123 (net layer) |" in page
    assert "| sgd, lr 0.1 |" in page
    assert "Measured here so far: 4 of " in page


def test_without_values_the_cells_are_empty(tmp_path: Path) -> None:
    measured = tmp_path / "measured.csv"
    measured.write_text(",".join(reports.COLUMNS) + "\n", encoding="utf-8")
    tables = [line for line in reports.page(measured).splitlines() if line.startswith("|")]
    cells = [line.split("|")[-2].strip() for line in tables]
    assert set(cells) == {"", "---", "this project"}


def test_the_committed_values_are_of_lines_and_say_where_they_are_from() -> None:
    for value in reports.read_measured(reports.MEASURED).itertuples():
        assert value.metric in BY_ID[value.line].metrics
        assert value.data_set == ("xiao2024" if value.line.startswith("D") else "nx414")
        assert value.git_sha and value.date


def test_the_committed_page_is_the_generated_one() -> None:
    assert reports.PAGE.read_text(encoding="utf-8") == reports.page()


def test_the_command_enters_and_refuses(
    stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    measured, page = tmp_path / "measured.csv", tmp_path / "reports.md"
    measured.write_text(",".join(reports.COLUMNS) + "\n", encoding="utf-8")
    monkeypatch.setattr(reports, "MEASURED", measured)
    monkeypatch.setattr(reports, "PAGE", page)
    run = made_run(plan_on(stand_in, "A1"))
    assert reports.main([str(run)]) == 0
    assert "A1" in capsys.readouterr().out
    assert "| EV 0.1250, r 0.2500 |" in page.read_text(encoding="utf-8")
    before = measured.read_bytes()
    assert reports.main([str(run), str(tmp_path / "absent")]) == 2
    assert "absent is not a run folder" in capsys.readouterr().err
    assert measured.read_bytes() == before
