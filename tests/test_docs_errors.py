"""The page of errors: each text on it is really said, and the table of classes is the code's."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_cluster_local import ONE_CPU, die, make_run

from jobs.extract import layer_groups
from jobs.run import _text, error_class, run_tasks
from toolkit import models
from toolkit.cluster.code_snapshot import CodeChangedError, check_code
from toolkit.cluster.dispatch import SlurmSettings, advance
from toolkit.cluster.failures import _BY_ERROR_CLASS, FailureClass
from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.local import run_local
from toolkit.cluster.manifests import (
    Submission,
    element_log_path,
    record_array_id,
    write_manifest,
)
from toolkit.cluster.profiles import SiteProfile
from toolkit.cluster.retries import RetryPolicy
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.scheduler_output import SQUEUE_FORMAT
from toolkit.features.errors import FeatureStorageError
from toolkit.features.store import FeatureStore
from toolkit.models.download import download
from toolkit.models.layers import LayerInfo
from toolkit.results import load
from toolkit.sweep import main
from toolkit.task import Task, TaskKind, TaskState
from toolkit.training import DivergedError
from toolkit.verbs.slurm import _leave

if TYPE_CHECKING:
    from fake_slurm import FakeSlurm

pytest_plugins = ("fake_slurm",)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "errors.md"
ENTRY = re.compile(r"^### (.+?)\n\n```text\n(.+?)\n```\n\n(.+?)(?=^#|\Z)", re.M | re.S)

CONFIG = """\
name: my_sweep
dataset: {kind: synthetic, n_train: 400}
models:
  - {library: torchvision, names: resnet18}
readouts:
  - {kind: ridge}
"""
LAB = """\
name: my_sweep
dataset: {kind: files, name: my_recording, images: images, responses: rates.npy, region: IT}
protocol: {kind: kfold, n_splits: 2}
models: [{library: pixels}]
readouts: [{kind: ridge, n_components: 2, folds: 2}]
executor: {kind: inprocess}
"""
N_IMAGES = 8


def command(*words: str | Path) -> str:
    """What the command prints, on either stream."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        main([str(word) for word in words])
    return printed.getvalue()


def raised(function: Callable[..., object], *arguments: object) -> str:
    """What is recorded of a task that ends like this."""
    with pytest.raises(Exception) as caught:
        function(*arguments)
    return f"{error_class(caught.value)}: {_text(caught.value)}"


def planned(line: str, instead: str, *words: str) -> str:
    """What ``plan`` says of the config with one line changed."""
    assert line in CONFIG
    Path("my_sweep.yaml").write_text(CONFIG.replace(line, instead), encoding="utf-8")
    return command("plan", "my_sweep.yaml", *words)


def write_lab(responses: np.ndarray | None = None) -> None:
    """A laboratory's files in the working folder: images, and responses of three neurons."""
    rng = np.random.default_rng(0)
    Path("images").mkdir()
    for i in range(N_IMAGES):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/im{i}.png")
    np.save("rates.npy", rng.normal(size=(N_IMAGES, 3)) if responses is None else responses)
    Path("my_sweep.yaml").write_text(LAB, encoding="utf-8")


def run_lab(*words: str) -> str:
    return command("my_sweep.yaml", "--out", "run", *words)


# Provoked by the command, on configs and files that are wrong.


def missing_responses() -> str:
    write_lab(np.where(np.arange(N_IMAGES * 3).reshape(-1, 3) == 4, np.nan, 1.0))
    return run_lab()


def perhaps_no_neurons() -> str:
    write_lab()
    unit = np.linspace(0.1, 0.9, N_IMAGES)
    table = pd.DataFrame({"unit1": unit, "unit2": unit[::-1], "order_shown": range(N_IMAGES)})
    table.insert(0, "stimulus_id", [f"im{i}" for i in range(N_IMAGES)])
    table.to_csv("rates.csv")
    return run_lab("--set", "dataset.responses=rates.csv")


def other_number_of_images() -> str:
    write_lab(np.ones((3, N_IMAGES)))
    return run_lab()


def damaged_image() -> str:
    write_lab()
    path = Path("images/im3.png")
    path.write_bytes(path.read_bytes()[:60])
    return run_lab()


def identical_images() -> str:
    write_lab()
    Path("images/im7.png").write_bytes(Path("images/im0.png").read_bytes())
    return run_lab()


def changed_responses() -> str:
    write_lab()
    command("my_sweep.yaml", "--out", "run")
    run = RunFolder("run")
    (task,) = (task for task in run.tasks() if task.kind is TaskKind.ENCODE)
    run.result_path(task.id).unlink()
    np.save("rates.npy", np.load("rates.npy") + 1)
    run_tasks("run", [task.id], 1)
    return command("status", "run")


def damaged_features() -> str:
    write_lab()
    run_lab()
    run = RunFolder("run")
    (task,) = (task for task in run.tasks() if task.kind is TaskKind.ENCODE)
    run.result_path(task.id).unlink()
    for path in run.path.glob("grams/*/*"):
        path.unlink()
    (shard,) = (path for path in run.path.glob("features/*.zarr/pixels/c.*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    run_tasks("run", [task.id], 1)
    return command("status", "run")


def features_not_finite() -> str:
    network = models.load_network(models.ModelSpec("timm", "test_resnet"), "cpu").module
    state = {name: value * float("nan") for name, value in network.state_dict().items()}
    torch.save(state, "mine.pth")
    write_lab()
    layers = "{library: timm, names: test_resnet, weights: mine.pth, layers: layer1}"
    return run_lab("--set", f"models=[{layers}]")


def held_run() -> str:
    write_lab()
    run_lab()
    with RunFolder("run").owned():
        return command("my_sweep.yaml", "--out", "run")


def no_tables() -> str:
    write_lab()
    run_lab()
    Path("run/results.parquet").unlink()
    return raised(load, "run")


def other_checkpoint() -> str:
    network = models.load_network(models.ModelSpec("timm", "test_vit"), "cpu").module
    torch.save(network.state_dict(), "mine.pth")
    spec = models.ModelSpec("timm", "test_resnet", "mine.pth")
    return raised(models.load_network, spec, "cpu")


def no_network() -> str:
    url = "http://127.0.0.1:9/models/resnet50-11ad3fa6.pth"
    return raised(download, url, Path("checkpoints"), "11ad3fa6")


def wrong_hash() -> str:
    Path("resnet50-11ad3fa6.pth").write_text("<html>please log in</html>", encoding="utf-8")
    url = Path("resnet50-11ad3fa6.pth").absolute().as_uri()
    return raised(download, url, Path("checkpoints"), "11ad3fa6")


def process_that_died() -> str:
    run, batches = make_run(Path.cwd(), 1)
    run_local(run, batches, partial(die, str(run.path)), ONE_CPU, max_parallel=1)
    return command("status", "run")


# Provoked by the functions that say it, where the cause cannot be had in a test.


def gpu_is_full() -> str:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 392.00 MiB. GPU 0 …")
    return f"{error_class(error)}: {_text(error)}"


def layer_too_large() -> str:
    layer = LayerInfo("layer1", (256, 56, 56), 4)
    return raised(list, layer_groups([layer], 4 * 5760, 9_600_000_000))


def no_space() -> str:
    layers = [LayerInfo("layer1", (1 << 30, 64, 64), 0)]
    ids = [f"im{i}" for i in range(64)]
    store = FeatureStore.create("x.zarr", layers=layers, stimulus_ids=ids, provenance={})
    with pytest.raises(FeatureStorageError) as caught:
        store.require_space(store.missing_blocks())
    return f"{error_class(caught.value)}: {caught.value}"


def edited_code() -> str:
    with pytest.raises(CodeChangedError) as caught:
        check_code("0123456789abcdef")
    return str(caught.value)


def diverged() -> str:
    from training_problem import assignment

    from toolkit.training import Recipe, train

    recipe = Recipe.from_plain(
        {"objectives": [{"kind": "mse"}], "n_epochs": 3, "optimizer": {"kind": "sgd", "lr": 1e30}}
    )
    with pytest.raises(DivergedError) as caught:
        train(assignment(Path("bank"), recipe), Path("training"))
    return f"{error_class(caught.value)}: {caught.value}"


# Provoked on a run whose jobs Slurm speaks of as a stand-in for its programs is told to.

REQUEST = JobRequest(n_cpus=4, n_gpus=1, memory_gb=16.0, timeout_min=240)


class SlurmRun:
    """A run with two extractions, elements 0 and 1 of array 4711, and a read-out of the first."""

    def __init__(self, slurm: FakeSlurm) -> None:
        self.slurm = slurm
        self.folder = RunFolder("run")
        self.folder.create()
        self.extract = [
            Task(TaskKind.EXTRACT, {"library": "timm", "model": name}, label=f"my_data {name}")
            for name in ("resnet50", "vit_base")
        ]
        first = self.extract[0].id
        self.encode = Task(
            TaskKind.ENCODE, {"layer": "x"}, inputs=(first,), label="my_data resnet50 layer4 ridge"
        )
        settings = SlurmSettings(SiteProfile(), dict.fromkeys(TaskKind, REQUEST), None, "")
        summary = {"slurm": settings.to_dict(), "executor": {"kind": "slurm"}}
        self.folder.write_plan([*self.extract, self.encode], summary)
        self._submit("4711", TaskKind.EXTRACT, [(task.id,) for task in self.extract])
        self._submit("4712", TaskKind.ENCODE, [(self.encode.id,)])
        slurm.answers("sacct", fails="Slurm accounting storage is disabled")
        slurm.answers("scancel")

    def _submit(self, array_id: str, kind: TaskKind, elements: list[tuple[str, ...]]) -> None:
        array = Submission(f"{kind}-{array_id}", array_id, kind, REQUEST, tuple(elements), "", "")
        record_array_id(write_manifest(self.folder, array), array_id)

    def status(self, first: str, *, log: str = "", child: str = "PENDING|Dependency") -> str:
        """What ``status`` says where the first extraction stands so, the others wait."""
        if log:
            path = element_log_path(self.folder, "4711_0")
            path.write_text(f"=== start now\n{log}\n", encoding="utf-8")
        lines = [
            f"4711_0|{first}|",
            "4711_1|PENDING|JobArrayTaskLimit||0|0|1|",
            f"4712_0|{child}||0|0|1|",
        ]
        answers = {
            f"--Format={SQUEUE_FORMAT}": "\n".join(lines) + "\n",
            "--Format=ArrayJobID:|,Name:|": "4711|4711|\n4712|4712|\n",
        }
        self.slurm.answers_by_word("squeue", answers)
        return command("status", "run")


def submitted(slurm: FakeSlurm, refusal: list[str]) -> str:
    """What the command says where sbatch says these lines."""
    config = "MaxArraySize = 1001\nMaxJobCount = 10000\nAccountingStorageEnforce = none\n"
    slurm.answers("scontrol", config)
    slurm.answers("squeue")
    slurm.answers("sbatch", fails="\n".join(f"sbatch: error: {line}" for line in refusal))
    write_lab()
    return run_lab("--executor", "slurm", "--profile", "cpu")


def no_accounting(run: SlurmRun) -> str:
    run.slurm.answers("squeue")
    return command("status", "run")


def slurm_away(run: SlurmRun) -> str:
    away = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    run.slurm.answers("squeue", fails=away)
    return command("status", "run")


def broken_environment(run: SlurmRun) -> str:
    """One extraction was submitted, the other one waits for room in the queue."""
    shutil.rmtree(run.folder.path / "submissions")
    run._submit("4711", TaskKind.EXTRACT, [(run.extract[0].id,)])
    run.status("FAILED|None|n3|0|256|1", log="ModuleNotFoundError: No module named 'timm'")
    advance(run.folder)
    return command("status", "run")


def no_keeper(run: SlurmRun) -> str:
    from toolkit.terminal import make_console

    run.slurm.answers("sbatch", fails="sbatch: error: Batch job submission failed: …")
    printed = io.StringIO()
    _leave(run.folder, make_console(file=printed, width=200))
    return printed.getvalue()


def out_of_tries(run: SlurmRun) -> str:
    attempt = run.folder.start_attempt(run.extract[0].id)
    said = "the time limit of 240 min was reached 6 times"
    ended = replace(attempt, state=TaskState.FAILED, error_class="timeout", job="4711_0.5")
    run.folder.record(replace(ended, error_message=said, n_timeouts=6))
    return run.status("FAILED|None|n3|5|256|1")


def both_places(run: SlurmRun) -> str:
    run.status("FAILED|None|n3|0|256|1", log="Segmentation fault")
    return command("retry", "run", "--executor", "local")


PROVOKED: dict[str, Callable[[], str]] = {
    "A key that does not exist": lambda: planned("n_train", "n_trian"),
    "A network that does not exist": lambda: planned("resnet18", "resnet_50"),
    "A layer that does not exist": lambda: planned("resnet18}", "resnet18, layers: layer5}"),
    "More components than images": lambda: planned("ridge}", "ridge, n_components: 1000}"),
    "A split that is not there": lambda: planned(
        "readouts:", "protocol: {kind: fixed, test: test}\nreadouts:"
    ),
    "Two data sets of one name": lambda: planned(
        "{kind: synthetic, n_train: 400}", "[{kind: synthetic}, {kind: synthetic, seed: 1}]"
    ),
    "Files that are not there": lambda: planned(
        "{kind: synthetic, n_train: 400}", "{kind: nx414, path: data/IT_data.h5}"
    ),
    "Slurm without a profile": lambda: planned("resnet18", "resnet18", "--executor", "slurm"),
    "A profile that does not exist": lambda: planned(
        "resnet18", "resnet18", "--executor", "slurm", "--profile", "gpus"
    ),
    "Missing responses": missing_responses,
    "Columns that are perhaps no neurons": perhaps_no_neurons,
    "Images and responses differ in number": other_number_of_images,
    "An image that cannot be read": damaged_image,
    "The same image in training and test": identical_images,
    "Data that changed under a run": changed_responses,
    "Weights that cannot be fetched": no_network,
    "Weights with another hash": wrong_hash,
    "A checkpoint of another network": other_checkpoint,
    "A process that died": process_that_died,
    "The GPU's memory is full": gpu_is_full,
    "A layer larger than the memory": layer_too_large,
    "No space on the disk": no_space,
    "Features that are not finite": features_not_finite,
    "A damaged file of features": damaged_features,
    "Code that was edited": edited_code,
    "A training that diverged": diverged,
    "Another command holds the run": held_run,
    "No tables yet": no_tables,
    "Not a run folder": lambda: command("status", "runs/quikstart"),
}
PROVOKED_ON_SLURM: dict[str, Callable[[SlurmRun], str]] = {
    "The job's memory was too small": lambda run: run.status("OUT_OF_MEMORY|None|n3|0|9|1"),
    "The time limit": lambda run: run.status("TIMEOUT|None|n3|0|0|1"),
    "The time limit, again and again": out_of_tries,
    "A node failed": lambda run: run.status("NODE_FAIL|None|n3|0|0|0"),
    "A preempted job": lambda run: run.status("PENDING|BeginTime||2|0|1"),
    "Blocked by another task": lambda run: run.status(
        "FAILED|None|n3|0|256|1",
        log="OSError: [Errno 28] No space left on device",
        child="CANCELLED|DependencyNeverSatisfied",
    ),
    "A broken environment": broken_environment,
    "Waiting for one's own limit": lambda run: run.status("RUNNING|None|n3|0|0|1"),
    "Slurm without accounting": no_accounting,
    "Slurm does not answer": slurm_away,
    "No keeper": no_keeper,
    "Tasks in Slurm's queue": both_places,
}
POLICY = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
REFUSED_BY_SLURM = {
    "Slurm refuses the partition": [
        "Batch job submission failed: Invalid partition name specified"
    ],
    "Slurm refuses more jobs": ["AssocMaxSubmitJobLimit", f"Batch job submission failed: {POLICY}"],
}


def entries() -> dict[str, str]:
    """Heading → the text that is quoted under it."""
    return {heading: text for heading, text, _ in ENTRY.findall(PAGE.read_text(encoding="utf-8"))}


def assert_said(heading: str, printed: str) -> None:
    """What the page quotes is in what was printed; … on the page stands for anything."""
    quoted = entries()[heading]
    assert len(quoted.replace("…", "")) >= 20, "too little is quoted"
    words = re.split(r"\s+", quoted)
    pattern = r"\s+".join(re.escape(word).replace("…", ".*") for word in words)
    assert re.search(pattern, printed, re.S), f"{quoted}\n\nis not in\n\n{printed}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in, and a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # of jobs that tests give work


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("heading", PROVOKED)
def test_what_is_quoted_is_said(heading: str) -> None:
    assert_said(heading, PROVOKED[heading]())


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("heading", PROVOKED_ON_SLURM)
def test_what_is_quoted_is_said_on_slurm(heading: str, fake_slurm: FakeSlurm) -> None:
    assert_said(heading, PROVOKED_ON_SLURM[heading](SlurmRun(fake_slurm)))


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("heading", REFUSED_BY_SLURM)
def test_what_is_quoted_is_said_of_a_refusal(heading: str, fake_slurm: FakeSlurm) -> None:
    assert_said(heading, submitted(fake_slurm, REFUSED_BY_SLURM[heading]))


def test_every_entry_is_provoked() -> None:
    assert set(entries()) == {*PROVOKED, *PROVOKED_ON_SLURM, *REFUSED_BY_SLURM}
    assert PAGE.read_text(encoding="utf-8").count("\n### ") == len(entries())


def test_every_entry_says_why_and_what_to_do() -> None:
    for heading, _, answer in ENTRY.findall(PAGE.read_text(encoding="utf-8")):
        assert re.match(r"\*\*Why\.\*\* .+\*\*Do\.\*\* ", answer, re.S), heading


def test_the_narrower_names_count_as_the_code_says() -> None:
    (paragraph,) = re.findall(r"^`bad_….+?(?=\n\n)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    said = {}
    for part in paragraph.split(";"):
        *names, counts_as = re.findall(r"`(\w+)`", part)
        said |= dict.fromkeys(names, counts_as)
    assert said == {name: str(failure) for name, failure in _BY_ERROR_CLASS.items()}


def test_the_table_has_every_class_with_the_retries_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", text, re.M)
    assert [name for name, *_ in rows] == [str(failure) for failure in FailureClass]
    budgets = {name: times for name, _, times, *_ in rows}
    for failure in FailureClass:
        budget = RetryPolicy().budget(failure)
        assert budgets[failure] == ("always" if budget is None else str(budget)), failure
