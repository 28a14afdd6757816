"""What a report says, against the tables and the plain definitions."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_runs import BROKEN_NETWORK, break_a_network, run_networks, write_synthetic_tables
from scipy.stats import rankdata, spearmanr

from toolkit import data, report
from toolkit.cluster.run_folder import RunFolder
from toolkit.data.dataset import positional_ids
from toolkit.report.chart import Chart
from toolkit.report.figures import all_charts
from toolkit.report.figures.cost import cost
from toolkit.report.figures.scores import neuron_pairs
from toolkit.report.paper import draw
from toolkit.report.recordings import Recordings
from toolkit.report.study import Study, read_study
from toolkit.results import ResultError, load

OF_A_SWEEP = {
    "comparison",
    "by_layer",
    "depth_profile",
    "neuron_violins",
    "neuron_histogram",
    "neuron_pairs",
    "alpha_choice",
    "cost",
    "object_rdms",
    "site_responses",
    "predicted_and_measured",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    networks = ("test_resnet", "test_vit", BROKEN_NETWORK)
    return run_networks(tmp_path_factory.mktemp("four"), networks)


@pytest.fixture(scope="module")
def study(run: Path) -> Study:
    return read_study([run])


@pytest.fixture(scope="module")
def charts(study: Study) -> dict[str, Chart]:
    return {chart.name: chart for chart in all_charts(study, Recordings(study))}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "tables"
    return write_synthetic_tables(folder, n_networks=12, n_layers=5, n_neurons=40)


@pytest.mark.slow
def test_load_gives_every_task_with_what_it_cost(run: Path) -> None:
    tables = load(run)
    counts = tables.tasks["kind"].value_counts()
    assert counts["extract"] == 4
    assert counts["encode"] == len(tables.results)
    extractions = tables.tasks[tables.tasks["kind"] == "extract"]
    assert (extractions["seconds"] > 0).all()
    assert set(extractions["device"]) == {"cpu"}
    assert set(tables.tasks["status"]) == {"done"}
    parents = {i for inputs in tables.tasks["inputs"] for i in inputs}
    assert parents == set(extractions["task_id"])


def test_load_needs_no_run_folder_around_the_tables(synthetic: Path) -> None:
    tables = load(synthetic)
    assert len(tables.results) == 60
    assert tables.tasks.empty
    assert "reason" in tables.tasks


@pytest.mark.slow
def test_best_layers_are_those_of_highest_mean_r(study: Study) -> None:
    results = study.results
    predicting = results[results["r_mean"].notna()]
    expected = predicting.loc[predicting.groupby("model")["r_mean"].idxmax()]
    best = study.best[study.best["r_mean"].notna()]
    assert set(best["task_id"]) == set(expected["task_id"])
    assert best["score"].is_monotonic_decreasing
    comparing = results[results["similarity"].notna()]
    highest = comparing.groupby("model")["similarity"].max()
    found = study.best[study.best["r_mean"].isna()].set_index("model")["similarity"]
    pd.testing.assert_series_equal(found.sort_index(), highest.sort_index())
    assert (best["r_mean_low"] < best["r_mean"]).all()
    assert (best["r_mean"] < best["r_mean_high"]).all()


@pytest.mark.slow
def test_a_sweep_gives_every_figure_that_it_has_data_for(charts: dict[str, Chart]) -> None:
    assert set(charts) == OF_A_SWEEP


@pytest.mark.slow
def test_rdms_are_those_of_the_definition(study: Study, charts: dict[str, Chart]) -> None:
    task = Recordings(study).task(study.best.iloc[0])
    assert task is not None
    dataset = data.load(**task.options["dataset"])
    responses = pd.DataFrame(dataset.responses).groupby(np.array(dataset.object_names)).mean()
    rows = charts["object_rdms"].rows
    neurons = rows[rows["matrix"] == "neurons"]
    rdm = 1 - np.corrcoef(responses.to_numpy())
    of = {name: i for i, name in enumerate(responses.index)}
    pairs = neurons[["item", "other_item"]].itertuples(index=False)
    measured = [rdm[of[a], of[b]] for a, b in pairs]
    percentiles = 100 * (rankdata(measured) - 1) / (len(measured) - 1)
    np.testing.assert_allclose(neurons["percentile"], percentiles, atol=1e-9)
    named = zip(dataset.object_names or (), dataset.category_names or (), strict=True)
    category_of = dict(named)
    order = [category_of[name] for name in dict.fromkeys(neurons["item"])]
    assert order == sorted(order)

    best = study.best[study.best["r_mean"].notna()].iloc[0]
    label = next(n for n in rows["matrix"].unique() if n.startswith(f"{best['network']}\n"))
    network = rows[rows["matrix"] == label]
    agreement = spearmanr(network["percentile"], neurons["percentile"]).statistic
    same_layer = study.results.query("model == @best.model and layer == @best.layer")
    assert agreement == pytest.approx(same_layer["similarity"].dropna().item(), abs=1e-6)
    assert label.endswith(f"{best['layer']}: {agreement:.2f}")


@pytest.mark.slow
def test_predictions_have_the_correlations_of_the_table(
    study: Study, charts: dict[str, Chart]
) -> None:
    best = study.best[study.best["r_mean"].notna()].iloc[0]
    scores = study.neurons[study.neurons["row"] == best["row"]].set_index("neuron_id")["r"]
    panels = charts["predicted_and_measured"].panels
    assert len(panels) == 12
    for name, rows in panels:
        r = np.corrcoef(rows["predicted"], rows["measured"])[0, 1]
        assert r == pytest.approx(scores[name.split(":")[0]], abs=1e-8)


@pytest.mark.slow
def test_sites_show_their_category_means(study: Study, charts: dict[str, Chart]) -> None:
    task = Recordings(study).task(study.best.iloc[0])
    assert task is not None
    dataset = data.load(**task.options["dataset"])
    site, rows = charts["site_responses"].panels[0]
    neuron = dataset.neuroid_ids.index(site)
    by_category = pd.Series(dataset.responses[:, neuron]).groupby(np.array(dataset.category_names))
    np.testing.assert_allclose(rows["response"], by_category.mean())
    np.testing.assert_allclose(rows["response_high"] - rows["response"], by_category.sem())


@pytest.mark.slow
def test_cost_is_extraction_and_readout_of_all_layers(
    study: Study, charts: dict[str, Chart]
) -> None:
    chart, cores = charts["cost"], 2
    assert chart.x_title == "CPU-seconds"
    extractions = study.tasks[study.tasks["kind"] == "extract"].set_index("task_id")["seconds"]
    parent = study.tasks.set_index("task_id")["inputs"]
    for _, row in chart.shown.iterrows():
        own = study.results[
            (study.results["network"] == row["network"])
            & (study.results["readout"] == row["readout"])
        ]
        (extraction,) = {parent[task_id] for task_id in own["task_id"]}
        assert row["extract_s"] == pytest.approx(cores * extractions[list(extraction)].sum())
        assert row["encode_s"] == pytest.approx(cores * own["seconds"].sum())
        assert row["device_s"] == pytest.approx(row["extract_s"] + row["encode_s"])


@pytest.mark.slow
def test_seconds_on_gpus_are_called_so(study: Study) -> None:
    on_gpu = study.tasks.assign(
        device=study.tasks["device"].mask(study.tasks["kind"] == "extract", "cuda:0")
    )
    chart = cost(replace(study, tasks=on_gpu))
    assert chart is not None
    assert chart.x_title == "GPU-seconds + CPU-seconds"
    extractions = study.tasks[study.tasks["kind"] == "extract"]["seconds"].sum()
    shown = chart.shown.dropna(subset="r_mean")
    assert shown["gpu_s"].sum() == pytest.approx(extractions)  # one GPU each, two cores
    assert (shown["cpu_s"] == shown["encode_s"]).all()


@pytest.mark.slow
def test_figures_without_their_data_are_left_out(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("results.parquet", "neurons.parquet"):
        (copy / name).write_bytes((run / name).read_bytes())
    study = read_study([copy])
    found = {chart.name for chart in all_charts(study, Recordings(study))}
    assert found == OF_A_SWEEP - {
        "cost",
        "object_rdms",
        "site_responses",
        "predicted_and_measured",
    }


def test_each_region_has_its_own_best_layer(synthetic: Path) -> None:
    study = read_study([synthetic])
    chart = {c.name: c for c in all_charts(study, Recordings(study))}["best_layer_by_region"]
    best = chart.rows.sort_values("r", ascending=False).drop_duplicates(["network", "area"])
    depth = best.merge(study.results[["row", "layer_depth"]], on="row", suffixes=("", "_there"))
    means = depth.groupby("area")["layer_depth"].mean()
    assert means["V4"] < means["IT"]
    neurons = load(synthetic).neurons
    expected = neurons.groupby(["model", "weights", "layer", "region"])["r"].mean()
    assert best["r"].max() == pytest.approx(expected.max())


def test_pretrained_and_random_are_lines_of_one_panel(synthetic: Path) -> None:
    study = read_study([synthetic])
    chart = {c.name: c for c in all_charts(study, Recordings(study))}["by_layer"]
    assert len(chart.panels) == 6
    for _, rows in chart.panels:
        assert set(rows["choice"]) == {"pretrained", "random"}
        for _, line in rows.groupby("choice"):
            assert list(line["layer"]) == [f"stages.{i}" for i in range(5)]


def test_figures_come_as_png_svg_and_pdf_with_text_as_text(tmp_path: Path) -> None:
    tables = write_synthetic_tables(tmp_path / "few", n_networks=4, n_layers=3, n_neurons=12)
    files = report.write_figures(tables, tmp_path)
    stems = {path.stem for path in files}
    assert {path.suffix for path in files} == {".png", ".svg", ".pdf"}
    assert len(files) == 3 * len(stems)
    assert {"comparison_r_mean", "by_layer_ev_mean", "best_layer_by_region_r"} <= stems
    for stem in stems:
        image = np.asarray(Image.open(tmp_path / f"{stem}.png").convert("L"))
        assert image.std() > 5, stem
        assert "<text" in (tmp_path / f"{stem}.svg").read_text(encoding="utf-8")
        pdf = (tmp_path / f"{stem}.pdf").read_bytes()
        assert b"/FontFile2" in pdf  # letters of a TrueType font, not outlines
        assert b"/Type3" not in pdf
    svg = (tmp_path / "comparison_r_mean.svg").read_text(encoding="utf-8")
    assert "synthetic_net_000 (random)" in svg


def test_bars_have_the_lengths_of_the_table(synthetic: Path) -> None:
    study = read_study([synthetic])
    chart = {c.name: c for c in all_charts(study, Recordings(study))}["comparison"]
    axes = draw(chart).axes[0]
    lengths = sorted(bar.get_width() for bar in axes.patches)
    assert lengths == pytest.approx(sorted(study.best["r_mean"]))


def compared_runs(tmp_path: Path) -> tuple[Path, Path]:
    first = write_synthetic_tables(tmp_path / "a", n_networks=4, n_layers=3, n_neurons=30)
    second = write_synthetic_tables(tmp_path / "b", n_networks=6, n_layers=3, n_neurons=30, seed=1)
    return first, second


def test_comparison_pairs_the_neurons_of_the_same_networks(tmp_path: Path) -> None:
    first, second = compared_runs(tmp_path)
    table = report.compare(read_study([first, second]))
    assert len(table) == 1 + 4  # the best of each run, and the networks that both have
    assert table["compared"].iloc[0] == "the best of each run"
    row = table[table["compared"].str.startswith("synthetic_net_001 (random)")].iloc[0]
    r = []
    for folder in (first, second):
        tables = load(folder)
        own = tables.results.query("model == 'synthetic_net_001' and weights == 'random'")
        best = own.loc[own["r_mean"].idxmax(), "task_id"]
        neurons = tables.neurons[tables.neurons["task_id"] == best]
        r.append(neurons.set_index("neuron_id")["r"])
    difference = (r[1] - r[0]).mean()
    assert row["difference"] == pytest.approx(difference)
    assert row["difference_low"] < difference < row["difference_high"]
    assert (table["q_value"] >= table["p_value"] - 1e-12).all()


def test_a_run_compared_with_itself_does_not_differ(tmp_path: Path) -> None:
    first, _ = compared_runs(tmp_path)
    twin = tmp_path / "twin"
    twin.mkdir()
    for path in first.iterdir():
        (twin / path.name).write_bytes(path.read_bytes())
    table = report.compare(read_study([first, twin]))
    assert (table["difference"] == 0).all()
    assert (table["p_value"] == 1).all()


def test_neurons_known_by_position_are_compared_within_equal_responses_only(tmp_path) -> None:
    responses = np.random.default_rng(0).normal(size=(6, 30))
    names = [f"neuroid-{i:03d}" for i in range(30)]
    runs = compared_runs(tmp_path)
    for folder, recorded in zip(runs, (responses, responses + 1), strict=True):
        path = folder / "neurons.parquet"
        neurons = pd.read_parquet(path)
        ids = dict(zip(neurons["neuron_id"].unique(), positional_ids(names, recorded), strict=True))
        neurons.assign(neuron_id=neurons["neuron_id"].map(ids)).to_parquet(path)
    first, second = runs
    assert report.compare(read_study([first, second])).empty
    page = tmp_path / "page.html"
    report.main([first, second], out=page)
    assert "they share no two neurons" in page.read_text()
    (second / "neurons.parquet").write_bytes((first / "neurons.parquet").read_bytes())
    (second / "results.parquet").write_bytes((first / "results.parquet").read_bytes())
    assert (report.compare(read_study([first, second]))["difference"] == 0).all()


def test_neurons_of_two_data_sets_are_never_paired(tmp_path: Path) -> None:
    first, second = compared_runs(tmp_path)
    results = pd.read_parquet(second / "results.parquet")
    results.assign(dataset="other").to_parquet(second / "results.parquet")
    study = read_study([first, second])
    assert report.compare(study).empty
    rows = neuron_pairs(study).rows
    row_of_run = study.results.set_index("row")["run"]
    neurons = [set(own["neuron_id"]) for _, own in rows.groupby(rows["row"].map(row_of_run))]
    assert len(neurons) == 2
    assert not neurons[0] & neurons[1]


def test_runs_of_one_name_are_told_apart(synthetic: Path, tmp_path: Path) -> None:
    other = write_synthetic_tables(tmp_path / "tables", n_networks=2, n_layers=2, n_neurons=4)
    study = read_study([synthetic, other])
    assert len(study.runs) == 2
    assert all(name.endswith("/tables") for name in study.runs)
    assert len(study.results) == 60 + 4
    assert study.neurons["row"].max() == 63


def test_nothing_to_report_is_said(tmp_path: Path) -> None:
    with pytest.raises(report.ReportError, match="write one or more"):
        report.main([])
    with pytest.raises(ResultError, match="collect"):
        report.main([tmp_path])


@pytest.mark.slow
def test_a_failed_network_is_counted_with_its_class(run: Path, tmp_path: Path) -> None:
    path = shutil.copytree(run, tmp_path / "run")
    break_a_network(path)
    tasks = load(path).tasks
    failed = tasks[tasks["status"] == "failed"]
    assert list(failed["error_class"]) == ["cuda_out_of_memory"]
    blocked = tasks[tasks["status"] == "blocked"]
    assert set(blocked["error_class"]) == {"blocked"}
    assert blocked["label"].str.contains(BROKEN_NETWORK).all()
    (page,) = report.main([path])
    assert page == path / "report.html"
    text = page.read_text(encoding="utf-8")
    assert "1 failed (1 cuda_out_of_memory)" in text
    assert re.search(r"<b>39</b> GiB", text) is None
    assert RunFolder(path).plan_path.is_file()
