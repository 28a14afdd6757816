"""The notebook of questions: it runs on any run, its answers are those of the tables, and the
committed one is clean."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from commands import sweep
from nbclient import NotebookClient
from report_runs import BROKEN_NETWORK, break_a_network

from toolkit.task import TaskKind

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "questions.ipynb"
RUN_LINE = 'RUN = "runs/quickstart"'
SMALLER = (
    "dataset.n_train=50",
    "dataset.n_val=25",
    "dataset.n_neuroids=10",
    "dataset.image_px=48",
    f"models=[{{library: pixels}}, {{library: timm, names: [test_resnet, {BROKEN_NETWORK}]}}]",
    "readouts.0.n_components=20",
    "readouts.2.n_components=20",
    "resources={extract: {cpus: 1}, encode: {cpus: 1}}",
)
# What the test looks at, from the notebook's own variables.
LOOK = """
best.reset_index().to_parquet({0!r} + "/best.parquet")
each.to_parquet({0!r} + "/each.parquet")
at_edge.to_parquet({0!r} + "/at_edge.parquet")
cost.drop(columns="inputs").to_parquet({0!r} + "/cost.parquet")
failed.drop(columns="inputs").to_parquet({0!r} + "/failed.parquet")
pd.DataFrame(map(vars, over_pixels.values()), over_pixels).to_parquet({0!r} + "/paired.parquet")
same = paired_difference(*[r_of(model="test_resnet", weights="random")] * 2)
pd.DataFrame([vars(same)]).to_parquet({0!r} + "/same.parquet")
"""


def read_notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart in small, of which one network's extraction has failed since."""
    folder = tmp_path_factory.mktemp("questions") / "run"
    words = [word for value in SMALLER for word in ("--set", value)]
    sweep("configs/quickstart.yaml", "--out", folder, *words)
    break_a_network(folder)
    return folder


@pytest.fixture(scope="module")
def answers(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Tables of the notebook, executed on the small run."""
    out = tmp_path_factory.mktemp("answers")
    book = read_notebook()
    assert book.cells[1].source.count(RUN_LINE) == 1
    book.cells[1].source = book.cells[1].source.replace(RUN_LINE, f"RUN = {str(small_run)!r}")
    book.cells.append(nbformat.v4.new_code_cell(LOOK.format(str(out))))
    NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    return SimpleNamespace(**{path.stem: pd.read_parquet(path) for path in out.glob("*.parquet")})


@pytest.fixture(scope="module")
def results(small_run: Path) -> pd.DataFrame:
    return pd.read_parquet(small_run / "results.parquet")


@pytest.fixture(scope="module")
def neurons(small_run: Path) -> pd.DataFrame:
    return pd.read_parquet(small_run / "neurons.parquet")


@pytest.mark.slow
def test_the_best_layer_is_that_of_the_table(
    answers: SimpleNamespace, results: pd.DataFrame, neurons: pd.DataFrame
) -> None:
    best = answers.best
    highest = results.groupby(["model", "readout"])["r_mean"].max().dropna()
    assert best.set_index(["model", "readout"])["r_mean"].to_dict() == highest.to_dict()
    assert best["r_mean"].is_monotonic_decreasing
    assert BROKEN_NETWORK not in set(best["model"])
    for row in best.itertuples():
        own = neurons[neurons["task_id"] == row.task_id]
        assert set(own["layer"]) == {row.layer}
        assert row.r_mean == pytest.approx(own["r"].mean())
        assert row.gap == pytest.approx((np.sqrt(own["ceiling"]) - own["r"]).mean())
        assert row.low < row.r_mean < row.high
        assert row.gap_low < row.gap < row.gap_high


@pytest.mark.slow
def test_networks_are_compared_neuron_by_neuron(
    answers: SimpleNamespace, results: pd.DataFrame, neurons: pd.DataFrame
) -> None:
    def best_r(model: str) -> pd.Series:
        rows = results[results["model"] == model].set_index("task_id")
        own = neurons[neurons["task_id"] == rows["r_mean"].idxmax()]
        return own.set_index("neuron_id")["r"]

    assert list(answers.paired.index) == ["test_resnet"]
    difference = (best_r("test_resnet") - best_r("pixels")).mean()
    assert answers.paired["mean"].item() == pytest.approx(difference)
    assert answers.paired["n_neurons"].item() == 10
    assert 0 < answers.paired["p_value"].item() <= 1
    assert answers.same[["mean", "p_value"]].to_numpy().tolist() == [[0, 1]]


@pytest.mark.slow
def test_the_neurons_are_those_of_the_best_network(
    answers: SimpleNamespace, neurons: pd.DataFrame
) -> None:
    own = neurons[neurons["task_id"] == answers.best["task_id"].iloc[0]].set_index("neuron_id")
    assert answers.each["r"].to_dict() == own["r"].to_dict()
    assert answers.each["highest"].to_dict() == pytest.approx((own["ceiling"] ** 0.5).to_dict())
    assert answers.each["share"].to_numpy() == pytest.approx(own["r"] / own["ceiling"] ** 0.5)


@pytest.mark.slow
def test_penalties_at_the_edge_are_named(answers: SimpleNamespace, results: pd.DataFrame) -> None:
    expected = results[results["alpha_at_edge"] > 0.01]
    assert 0 < len(answers.at_edge) <= 15
    assert answers.at_edge["r_mean"].tolist() == expected["r_mean"].nlargest(15).tolist()


@pytest.mark.slow
def test_cost_and_failures_are_those_of_the_run(
    answers: SimpleNamespace, results: pd.DataFrame, small_run: Path
) -> None:
    plan = json.loads((small_run / "plan.json").read_text(encoding="utf-8"))
    assert sorted(answers.cost["task_id"]) == sorted(task["id"] for task in plan["tasks"])
    reports = [json.loads(path.read_text()) for path in small_run.glob("results/extract-*.json")]
    expected_s = results["seconds"].sum() + sum(report["seconds"] for report in reports)
    assert answers.cost["seconds"].sum() == pytest.approx(expected_s)
    failed = answers.failed.groupby(answers.failed["task_id"].str.partition("-")[0])["status"]
    assert set(failed.get_group(TaskKind.EXTRACT)) == {"failed"}
    assert set(failed.get_group(TaskKind.ENCODE)) == {"blocked"}
    assert all(BROKEN_NETWORK in label for label in answers.failed["label"])


def test_the_committed_notebook_was_executed_from_top_to_bottom() -> None:
    book = read_notebook()
    nbformat.validate(book)
    cells = code_cells(book)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert cell.outputs, cell.source
        kinds = {(one.output_type, one.get("name")) for one in cell.outputs}
        assert kinds <= {("stream", "stdout"), ("execute_result", None), ("display_data", None)}
    n_figures = sum("image/png" in one.get("data", {}) for cell in cells for one in cell.outputs)
    assert n_figures >= 3


def test_the_committed_notebook_tells_nothing_of_the_machine() -> None:
    book = read_notebook()
    assert book.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell.metadata == {} for cell in book.cells)
    for cell in code_cells(book):
        for output in cell.outputs:
            output.get("data", {}).pop("image/png", None)
    texts = json.dumps(book)
    assert not re.findall(r"(?<![\w.<])/(?:home|root|tmp|work|opt|mnt|usr|Users|var)\b", texts)
    assert "Warning" not in texts


def test_the_committed_notebook_is_short_and_says_that_its_data_are_synthetic() -> None:
    book = read_notebook()
    assert NOTEBOOK.stat().st_size < 300_000
    assert "**synthetic**" in book.cells[0].source
    assert RUN_LINE in book.cells[1].source
    assert len(re.findall(r"^## \d\. ", "\n".join(cell.source for cell in book.cells), re.M)) == 5
    for cell in code_cells(book)[1:]:
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 9, cell.source
