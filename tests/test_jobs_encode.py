"""Encode tasks of one layer: one pass over the features, whatever is asked of them."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from jobs.encode import _neuron_table
from jobs.run import run_tasks
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.data import load
from toolkit.encoding import LayerEncoder, Readout, outer_splits
from toolkit.features.store import FeatureStore
from toolkit.metrics import split_half_ceiling
from toolkit.plan import make_plan
from toolkit.results import read_scores

CONFIG = """\
name: synthetic-once
dataset: {kind: synthetic, n_train: 90, n_val: 30, n_neuroids: 5, image_px: 32}
protocol: {kind: stratified, n_splits: 3, train_size: 0.75}
models: [{library: timm, names: test_resnet, layers: [layer1, layer3]}]
readouts:
  - {kind: ridge, n_components: 20}
  - {kind: ridge}
  - {kind: ridge, folds: leave_one_out, alpha: shared}
  - {kind: linear, n_components: 20}
  - {kind: pls, n_components: 5}
  - {kind: rdm}
  - {kind: rdm, level: object, distance: cosine, comparison: kendall_tau_a}
  - {kind: cka}
statistics: {bootstrap: 100, permutations: 19}
"""


def planned(folder: Path, *overrides: str) -> RunFolder:
    """A run whose features are extracted and whose layers are not encoded."""
    (folder / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
    config, source = load_config(folder / "sweep.yaml", overrides)
    plan = make_plan(config, source, Catalog(folder / "catalog.json"))
    run = RunFolder(folder / "run")
    run.create()
    run.write_plan(plan.tasks, {})
    run_tasks(str(run.path), [task.id for task in plan.extract], 1)
    return run


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return planned(tmp_path_factory.mktemp("extracted"))


@pytest.fixture
def run(extracted: RunFolder, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(extracted.path, tmp_path / "run"))


def encoded(run: RunFolder, n_cpus: int = 1) -> dict[str, dict[str, Any]]:
    """Summaries by label."""
    tasks = [task for task in run.tasks() if task.kind == "encode"]
    run_tasks(str(run.path), [task.id for task in tasks], n_cpus)
    return {task.label: read_scores(run.result_path(task.id))[1] for task in tasks}


def test_every_byte_of_a_layer_is_read_once(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Counter[str]()
    original = FeatureStore.read

    def counting(store: FeatureStore, layer: str, columns: slice):  # type: ignore[no-untyped-def]
        values = original(store, layer, columns)
        read[layer] += values.nbytes
        return values

    monkeypatch.setattr(FeatureStore, "read", counting)
    tasks = [task for task in run.tasks() if task.kind == "encode"]
    assert len(tasks) == 2 * 8
    run_tasks(str(run.path), [task.id for task in tasks], 1)
    assert {task.id for task in tasks} <= run.done_ids()
    n_features = {task.params["layer"]: task.columns["n_features"] for task in tasks}
    assert read == {layer: 120 * n * 4 for layer, n in n_features.items()}


TWO_DATASETS = [
    "{kind: synthetic, name: synthetic-six, n_train: 90, n_val: 30, n_neuroids: 5, image_px: 32}",
    "{kind: synthetic, name: synthetic-three, n_train: 90, n_val: 30, n_neuroids: 5, image_px: 32, "
    "n_repetitions: 3}",
]
NOT_SCORES = ("seconds", "peak_memory_bytes", "created", "config_hash")


def cells(folder: Path, *datasets: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Scores of each task of a run of its own, by label: of the summary, and of the neurons."""
    folder.mkdir()
    layer = "models.0.layers=[layer3]"
    run = planned(folder, f"dataset=[{', '.join(datasets)}]", layer, "features=average")
    tasks = [task for task in run.tasks() if task.kind == "encode"]
    run_tasks(str(run.path), [task.id for task in tasks], 1)
    found = {}
    for task in tasks:
        neurons, summary = read_scores(run.result_path(task.id))
        scores = {name: value for name, value in summary.items() if name not in NOT_SCORES}
        found[task.label] = (scores, neurons.to_csv())
    return found


def test_data_sets_that_show_the_same_images_have_the_scores_they_have_alone(
    tmp_path: Path,
) -> None:
    together = cells(tmp_path / "together", *TWO_DATASETS)
    alone = [cells(tmp_path / str(i), dataset) for i, dataset in enumerate(TWO_DATASETS)]
    assert together == alone[0] | alone[1]
    assert len(together) == 2 * 8
    r_means = [{scores["r_mean"] for scores, _ in one.values()} - {None} for one in alone]
    assert len(r_means[0]) == 5 and not r_means[0] & r_means[1]


def test_each_kind_of_read_out_reports_what_it_has(run: RunFolder) -> None:
    tasks = [task for task in run.tasks() if task.params.get("layer") == "layer3"]
    run_tasks(str(run.path), [task.id for task in tasks], 1)
    for task in tasks:
        neurons, summary = read_scores(run.result_path(task.id))
        if task.params["readout"]["kind"] in ("rdm", "cka"):
            assert len(neurons) == 0
            assert -1 <= summary["similarity"] <= 1
            assert summary["r_mean"] is None
        else:
            assert len(neurons) == 5
            assert summary["n_splits"] == 3
            assert summary["r_mean_low"] <= summary["r_mean"] <= summary["r_mean_high"]
            assert 0 < summary["p_value"] <= 1
            assert summary["r_mean_sem"] >= 0
            assert summary["similarity"] is None


@pytest.mark.parametrize("images", ["test", "all"])
def test_the_ceiling_is_of_the_images_that_are_asked_for(tmp_path: Path, images: str) -> None:
    run = planned(
        tmp_path,
        "readouts=[{kind: linear, n_components: 5}]",
        "models.0.layers=[layer3]",
        "features=average",
        f"statistics.ceiling_images={images}",
    )
    (task,) = (task for task in run.tasks() if task.kind == "encode")
    run_tasks(str(run.path), [task.id], 1)
    neurons, summary = read_scores(run.result_path(task.id))
    dataset = load(**task.options["dataset"])
    splits = outer_splits(
        task.params["protocol"], n_stimuli=120, splits={}, object_names=dataset.object_names
    )
    sets = [test for _, test in splits] if images == "test" else [np.arange(120)]
    halvings = [split_half_ceiling(dataset.repetitions[rows]) for rows in sets]
    assert summary["ceiling_images"] == images
    expected = np.mean([np.median(ceiling, axis=1) for ceiling in halvings])
    assert summary["ceiling_median"] == pytest.approx(expected, rel=1e-12)
    of_neurons = np.mean(halvings, axis=(0, 1))
    np.testing.assert_allclose(neurons["ceiling"], of_neurons, rtol=1e-12)
    r_median = summary["r_median"]
    assert summary["ceiled_median_2026"] == pytest.approx(r_median**2 / expected, rel=1e-12)


def test_a_neuron_that_is_silent_in_one_of_ten_folds_keeps_nine() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 8))
    responses = features[:, :3] + rng.normal(size=(60, 3))
    responses[:6, 1] = 0.0
    folds = [(np.setdiff1d(np.arange(60), fold), fold) for fold in np.split(np.arange(60), 10)]
    centred = features - features.mean(axis=0)
    scores = LayerEncoder(centred @ centred.T, responses).score(Readout("linear"), folds)
    dataset = SimpleNamespace(neuroid_ids=("synthetic-0", "1", "2"), regions=("IT",) * 3)
    table = _neuron_table(dataset, scores, np.full((1, 3), np.nan), is_ridge=False)  # type: ignore[arg-type]
    assert table["n_splits_scored"].tolist() == [10, 9, 10]
    for metric in ("ev", "r", "r2", "mse"):
        assert table[metric][1] == pytest.approx(getattr(scores, metric)[1:, 1].mean())


def test_one_split_has_no_standard_error(tmp_path: Path) -> None:
    run = planned(
        tmp_path,
        "readouts=[{kind: ridge}]",
        "models.0.layers=[layer3]",
        "features=average",
        "protocol={kind: fixed}",
    )
    (summary,) = encoded(run).values()
    assert summary["r_mean_sem"] is None and summary["r_median_sem"] is None
    assert 0 < summary["p_value"] <= 1


REDUCED = (
    "readouts=[{kind: ridge, n_components: 20}, {kind: linear, n_components: 20}]",
    "models.0.layers=[global_pool]",
)
# Share of r_mean: exact solvers agree to rounding, the others lose some of the last components.
TOLERANCE = {"covariance": 1e-6, "incremental": 0.05, "randomized": 0.1}


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return encoded(planned(tmp_path_factory.mktemp("exact"), *REDUCED))


@pytest.mark.slow
@pytest.mark.parametrize("solver", TOLERANCE)
def test_solvers_agree_on_the_scores_and_are_recorded(
    exact: dict[str, dict[str, Any]], tmp_path: Path, solver: str
) -> None:
    assert {summary["solver"] for summary in exact.values()} == {"gram"}
    reduced = encoded(planned(tmp_path, *REDUCED, f"pca.solver={solver}"))
    for name, summary in reduced.items():
        assert summary["solver"] == solver
        assert summary["r_mean"] == pytest.approx(exact[name]["r_mean"], abs=TOLERANCE[solver])


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    """A job takes as many threads as it has cores, here also for the tests that follow."""
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


@pytest.mark.slow
@pytest.mark.usefixtures("threads_as_before")
def test_worker_processes_give_the_same_scores(
    exact: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    run = planned(tmp_path, *REDUCED, "dask.workers=processes")
    elsewhere = encoded(run, n_cpus=2)
    for name, summary in elsewhere.items():
        assert summary["r_mean"] == pytest.approx(exact[name]["r_mean"], rel=1e-6)


def test_gram_matrices_alone_give_the_same_scores(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "gram").mkdir()
    widths = {task.columns["n_features"] for task in run.tasks() if task.kind == "encode"}
    largest_gb = 120 * 4 * max(widths) / 1e9
    lean = planned(
        tmp_path / "gram", "features=gram", f"resources.extract.memory_gb={largest_gb / 0.59}"
    )
    assert not list((lean.path / "features").iterdir())
    # 0.6 of the memory holds one of the two layers' features at a time, so there are two passes.
    log = "".join(path.read_text() for path in (lean.path / "logs").glob("extract-*.log"))
    assert "pass 2 of 2 over the images, for layer3" in log
    full = encoded(run)
    for label, summary in encoded(lean).items():
        expected = full[label.replace(" gram", "")]
        for column in ("ev_mean", "r_mean", "similarity", "p_value"):
            if expected[column] is not None:
                assert summary[column] == pytest.approx(expected[column], rel=1e-4, nan_ok=True)


def test_a_layer_beyond_the_memory_is_named(tmp_path: Path) -> None:
    run = planned(tmp_path, "features=gram", "resources.extract.memory_gb=0.0001")
    (attempt,) = run.attempts().values()
    assert attempt.error_class == "bad_features"
    assert "layer 'layer1' take" in attempt.error_message
    assert "resources.extract.memory_gb" in attempt.error_message


def test_tasks_that_share_the_images_make_the_same_features(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    parted = planned(tmp_path / "parts", "extraction.parts=3")
    extracts = [task for task in parted.tasks() if task.kind == "extract"]
    assert len(extracts) == 3 and all(parted.is_done(task.id) for task in extracts)
    (store,) = (parted.path / "features").iterdir()
    (whole,) = (run.path / "features").iterdir()
    assert store.name == whole.name
    for path in whole.rglob("c.*"):
        assert (store / path.relative_to(whole)).read_bytes() == path.read_bytes()
    encode_ids = [
        {task.id for task in one.tasks() if task.kind == "encode"} for one in (run, parted)
    ]
    assert encode_ids[0] == encode_ids[1]


@pytest.mark.parametrize(
    ("features", "width"),
    [
        ("average", 192),
        ("{keep: projection, n_dims: 40}", 40),
        ("{keep: full, dtype: float16}", None),
    ],
)
def test_read_outs_work_on_every_form(tmp_path: Path, features: str, width: int | None) -> None:
    run = planned(tmp_path, f"features={features}", "readouts=[{kind: ridge}, {kind: cka}]")
    tasks = [task for task in run.tasks() if task.kind == "encode"]
    if width:
        assert tasks[-1].columns["n_features"] <= width
    for summary in encoded(run).values():
        assert summary["r_mean"] is None or summary["r_mean"] > 0.1
