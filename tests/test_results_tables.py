import hashlib
import importlib.metadata
import io
import json
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_results_scores import synthetic_neurons, synthetic_summary

from toolkit.results import (
    PlannedRow,
    ResultError,
    best_layers,
    collect,
    describe,
    git_sha,
    load,
    print_best,
    versions,
    write_scores,
)
from toolkit.results.columns import NEURON_COLUMNS, RESULT_COLUMNS, names
from toolkit.results.damage import damaged_results, read_report
from toolkit.results.scores import DIGEST_KEY, SUMMARY_KEY, TASK_KEY
from toolkit.terminal import make_console

# fmt: off
RESULT_NAMES = [
    "row_id", "task_id", "status", "experiment", "dataset", "region", "model", "library", "weights",
    "seed", "layer", "layer_index", "layer_depth", "features", "n_features",
    "readout", "n_components", "solver",
    "alpha_median", "alpha_at_edge", "ev_mean", "ev_median", "r_mean", "r_median", "r2_mean",
    "mse_mean", "ceiling_median", "ceiled_median_2026", "ceiled_median_2018", "n_neurons",
    "n_neurons_scored", "r_mean_sem", "r_median_sem", "r_mean_low", "r_mean_high", "p_value",
    "ceiling_images", "similarity", "n_train", "n_test", "n_splits", "seconds", "peak_memory_bytes",
    "device", "training", "step", "objective", "fold", "rung", "slot", "trial", "outcome",
    "recipe", "recipe_digest", "n_epochs", "best_epoch", "val_score", "accuracy", "error_class",
    "error_message", "config_hash", "git_sha", "versions", "created",
]
# fmt: on
# fmt: off
NEURON_NAMES = [
    "row_id", "task_id", "model", "library", "weights", "seed", "layer", "readout", "training",
    "dataset", "neuron_id", "region", "alpha", "ev", "r", "r2", "mse", "n_splits_scored", "ceiling",
]
# fmt: on


def planned(task_id: str, status: str = "done", *, layer: str = "layer3", **rest) -> PlannedRow:
    identity = {
        "experiment": "synthetic",
        "dataset": "synthetic",
        "region": "IT",
        "model": "resnet50",
        "library": "torchvision",
        "weights": "pretrained",
        "seed": 0,
        "layer": layer,
        "layer_index": 3,
        "layer_depth": 0.5,
        "features": "full",
        "n_features": 1000,
        "readout": "ridge",
    }
    errors = {key: rest.pop(key) for key in ("error_class", "error_message") if key in rest}
    return PlannedRow(task_id, status, identity | rest, **errors)


def write_done(folder: Path, task_id: str, neurons: pd.DataFrame) -> None:
    write_scores(folder / f"{task_id}.parquet", neurons, synthetic_summary(neurons))


def write_alike(template: Path, task_ids: Iterable[str]) -> None:
    """Results of other tasks with the same scores."""
    table = pq.read_table(template)
    for task_id in task_ids:
        metadata = {**table.schema.metadata, TASK_KEY: task_id.encode()}
        path = template.with_name(f"{task_id}.parquet")
        pq.write_table(table.replace_schema_metadata(metadata), path, use_dictionary=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    results.mkdir()
    return results


def test_every_planned_task_has_a_row_in_planned_order(folder: Path, tmp_path: Path) -> None:
    write_done(folder, "encode-z", synthetic_neurons(4, seed=1))
    write_done(folder, "encode-a", synthetic_neurons(3, seed=2))
    rows = [
        planned("encode-z"),
        planned("encode-f", "failed", error_class="out_of_memory", error_message="große »Not«"),
        planned("encode-b", "blocked"),
        planned("encode-p", "pending"),
        planned("encode-a", layer="Schicht ü"),
    ]
    results = collect(rows, folder, tmp_path)

    assert list(results["task_id"]) == [row.task_id for row in rows]
    assert list(results["status"]) == ["done", "failed", "blocked", "pending", "done"]
    assert list(results["ev_mean"].notna()) == [True, False, False, False, True]
    assert results.loc[0, "ev_mean"] == pytest.approx(synthetic_neurons(4, seed=1)["ev"].mean())
    assert results.loc[1, "error_class"] == "out_of_memory"
    assert results.loc[1, "error_message"] == "große »Not«"
    assert results["error_class"].isna().tolist() == [True, False, True, True, True]
    assert results.loc[4, "layer"] == "Schicht ü"
    assert results.loc[0, "created"] == pd.Timestamp("2026-01-02T03:04:05", tz="UTC")
    assert results.loc[0, "versions"] == '{"python": "3.11"}'
    assert results["n_components"].isna().all()

    neurons = load(tmp_path).neurons
    assert list(neurons["task_id"]) == ["encode-z"] * 4 + ["encode-a"] * 3
    assert list(neurons["layer"]) == ["layer3"] * 4 + ["Schicht ü"] * 3
    scores = ["neuron_id", "region", "alpha", "ev", "r", "r2", "mse", "ceiling"]
    expected = pd.concat([synthetic_neurons(4, seed=1), synthetic_neurons(3, seed=2)])[scores]
    pd.testing.assert_frame_equal(
        neurons[scores], expected.reset_index(drop=True), check_dtype=False
    )


def test_neurons_carry_their_own_task_across_batches(folder: Path, tmp_path: Path) -> None:
    """More tasks than one batch holds, with different numbers of neurons, some without any."""
    sizes = [index % 4 for index in range(1100)]
    for size in range(4):
        write_done(folder, f"template-{size}", synthetic_neurons(size, seed=size))
        alike = [f"encode-{index}" for index in range(size, 1100, 4)]
        write_alike(folder / f"template-{size}.parquet", alike)
    collect([planned(f"encode-{i}", seed=i) for i in range(1100)], folder, tmp_path)

    neurons = load(tmp_path).neurons
    assert list(neurons["seed"]) == np.repeat(np.arange(1100), sizes).tolist()
    assert list(neurons["task_id"]) == [f"encode-{seed}" for seed in neurons["seed"]]
    last = neurons[neurons["seed"] == 1099]
    np.testing.assert_array_equal(last["ev"], synthetic_neurons(3, seed=3)["ev"])


def test_neurons_of_two_data_sets_with_the_same_ids_are_told_apart(
    folder: Path, tmp_path: Path
) -> None:
    own = {"it": synthetic_neurons(4, seed=1), "v4": synthetic_neurons(4, seed=2)}
    for name, neurons in own.items():
        write_done(folder, f"encode-{name}", neurons)
    assert list(own["it"]["neuron_id"]) == list(own["v4"]["neuron_id"])
    collect([planned(f"encode-{name}", dataset=name) for name in own], folder, tmp_path)
    grouped = load(tmp_path).neurons.groupby(["dataset", "neuron_id"])["r"]
    assert (grouped.size() == 1).all()
    for name, neurons in own.items():
        expected = neurons.set_index("neuron_id")["r"].sort_index()
        pd.testing.assert_series_equal(grouped.first()[name].sort_index(), expected)


def test_columns_are_the_documented_ones(folder: Path, tmp_path: Path) -> None:
    write_done(folder, "encode-a", synthetic_neurons(2))
    results = collect([planned("encode-a"), planned("encode-b", "failed")], folder, tmp_path)
    assert list(results.columns) == RESULT_NAMES == list(names(RESULT_COLUMNS))
    assert list(load(tmp_path).neurons.columns) == NEURON_NAMES == list(names(NEURON_COLUMNS))
    for file, columns in (("results", RESULT_COLUMNS), ("neurons", NEURON_COLUMNS)):
        described = describe(tmp_path / f"{file}.parquet")
        assert described == {column.name: column.description for column in columns}
        assert all(text.endswith(".") and len(text) > 15 for text in described.values())


@pytest.mark.parametrize("rows", [[], [planned("encode-b", "blocked")]])
def test_nothing_done_yet(folder: Path, tmp_path: Path, rows: list[PlannedRow]) -> None:
    assert len(collect(rows, folder, tmp_path)) == len(rows)
    tables = load(tmp_path)
    assert (len(tables.results), len(tables.neurons)) == (len(rows), 0)
    assert list(tables.neurons.columns) == NEURON_NAMES
    assert len(best_layers(tables.results)) == 0


@pytest.mark.parametrize("fault", ["truncated", "absent", "foreign", "old"])
def test_a_bad_result_file_spoils_one_row(folder: Path, tmp_path: Path, fault: str) -> None:
    for task_id in ("encode-good", "encode-bad"):
        write_done(folder, task_id, synthetic_neurons(3))
    bad = folder / "encode-bad.parquet"
    if fault == "truncated":
        bad.write_bytes(bad.read_bytes()[:200])
    elif fault == "absent":
        bad.unlink()
    elif fault == "foreign":
        pd.DataFrame({"x": [1]}).to_parquet(bad)
    else:
        table = pq.read_table(bad)
        old_summary = {b"toolkit.encode.summary": b'{"ev_mean": 0.5}'}
        pq.write_table(table.replace_schema_metadata(old_summary), bad)
    results = collect([planned("encode-bad"), planned("encode-good")], folder, tmp_path)

    assert list(results["status"]) == ["failed", "done"]
    assert results.loc[0, "error_class"] == "bad_result"
    assert str(bad) in results.loc[0, "error_message"]
    assert np.isnan(results.loc[0, "ev_mean"])
    assert set(load(tmp_path).neurons["task_id"]) == {"encode-good"}


@pytest.mark.parametrize("has_digest", [False, True])
@pytest.mark.parametrize(
    "summary",
    [
        b"",
        b"\0" * 50,
        b"no JSON",
        b"[]",
        b"1",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b"{}",
        {"n_train": "many"},
        {"n_train": [1]},
        {"n_train": 2**70},
        {"n_train": True},
        {"seconds": 10**400},
        {"device": "\ud800"},
        {"versions": 3},
        {"created": 5},
        {"created": "0001-01-01T00:00:00+14:00"},
        {"n_train": "many", "origin": []},
    ],
    ids=lambda summary: str(summary)[:30],
)
def test_a_bad_summary_spoils_one_row(
    folder: Path, tmp_path: Path, summary: bytes | dict, has_digest: bool
) -> None:
    for task_id in ("encode-good", "encode-bad"):
        write_done(folder, task_id, synthetic_neurons(3))
    bad = folder / "encode-bad.parquet"
    table = pq.read_table(bad)
    metadata = table.schema.metadata
    if isinstance(summary, dict):
        summary = json.dumps({**json.loads(metadata[SUMMARY_KEY]), **summary}).encode()
    metadata[SUMMARY_KEY] = summary
    if has_digest:
        metadata[DIGEST_KEY] = hashlib.sha256(summary).hexdigest().encode()
    pq.write_table(table.replace_schema_metadata(metadata), bad)
    results = collect([planned("encode-bad"), planned("encode-good")], folder, tmp_path)

    assert list(results["status"]) == ["failed", "done"]
    assert results.loc[0, "error_class"] == "bad_result"
    assert len(results.loc[0, "error_message"]) < 1000
    assert str(bad) in results.loc[0, "error_message"]


def test_no_flipped_byte_of_a_table_is_a_traceback(folder: Path, tmp_path: Path) -> None:
    write_done(folder, "encode-a", synthetic_neurons(3))
    collect([planned("encode-a")], folder, tmp_path)
    path = tmp_path / "results.parquet"
    whole = path.read_bytes()
    end = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")  # where the footer begins
    for place in {*range(end, len(whole), 101), whole.index(b"ev_mean", end)}:
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        with suppress(ResultError):
            load(tmp_path)
        with suppress(ResultError):
            describe(path)


@pytest.mark.parametrize(
    "content", ["", "\0" * 80, "[]", "3", '{"task_id": ', "[" * 100_000, "other"]
)
def test_a_damaged_report_is_of_its_task_alone(tmp_path: Path, content: str) -> None:
    reports = {
        task_id: json.dumps({"task_id": task_id, "seconds": 1.5, "device": "cpu"})
        for task_id in ("extract-a", "extract-b", "probe-c")
    }
    texts = {**reports, "extract-b": reports["extract-a"] if content == "other" else content}
    for task_id, text in texts.items():
        (tmp_path / f"{task_id}.json").write_text(text)
    paths = [tmp_path / f"{task_id}.json" for task_id in (*reports, "extract-absent")]
    assert list(damaged_results(paths)) == [tmp_path / "extract-b.json"]
    assert read_report(paths[0]) == json.loads(reports["extract-a"])


@pytest.mark.parametrize("wrong", [{"seconds": "1.5"}, {"device": 3}, {"share": []}])
def test_a_report_of_wrong_types_is_damaged(tmp_path: Path, wrong: dict) -> None:
    path = tmp_path / "extract-a.json"
    path.write_text(json.dumps({"task_id": "extract-a", **wrong}))
    with pytest.raises(ResultError, match=r"extract-a\.json.*run the sweep again"):
        read_report(path)


def test_a_result_of_a_task_not_done_is_not_read(folder: Path, tmp_path: Path) -> None:
    write_done(folder, "encode-a", synthetic_neurons(3))
    results = collect([planned("encode-a", "running")], folder, tmp_path)
    assert results["ev_mean"].isna().all()


def test_collecting_twice_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    rows = [planned(f"encode-{index}") for index in range(30)]
    for row in rows:
        write_done(folder, row.task_id, synthetic_neurons(5))
    contents = []
    for _ in range(2):
        collect(rows, folder, tmp_path)
        contents.append([(tmp_path / f"{t}.parquet").read_bytes() for t in ("results", "neurons")])
    assert contents[0] == contents[1]
    assert not list(tmp_path.glob(".*"))


def test_a_failed_collect_leaves_the_old_tables(folder: Path, tmp_path: Path) -> None:
    write_done(folder, "encode-a", synthetic_neurons(3))
    collect([planned("encode-a")], folder, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.parquet")}
    with pytest.raises((TypeError, ValueError)):
        collect([planned("encode-a", seed="not a number")], folder, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.parquet")} == before
    assert not list(tmp_path.glob(".*"))


def test_planned_row_refuses_what_is_no_identity() -> None:
    with pytest.raises(ValueError, match="unknown \\['laier'\\]"):
        planned("encode-a", laier="x")
    with pytest.raises(ValueError, match="finished"):
        planned("encode-a", "finished")


def test_load_names_the_table_that_is_missing_or_damaged(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"results\.parquet: no such table; collect"):
        load(tmp_path)
    collect([planned("encode-a", "pending")], folder, tmp_path)
    (tmp_path / "neurons.parquet").write_bytes(b"PAR1")
    with pytest.raises(ResultError, match=r"neurons\.parquet"):
        load(tmp_path)


@pytest.mark.slow
def test_tasks_of_several_batches_are_collected(folder: Path, tmp_path: Path) -> None:
    write_done(folder, "template", synthetic_neurons(168))
    rows = [planned(f"encode-{index}") for index in range(1_100)]
    write_alike(folder / "template.parquet", [row.task_id for row in rows])
    results = collect(rows, folder, tmp_path)
    assert results["r_mean"].notna().all()
    assert pq.read_metadata(tmp_path / "neurons.parquet").num_rows == 1_100 * 168


def scored(r_mean: list[float], **columns: list) -> pd.DataFrame:
    n = len(r_mean)
    shared = {
        "experiment": "synthetic-A3",
        "dataset": "synthetic",
        "region": "IT",
        "library": "torchvision",
        "model": "resnet50",
        "weights": "pretrained",
        "seed": 0,
        "readout": "ridge",
        "ev_mean": 0.25,
        "ceiling_median": 0.8,
        "ceiled_median_2026": 0.4,
        "n_neurons": 168.0,
    }
    layers = [f"layer{index}" for index in range(n)]
    return pd.DataFrame({"r_mean": r_mean, "layer": layers} | shared, index=range(n)).assign(
        **columns
    )


def test_best_layer_of_each_model() -> None:
    results = scored(
        [0.3, 0.5, np.nan, 0.5, 0.9, 0.1],
        weights=["pretrained"] * 4 + ["random"] * 2,
    )
    best = best_layers(results)
    assert list(best["layer"]) == ["layer1", "layer4"]
    assert list(best["weights"]) == ["pretrained", "random"]


@pytest.mark.parametrize(
    "key", ["experiment", "dataset", "region", "library", "model", "weights", "readout"]
)
def test_models_that_differ_are_kept_apart(key: str) -> None:
    assert len(best_layers(scored([0.1, 0.2, 0.3], **{key: ["a", "b", "a"]}))) == 2
    assert len(best_layers(scored([0.1, 0.2, 0.3], **{key: ["a", None, "a"]}))) == 2


def printed(results: pd.DataFrame, *, terminal: bool, width: int = 100) -> str:
    stream = io.StringIO()
    console = make_console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_best(results, console)
    return stream.getvalue()


IDENTITIES = {
    "library": ("torchvision", "timm"),
    "model": ("resnet50", "resnet18"),
    "weights": ("pretrained", "random", "a/best.pth", "b/best.pth"),
    "seed": (0, 1),
    "readout": ("ridge", "pls"),
    "training": (None, "small", "twin"),
    "objective": (None, "object:1", "mse:1"),
    "fold": (np.nan, 0, 1),
}


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize(
    "keys", [(key,) for key in IDENTITIES] + list(combinations(IDENTITIES, 2)) + [(*IDENTITIES,)]
)
def test_no_two_models_read_the_same(keys: tuple[str, ...], terminal: bool) -> None:
    """Whatever they differ in, although scores and layers are alike."""
    shared = {"training": "small", "objective": "mse:1", "fold": 0, "layer": "layer3"}
    rows = pd.DataFrame(list(product(*map(IDENTITIES.get, keys))), columns=list(keys))
    results = scored([0.5] * len(rows), **{**shared, **rows.to_dict("list")})
    assert len(best_layers(results)) == len(results)
    lines = printed(results, terminal=terminal, width=300).splitlines()
    read = [" ".join(line.split()) for line in lines if "layer3" in line]
    assert len(read) == len(set(read)) == len(results)


def test_what_all_models_share_is_not_shown() -> None:
    text = printed(
        scored([0.5, 0.4], model=["a", "b"], training="small", fold=[0, 1]), terminal=False
    )
    assert not {"small", "training", "fold", "torchvision"} & set(text.split())


@pytest.mark.parametrize("terminal", [True, False])
def test_printed_headline_shows_every_quantity(terminal: bool) -> None:
    text = printed(scored([0.5123]), terminal=terminal)
    for shown in (
        "ceiled r²",
        "(2026)",
        "synthetic-A3",
        "resnet50",
        "pretrained",
        "layer0",
        "ridge",
    ):
        assert shown in text
    assert text.split()[-5:] == ["0.250", "0.512", "0.800", "0.400", "168"]


def test_long_names_fold_on_a_terminal_of_100_columns() -> None:
    results = scored(
        [0.5],
        model=["vit_base_patch16_clip_224.laion2b_ft_in12k_in1k"],
        weights=["/a/checkpoint/far/away/resnet50-barlow-twins-epoch-300.pth"],
        layer=["features.denseblock4.denselayer32.conv2"],
        readout=["pca1000-ridge-per-neuron"],
    )
    lines = printed(results, terminal=True).splitlines()
    assert all(len(line.rstrip()) <= 100 for line in lines)
    assert "0.250" in " ".join(lines)
    assert len(lines) < 9


def test_plain_output_is_one_unbroken_line_per_model_without_markup() -> None:
    results = scored([0.5], layer=["features[bold]." + "x" * 150], ceiling_median=[np.nan])
    text = printed(results, terminal=False)
    assert "features[bold]." + "x" * 150 in text
    assert "–" in text
    assert len(text.strip().splitlines()) == 3


def test_brackets_survive_on_a_terminal() -> None:
    assert "a[bold]b" in printed(scored([0.5], layer=["a[bold]b"]), terminal=True)


def test_random_weights_are_told_apart_by_seed() -> None:
    text = printed(scored([0.5, 0.4], weights=["random"] * 2, seed=[3, 4]), terminal=False)
    assert "random, seed 3" in text
    assert "random, seed 4" in text


def test_nothing_to_print() -> None:
    assert printed(scored([np.nan]), terminal=True).strip() == "No scores yet."


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=synthetic", "-c", "user.email=synthetic@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_git_sha_of_a_clean_and_a_modified_checkout(tmp_path: Path) -> None:
    assert git_sha(tmp_path) == ""
    git(tmp_path, "init", "-q")
    assert git_sha(tmp_path) == ""
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "one")
    git(tmp_path, "tag", "-a", "v1", "-m", "a tag must not replace the commit")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    assert git_sha(tmp_path) == commit
    (tmp_path / "untracked").write_text("x")
    assert git_sha(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_sha(tmp_path) == f"{commit}-dirty"


def test_git_sha_without_git_or_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_sha(tmp_path / "absent") == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_sha(tmp_path) == ""


def test_versions_are_those_installed() -> None:
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["scikit-learn"] == importlib.metadata.version("scikit-learn")
    assert {"python", "toolkit", "torch", "torchvision", "timm", "zarr", "dask", "submitit"} <= set(
        found
    )


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import toolkit.results", ("pandas", "pyarrow", "torch", "rich")),
        ("from toolkit.results import versions, git_sha; versions()", ("pandas", "torch", "dask")),
        ("import toolkit.results.tables, toolkit.results.best", ("torch", "zarr", "dask")),
    ],
)
def test_imports_stay_light(statement: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys; {statement}; print(*(set({unwanted!r}) & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert loaded.strip() == ""


def test_every_public_name_resolves() -> None:
    import toolkit.results

    for name in toolkit.results.__all__:
        assert getattr(toolkit.results, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = toolkit.results.nothing
