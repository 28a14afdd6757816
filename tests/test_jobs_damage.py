"""Features and Gram files that are damaged, or another's: the scores are right all the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.run import run_tasks
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.encoding.statistics import load_statistics, save_statistics
from toolkit.plan import features_id, make_plan
from toolkit.report.recordings import Recordings
from toolkit.report.study import read_study
from toolkit.results import read_scores
from toolkit.results.collecting import collect_run
from toolkit.task import Task

# Two layers of one shape: nothing but its name says whose an array is.
LAYERS = ("blocks.0", "blocks.1")
CONFIG = """\
name: synthetic-damage
dataset: {kind: synthetic, n_train: 48, n_val: 16, n_neuroids: 4, image_px: 32}
models: [{library: timm, names: test_vit, layers: [blocks.0, blocks.1]}]
readouts: [{kind: ridge, n_components: 10}, {kind: rdm}]
"""
FORMS = {
    "features": ("features=full",),
    "gram": ("features=gram",),
    "covariance": (
        "features=average",
        "pca.solver=covariance",
        "readouts=[{kind: ridge, n_components: 10}]",
    ),
}
NOT_SCORES = ("seconds", "peak_memory_bytes", "created")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """Finished runs."""
    runs = {}
    for form, overrides in FORMS.items():
        folder = tmp_path_factory.mktemp(form)
        (folder / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
        config, source = load_config(folder / "sweep.yaml", overrides)
        plan = make_plan(config, source, Catalog(folder / "catalog.json"))
        runs[form] = RunFolder(folder / "run")
        runs[form].create()
        runs[form].write_plan(plan.tasks, {})
        round_of(runs[form])
        assert len(scores(runs[form])) == len(plan.encode)
    return runs


@pytest.fixture
def copied(undisturbed: dict[str, RunFolder], tmp_path: Path) -> Callable[[str], RunFolder]:
    """A run whose features are extracted and whose layers are to be encoded again."""

    def copy(form: str) -> RunFolder:
        shutil.copytree(undisturbed[form].path, tmp_path / "run")
        run = RunFolder(tmp_path / "run")
        for task in encodes(run):
            run.result_path(task.id).unlink()
        return run

    return copy


def encodes(run: RunFolder) -> list[Task]:
    return [task for task in run.tasks() if task.kind == "encode"]


def round_of(run: RunFolder) -> dict[str, tuple[str, str]]:
    """Run what is not done; error classes and messages by label."""
    for task in run.tasks():
        run.reopen(task.id)
    run_tasks(str(run.path), [task.id for task in run.tasks()], 1)
    labels = {task.id: task.label for task in run.tasks()}
    failed = [attempt for attempt in run.attempts().values() if attempt.error_class]
    return {labels[a.task_id]: (a.error_class, a.error_message) for a in failed}


def scores(run: RunFolder) -> dict[str, tuple[dict[str, Any], str]]:
    found = {}
    for task in encodes(run):
        neurons, summary = read_scores(run.result_path(task.id))
        kept = {name: value for name, value in summary.items() if name not in NOT_SCORES}
        found[task.id] = (kept, neurons.to_csv())
    return found


def log_of(run: RunFolder) -> str:
    return "".join(path.read_text() for path in (run.path / "logs").glob("*.log"))


def store_of(run: RunFolder) -> Path:
    return run.features_path(features_id(encodes(run)[0]))


def grams_of(run: RunFolder) -> list[Path]:
    return [run.gram_path(features_id(encodes(run)[0]), layer) for layer in LAYERS]


def of_fewer_images(own: Path, _: Path) -> None:
    labels = {"features_id": own.parent.name, "layer": own.stem}
    whole = load_statistics(own, n_stimuli=64, **labels)
    rows = whole.rows
    fewer = type(rows)(
        rows.n_features,
        rows.grand_mean,
        rows.mean_spread,
        rows.row_sums[:-1],
        rows.mean_products[:-1],
    )
    save_statistics(own, type(whole).from_gram(whole.gram[:-1, :-1], fewer), **labels)


GRAM_FAULTS: dict[str, Callable[[Path, Path], Any]] = {
    "another layer's": lambda own, other: shutil.copyfile(other, own),
    "of fewer images": of_fewer_images,
    "zeros": lambda own, _: own.write_bytes(bytes(own.stat().st_size)),
    "cut off": lambda own, _: own.write_bytes(own.read_bytes()[:-500]),
    "empty": lambda own, _: own.write_bytes(b""),
    "one bit": lambda own, _: flip_a_bit(own),
    "a pickle": lambda own, _: np.save(own.open("wb"), np.array([{}]), allow_pickle=True),
    "a plain array": lambda own, _: np.save(own.open("wb"), np.eye(64)),
    "of no one": lambda own, _: rewrite(own, of=None),
    "of other numbers": lambda own, _: rewrite(own, gram=1.5 * np.load(own)["gram"]),
}


def rewrite(path: Path, **changes: Any) -> None:
    """Save the arrays of a file again, of which some are changed or, if None, left out."""
    arrays = {**np.load(path), **changes}
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("fault", GRAM_FAULTS)
def test_a_gram_file_that_is_not_its_layers_is_computed_again(
    undisturbed: dict[str, RunFolder], copied: Callable[[str], RunFolder], fault: str
) -> None:
    run = copied("features")
    first, second = grams_of(run)
    GRAM_FAULTS[fault](second, first)
    assert round_of(run) == {}
    assert scores(run) == scores(undisturbed["features"])
    log = log_of(run)
    assert f"{second} is" in log
    assert "it is computed again from the features" in log and "allow_pickle" not in log
    labels = {"features_id": second.parent.name, "layer": second.stem}
    assert load_statistics(second, n_stimuli=64, **labels)


@pytest.mark.parametrize("fault", ["absent", *GRAM_FAULTS])
def test_the_only_gram_file_of_a_layer_is_made_again(
    undisturbed: dict[str, RunFolder], copied: Callable[[str], RunFolder], fault: str
) -> None:
    run = copied("gram")
    first, second = grams_of(run)
    before = first.stat().st_mtime_ns
    {"absent": lambda own, _: own.unlink(), **GRAM_FAULTS}[fault](second, first)
    failed = round_of(run)
    assert {error_class for error_class, _ in failed.values()} == {"damaged_features"}
    assert all(str(second) in text and "pickle" not in text for _, text in failed.values())
    assert round_of(run) == {}
    assert scores(run) == scores(undisturbed["gram"])
    assert first.stat().st_mtime_ns == before


def test_an_extraction_that_goes_on_looks_into_the_gram_files(
    undisturbed: dict[str, RunFolder], copied: Callable[[str], RunFolder]
) -> None:
    run = copied("gram")
    first, second = grams_of(run)
    shutil.copyfile(first, second)
    run.result_path(encodes(run)[0].inputs[0]).unlink()
    assert round_of(run) == {}
    assert scores(run) == scores(undisturbed["gram"])
    assert "its layer is extracted again" in log_of(run)


def test_a_figure_is_not_drawn_from_another_layers_gram_file(
    copied: Callable[[str], RunFolder],
) -> None:
    run = copied("features")
    round_of(run)
    collect_run(run)
    first, second = grams_of(run)
    shutil.copyfile(first, second)
    recordings = Recordings(read_study([run.path]))
    tasks = {
        task.params["layer"]: {"run": run.path.name, "task_id": task.id} for task in encodes(run)
    }
    assert recordings.statistics(tasks[LAYERS[0]]) is not None  # type: ignore[arg-type]
    assert recordings.statistics(tasks[LAYERS[1]]) is None  # type: ignore[arg-type]
    assert [str(second) in absence for absence in recordings.absences] == [True]


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def swap(store: Path) -> None:
    first, second = (store / layer for layer in LAYERS)
    first.rename(store / "aside")
    second.rename(first)
    (store / "aside").rename(second)


def arrays_of(content: dict[str, Any]) -> dict[str, Any]:
    arrays: dict[str, Any] = content["consolidated_metadata"]["metadata"]
    return arrays


STORE_FAULTS: dict[str, Callable[[Path], Any]] = {
    "absent": shutil.rmtree,
    "ids of zeros": lambda store: zeros(store / "stimulus" / "c" / "0"),
    "ids absent": lambda store: (store / "stimulus" / "c" / "0").unlink(),
    "group of zeros": lambda store: zeros(store / "zarr.json"),
    "group cut off": lambda store: cut(store / "zarr.json"),
    "group empty": lambda store: (store / "zarr.json").write_text("{}"),
    "group absent": lambda store: (store / "zarr.json").unlink(),
    "no provenance": lambda store: changed(
        store / "zarr.json", lambda group: group["attributes"].pop("provenance")
    ),
    "no arrays": lambda store: changed(store / "zarr.json", lambda group: arrays_of(group).clear()),
    "another shape": lambda store: changed(
        store / "zarr.json",
        lambda group: arrays_of(group)[LAYERS[0]]["attributes"].update(layer_shape=[7]),
    ),
    "arrays in another order": lambda store: changed(
        store / "zarr.json",
        lambda group: arrays_of(group)[LAYERS[0]]["attributes"].update(layer_index=100),
    ),
    "array cut off": lambda store: cut(store / LAYERS[0] / "zarr.json"),
    "array empty": lambda store: (store / LAYERS[0] / "zarr.json").write_text("{}"),
    "array absent": lambda store: shutil.rmtree(store / LAYERS[0]),
    "arrays swapped": swap,
}


@pytest.mark.parametrize("form", ["features", "covariance"])
@pytest.mark.parametrize("fault", STORE_FAULTS)
def test_a_damaged_store_is_extracted_again(
    undisturbed: dict[str, RunFolder],
    copied: Callable[[str], RunFolder],
    fault: str,
    form: str,
) -> None:
    run = copied(form)
    for path in grams_of(run):
        path.unlink(missing_ok=True)
    STORE_FAULTS[fault](store_of(run))
    failed = round_of(run)
    assert {error_class for error_class, _ in failed.values()} == {"damaged_features"}
    assert all(str(store_of(run)) in message for _, message in failed.values())
    assert round_of(run) == {}
    assert scores(run) == scores(undisturbed[form])
    assert [path.name for path in store_of(run).parent.iterdir()] == [store_of(run).name]


@pytest.mark.parametrize("fault", STORE_FAULTS)
def test_an_extraction_that_finds_a_damaged_store_begins_anew(
    undisturbed: dict[str, RunFolder], copied: Callable[[str], RunFolder], fault: str
) -> None:
    run = copied("features")
    for path in grams_of(run):
        path.unlink()
    (store_of(run) / LAYERS[0] / "c.0.0").unlink()
    run.result_path(encodes(run)[0].inputs[0]).unlink()
    STORE_FAULTS[fault](store_of(run))
    assert round_of(run) == {}
    assert scores(run) == scores(undisturbed["features"])


def exchange(path: Path) -> None:
    shutil.copyfile(path.parents[1] / LAYERS[0] / path.name, path)


def shift(path: Path) -> None:
    shutil.copyfile(path.with_name("c.1.0"), path)


@pytest.mark.parametrize("form", ["features", "covariance"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, zeros, flip_a_bit, exchange, shift])
def test_damaged_chunks_are_noticed_by_every_solver(
    undisturbed: dict[str, RunFolder],
    copied: Callable[[str], RunFolder],
    damage: Callable[[Path], None],
    form: str,
) -> None:
    run = copied(form)
    for path in grams_of(run):
        path.unlink(missing_ok=True)
    chunk = store_of(run) / LAYERS[1] / "c.0.0"
    damage(chunk)
    ((error_class, message),) = round_of(run).values()
    assert error_class == "damaged_features" and str(chunk) in message
    assert round_of(run) == {}
    assert scores(run) == scores(undisturbed[form])


def test_what_is_whole_and_something_else_stays(copied: Callable[[str], RunFolder]) -> None:
    run = copied("features")
    for path in grams_of(run):
        path.unlink()
    store = store_of(run)
    changed(store / "zarr.json", lambda group: group["attributes"]["provenance"].update(seed=9))
    before = (store / "zarr.json").read_bytes()
    for _ in range(2):
        failed = round_of(run)
        assert {error_class for error_class, _ in failed.values()} == {"bad_features"}
        assert all("provenance 'seed' is 9, not 0" in message for _, message in failed.values())
        run.result_path(encodes(run)[0].inputs[0]).unlink(missing_ok=True)  # then the extraction
    assert (store / "zarr.json").read_bytes() == before


def test_what_is_no_store_stays(copied: Callable[[str], RunFolder]) -> None:
    run = copied("features")
    for path in grams_of(run):
        path.unlink()
    shutil.rmtree(store_of(run))
    store_of(run).mkdir()
    (store_of(run) / "thesis.txt").write_text("results")
    for _ in range(2):
        failed = round_of(run)
        assert {error_class for error_class, _ in failed.values()} == {"bad_features"}
        assert all("in the way of a feature store" in message for _, message in failed.values())
    assert (store_of(run) / "thesis.txt").read_text() == "results"
