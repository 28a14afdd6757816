"""The command as people use it, in processes of its own: run, kill, run again, ask."""

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from commands import Command, start, sweep

from toolkit.cluster.run_folder import RunFolder
from toolkit.results import load
from toolkit.task import TaskKind, TaskState

CONFIG = """\
name: tiny-synthetic
dataset: {kind: synthetic, n_train: 60, n_val: 20, n_neuroids: 6, image_px: 32}
models:
  - {library: pixels}
  - {library: timm, names: test_vit, layers: [blocks.2, blocks.5]}
readouts:
  - {kind: ridge, n_components: 20}
  - {kind: linear, n_components: 20}
executor: {kind: inprocess}
resources: {extract: {cpus: 1}, encode: {cpus: 1}}
"""
ABSENT = "{kind: nx414, path: absent.h5, sizes: {n_neuroids: 3, splits: {train: 60, val: 20}}}"
DIFFERS_FROM_RUN_TO_RUN = ["seconds", "peak_memory_bytes", "created"]
N_ENCODE = 2 * (1 + 2)  # read-outs × layers of pixels and test_vit

# As many networks as keep a run busy until a test has stopped it.
MANY = ("--set", "models.1.seeds=[0, 1, 2, 3, 4, 5]", "--executor", "local")

pytestmark = pytest.mark.slow


def wait_until(condition: Callable[[], bool], process: Command | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def undisturbed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    output = sweep(config, "--out", folder)
    assert output.splitlines()[-1] == str(folder / "results.parquet")
    return folder


def results(folder: Path) -> pd.DataFrame:
    return load(folder).results.drop(columns=DIFFERS_FROM_RUN_TO_RUN)


def assert_same_tables(folder: Path, other: Path) -> None:
    pd.testing.assert_frame_equal(results(folder), results(other), check_exact=True)
    pd.testing.assert_frame_equal(load(folder).neurons, load(other).neurons, check_exact=True)


def result_times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "results").iterdir()}


def is_extracting(run: RunFolder) -> bool:
    begun = {path.parents[1].name for path in run.path.glob("features/*.zarr/*/c.*")}
    results_ = list(run.results_folder.glob("extract-*")) if run.results_folder.is_dir() else []
    return len(begun) > len(results_)


def is_encoding(run: RunFolder) -> bool:
    return run.results_folder.is_dir() and len(list(run.results_folder.glob("encode-*"))) >= 3


def test_a_run_leaves_a_row_for_each_layer_and_readout(undisturbed: Path) -> None:
    tables = load(undisturbed)
    assert len(tables.results) == N_ENCODE
    assert set(tables.results["status"]) == {"done"}
    assert tables.results["r_mean"].notna().all()
    assert (tables.results["n_train"] == 60).all()
    assert (tables.results["n_test"] == 20).all()
    assert (tables.results["n_components"] <= 20).all()
    assert tables.results["ceiled_median_2026"].notna().all()
    assert len(tables.neurons) == N_ENCODE * 6
    assert tables.results["git_sha"].notna().all()


def test_running_again_runs_nothing_and_says_so(config: Path, undisturbed: Path) -> None:
    before = result_times(undisturbed)
    output = sweep(config, "--out", undisturbed)
    assert "Nothing to run" in output
    assert output.splitlines()[-1] == str(undisturbed / "results.parquet")
    assert result_times(undisturbed) == before


@pytest.mark.parametrize("moment", [is_extracting, is_encoding], ids=["extraction", "encoding"])
def test_killed_and_continued_gives_the_same_tables(
    config: Path, undisturbed: Path, tmp_path: Path, moment: Callable[[RunFolder], bool]
) -> None:
    run = RunFolder(tmp_path / "run")
    process = start(config, "--out", run.path)
    wait_until(lambda: moment(run), process)
    process.kill()
    process.communicate()
    assert len(run.done_ids()) < len(run.tasks())
    sweep(config, "--out", run.path)
    assert_same_tables(run.path, undisturbed)


def test_processes_of_this_machine_give_the_same_scores(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    sweep(config, "--out", tmp_path / "run", "--executor", "local")
    local, here = load(tmp_path / "run").neurons, load(undisturbed).neurons
    for score in ("ev", "r", "r2", "mse"):
        np.testing.assert_allclose(local[score], here[score], rtol=1e-5, atol=1e-7)


def test_a_new_model_runs_only_what_is_new(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    before = result_times(folder)
    sweep(config, "--out", folder, "--set", "models.1.seeds=[0, 1]")
    after = result_times(folder)
    assert before.items() < after.items()
    assert len(load(folder).results) == N_ENCODE + 2 * 2
    sweep(config, "--out", folder)
    assert len(load(folder).results) == N_ENCODE


def test_damaged_features_are_rebuilt(config: Path, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    run = RunFolder(folder)
    child = next(task for task in run.tasks() if task.columns.get("model") == "test_vit")
    layer = child.params["layer"]
    chunk = run.features_path(child.inputs[0]) / layer / "c.2.0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 0xFF
    chunk.write_bytes(content)
    run.gram_path(child.inputs[0], layer).unlink()
    run.result_path(child.id).unlink()
    output = sweep(config, "--out", folder)
    assert "damaged_features" in output
    assert str(chunk) in output.replace("\n", "")
    assert_same_tables(folder, undisturbed)


def test_results_that_are_damaged_or_mixed_up_are_computed_again(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    cut, other, source = sorted((folder / "results").glob("encode-*"))[:3]
    cut.write_bytes(cut.read_bytes()[:300])
    shutil.copyfile(source, other)
    output = sweep(config, "--out", folder)
    assert "2 results are damaged or those of other tasks, and are computed again; " in output
    assert cut.name in output or other.name in output
    assert_same_tables(folder, undisturbed)


def break_page(path: Path) -> None:
    """Flip a byte of the scores; the end of the file stays whole."""
    page = pq.ParquetFile(path).metadata.row_group(0).column(4)
    content = bytearray(path.read_bytes())
    content[page.data_page_offset + page.total_compressed_size - 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("way", ["config", "retry", "collect and retry", "collect and config"])
def test_results_with_a_damaged_page_are_computed_again(
    config: Path, undisturbed: Path, tmp_path: Path, way: str
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(undisturbed, run.path)
    broken = sorted((run.path / "results").glob("encode-*"))[:2]
    for path in broken:
        break_page(path)
    if "collect" in way:
        output = sweep("collect", run.path, expect=1)
        assert "2 results cannot be used: " in output
        assert f"python -m toolkit.sweep retry {run.path}" in output
        assert load(run.path).tasks["error_class"].eq("bad_result").sum() == 2
    if "config" in way:
        sweep(config, "--out", run.path)
    else:
        assert "2 failed tasks again" in sweep("retry", run.path)
    assert_same_tables(run.path, undisturbed)
    assert all(path.with_name(f"{path.name}.damaged").is_file() for path in broken)
    assert not run.attempts()


def test_a_damaged_page_is_healed_beside_other_work(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    absent, broken = sorted((folder / "results").glob("encode-*"))[:2]
    absent.unlink()
    break_page(broken)
    sweep(config, "--out", folder)
    assert_same_tables(folder, undisturbed)


@pytest.mark.parametrize("way", ["config", "collect and retry"])
def test_damaged_reports_of_extractions_are_written_again(
    config: Path, undisturbed: Path, tmp_path: Path, way: str
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(undisturbed, run.path)
    empty, other = sorted((run.path / "results").glob("extract-*.json"))
    shutil.copyfile(empty, other)
    empty.write_bytes(b"")
    features = {p: p.stat().st_mtime_ns for p in run.path.glob("features/*/*/c.*")}
    tasks = load(run.path).tasks.set_index("task_id")
    assert set(tasks.index[tasks["error_class"] == "bad_result"]) == {empty.stem, other.stem}
    if way == "config":
        sweep(config, "--out", run.path)
    else:
        assert "2 results cannot be used: " in sweep("collect", run.path, expect=1)
        sweep("retry", run.path)
    assert_same_tables(run.path, undisturbed)
    assert set(load(run.path).tasks["status"]) == {"done"}
    assert {path: path.stat().st_mtime_ns for path in features} == features
    assert not run.attempts()


def test_a_failed_task_leaves_rows_reasons_and_a_way_back(config: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert "2 of them" not in sweep("plan", config, "--out", run.path)
    assert not run.path.exists()
    sweep(config, "--out", run.path, "--set", "models=[{library: pixels}]")
    extract = plan_ids(config, run.path, tmp_path)
    run.features_path(extract["synthetic test_vit random-0"]).write_text("in the way")

    output = sweep(config, "--out", run.path, expect=1)
    table = load(run.path).results.set_index(["model", "layer"])
    assert (table.loc["pixels"]["status"] == "done").all()
    failed = table.loc["test_vit"]
    assert (failed["status"] == "blocked").all()
    assert failed["r_mean"].isna().all()
    assert failed["error_message"].str.contains(extract["synthetic test_vit random-0"]).all()

    output = sweep("status", run.path, expect=1)
    assert "failed" in output
    assert "blocked" in output
    assert "Traceback" in sweep("logs", run.path, "test_vit", "-n", "500")
    assert "nothing to retry" in sweep("retry", run.path, "--class", "timeout", expect=1)

    run.features_path(extract["synthetic test_vit random-0"]).unlink()
    assert "1 failed tasks again" in sweep("retry", run.path)
    assert (load(run.path).results["status"] == "done").all()
    assert sweep("status", run.path)


def plan_ids(config: Path, folder: Path, tmp_path: Path) -> dict[str, str]:
    """Ids of the extract tasks by label."""
    from toolkit.catalog import Catalog
    from toolkit.config import load_config
    from toolkit.plan import make_plan

    plan = make_plan(*load_config(config), Catalog(tmp_path / "catalog.json"))
    return {task.label: task.id for task in plan.extract}


def test_detached_runs_are_watched_and_cancelled_from_outside(
    config: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "run")
    output = sweep(config, "--out", run.path, "--detach", *MANY)
    assert f"status {run.path}" in output.replace("\n", "")
    wait_until(lambda: is_extracting(run))
    assert "run by process" in sweep("status", run.path, expect=1)
    assert "is being run by process" in sweep(config, "--out", run.path, expect=2)
    assert "Stopped" in sweep("cancel", run.path)
    assert run.owner() is None
    assert not any(
        run.is_alive(attempt)
        for attempt in run.attempts().values()
        if attempt.state is TaskState.RUNNING
    )
    assert "Nothing is running" in sweep("cancel", run.path)
    sweep("collect", run.path, expect=1)
    assert len(load(run.path).results) == N_ENCODE + 5 * 2 * 2
    # What was done before the end keeps the hash of the config that it was planned from.
    sweep(config, "--out", run.path, "--executor", "inprocess")
    found, expected = (
        results(path).drop(columns="config_hash") for path in (run.path, undisturbed)
    )
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_an_interrupt_stops_in_order(config: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    one_that_lasts = ("--set", "models.0={library: timm, names: test_vit2, layers: [blocks.5]}")
    more = ("--set", "dataset.n_train=1500", "--executor", "local")
    process = start(config, "--out", run.path, *one_that_lasts, *more)
    wait_until(lambda: is_extracting(run), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run the same command again" in output
    assert "Traceback" not in output
    assert TaskState.CANCELLED in {attempt.state for attempt in run.attempts().values()}


def test_a_refused_config_starts_nothing(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for override, says in [
        ("models.1.names=[test_vitt]", "test_vit"),
        ("readouts.0.n_components=1000", "1000 components from 60 training images"),
        (f"dataset={ABSENT}", "are not here"),
        ("resources.extract.gpus=7", "7 GPUs wanted"),
    ]:
        assert says in sweep(config, "--out", out, "--set", override, expect=2)
    assert not out.exists()
    assert "no file" in sweep("nonsense.yaml", expect=2).lower().replace("no such file", "no file")


def test_plan_counts_what_is_done(config: Path, undisturbed: Path) -> None:
    output = sweep("plan", config, "--out", undisturbed)
    stages = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line}
    assert stages[TaskKind.EXTRACT][:3] == ["2", "2", "0"]
    assert stages[TaskKind.ENCODE][:3] == [str(N_ENCODE), str(N_ENCODE), "0"]


def test_features_on_disk_are_as_many_as_planned(config: Path, undisturbed: Path) -> None:
    output = sweep("plan", config, "--out", undisturbed)
    planned = next(line for line in output.splitlines() if line.startswith("extract"))
    files = sum(path.is_file() for path in (undisturbed / "features").rglob("*"))
    assert planned.split()[-1] == str(files)


def test_a_report_is_a_page_of_its_own(undisturbed: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert str(page) in sweep("report", undisturbed, "--out", page)
    assert "test_vit" in page.read_text(encoding="utf-8")
    assert "is not a run folder" in sweep("report", tmp_path, expect=2)


def test_a_plan_may_be_for_another_executor(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert "encode" in sweep("plan", config, "--out", out, "--executor", "local")
    refused = sweep("plan", config, "--out", out, "--executor", "slurm", expect=2)
    assert "name the site: --profile" in refused
    assert not out.exists()
