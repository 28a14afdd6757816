"""Dask workers on a real Slurm: on the nodes of one job, and as jobs of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jobs.interruption import Interruption
from jobs.run import run_tasks
from jobs.workers import job_state
from slurm.devcluster import DevCluster
from toolkit.catalog import Catalog
from toolkit.cluster.arrays import plan_arrays
from toolkit.cluster.batches import Batch
from toolkit.cluster.code_snapshot import take_code_snapshot
from toolkit.cluster.limits import ArrayLimits
from toolkit.cluster.manifests import element_log_path
from toolkit.cluster.profiles import JobRequest, SiteProfile, load_profile
from toolkit.cluster.run_folder import RunFolder
from toolkit.cluster.submission import submit_arrays
from toolkit.config import load_config
from toolkit.encoding import column_slices
from toolkit.encoding.compute import Compute, ComputeError, open_compute, stored_gram_matrix
from toolkit.encoding.gram import layer_statistics
from toolkit.encoding.slurm_jobs import queued_workers
from toolkit.encoding.slurm_steps import allocated_workers
from toolkit.encoding.slurm_workers import NodeWorker, WorkersLateError
from toolkit.encoding.statistics import load_statistics
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo
from toolkit.plan import features_id, make_plan
from toolkit.results import read_scores
from toolkit.task import Task, TaskKind
from toolkit.yaml_source import ConfigError

pytestmark = [pytest.mark.usefixtures("slurm_installed"), pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = column_slices(2048, 8)
MEMORY_BYTES = 2**31
NODES = ("n1", "n2")
DISTURBANCES = ("process", "step", "warning")

CONFIG = """\
name: synthetic-slurm
dataset: {kind: synthetic, n_train: 90, n_val: 30, n_neuroids: 5, image_px: 32}
protocol: {kind: stratified, n_splits: 2, train_size: 0.75}
models: [{library: timm, names: test_resnet, layers: [layer1, layer3]}]
readouts: [{kind: ridge, n_components: 20}]
resources: {encode: {memory_gb: 2, timeout_min: 10}}
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Synthetic features of one layer, (400, 2048)."""
    features = np.random.default_rng(0).standard_normal((400, 2048)).astype(np.float32) + 3
    store = FeatureStore.create(
        tmp_path / "store",
        layers=[LayerInfo("layer", (2048,), 0)],
        stimulus_ids=[f"synthetic-{i}" for i in range(400)],
        provenance={},
    )
    for block in store.missing_blocks():
        store.write_block(block, {"layer": features[store.rows(block)]})
    return store.path


def expected_gram(store: Path) -> np.ndarray:
    """Computed in threads of this process: the same sums, wherever they are computed."""
    with open_compute("threads", n_cores=2):
        return stored_gram_matrix(store, "layer", Compute(1, 2, None, None), COLUMNS)


def node_worker(folder: Path, python: str = sys.executable) -> NodeWorker:
    code = f"export PYTHONPATH={ROOT}"
    return NodeWorker(1, MEMORY_BYTES, python, (code,), folder)


def job_queue(folder: Path, n_workers: int = 2, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "worker": node_worker(folder),
        "directives": ["--partition=cpu"],
        "asks_memory": True,
        "job_name": "synthetic.dask",
        "time_limit_min": 10,
        "warning_s": 60,
        "job_state": job_state,
        "ask_interval_s": 0.5,
    }
    return queued_workers(n_workers, **{**settings, **changes})


def killing_the_first(compute: Compute, kill: Callable[[str], None]) -> threading.Thread:
    """A thread that ends the first worker that holds results, given its address."""

    def watch() -> None:
        while True:
            for address, keys in compute.client.has_what().items():
                if len(keys) >= 2:
                    return kill(address)
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def await_two(compute: Compute, timeout_s: float = 90.0) -> dict[str, str]:
    """Names of the workers by address, once there are two."""
    limit_s = time.monotonic() + timeout_s
    while len(found := names_of(compute)) != 2:
        assert time.monotonic() < limit_s, found
        time.sleep(0.2)
    return found


def names_of(compute: Compute) -> dict[str, str]:
    workers = compute.client.scheduler_info(n_workers=-1)["workers"]
    return {address: str(worker["name"]) for address, worker in workers.items()}


# Inside a job


def python_in_job(code: str, output: Path) -> str:
    """Submit ``code``, which sees this module as ``t``, as elements are: once, on two nodes."""
    program = f"import test_encoding_slurm_workers as t; {code}"
    srun = "srun --nodes=1 --ntasks=1 --cpus-per-task=1"
    options = ["--partition=cpu", "--requeue", f"--output={output}", "--open-mode=append"]
    size = ["--nodes=2", "--cpus-per-task=1", f"--mem={MEMORY_BYTES >> 20}"]
    submitted = subprocess.run(
        ["sbatch", "--parsable", *options, *size],
        input=f"#!/bin/bash\n{srun} {sys.executable} -u -c '{program}'\n",
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return submitted.stdout.strip()


def await_file(path: Path, output: Path, timeout_s: float = 300.0) -> None:
    limit_s = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < limit_s, (
            output.read_text(encoding="utf-8") if output.exists() else "no output"
        )
        time.sleep(0.2)


def gram_in_job(store: str, folder: str) -> None:
    """Run by a job that is requeued: the Gram matrix from two nodes that lose a worker meanwhile.

    Once for each way to lose it; the last is only a warning.
    """
    out = Path(folder)
    interruption = Interruption()
    interruption.listen()
    with allocated_workers(NODES, node_worker(out)) as address, open_compute(address) as compute:
        assert set(await_two(compute).values()) == set(NODES)
        report: dict[str, Any] = {
            "limit_bytes": compute.worker_memory_bytes,
            "scheduler_files": [path.name for path in out.glob("dask-*.json")],
        }
        if "SLURM_RESTART_COUNT" not in os.environ:
            (out / "first.json").write_text(json.dumps(report))
            subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=True)
            while not interruption.is_set:
                time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)  # at once, whatever is open
        for disturb in DISTURBANCES:
            while any(compute.client.has_what().values()):  # of the time before
                time.sleep(0.1)
            pids = list(compute.client.run(os.getpid).values())
            killer = killing_the_first(compute, partial(_end_worker, disturb, compute))
            gram = stored_gram_matrix(store, "layer", compute, COLUMNS)
            killer.join(10)
            assert not killer.is_alive(), "it was done before a worker was ended"
            assert set(await_two(compute).values()) == set(NODES)
            pids_after = list(compute.client.run(os.getpid).values())
            report[disturb] = [pids, pids_after, interruption.is_set]
            np.save(out / f"{disturb}.npy", gram)
    report["steps_left"] = _worker_steps()
    (out / "report.json.part").write_text(json.dumps(report))
    (out / "report.json.part").rename(out / "report.json")


def _worker_steps() -> list[str]:
    job = os.environ["SLURM_JOB_ID"]
    command = ["squeue", "--steps", "--noheader", f"--jobs={job}", "--Format=StepID:|,Nodes:|"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    others = (f"{job}.0", f"{job}.batch", f"{job}.extern")
    return [line for line in lines if line.split("|")[0] not in others]


def _end_worker(how: str, compute: Compute, address: str) -> None:
    if how == "process":
        os.kill(compute.client.run(os.getpid, workers=[address])[address], signal.SIGKILL)
    if how == "step":
        steps = dict(line.split("|")[1::-1] for line in _worker_steps())
        step = steps[names_of(compute)[address]]
        subprocess.run(["scancel", "--signal=KILL", step], check=True)
    if how == "warning":
        job = os.environ["SLURM_JOB_ID"]
        subprocess.run(["scancel", "--signal=USR2", job], check=True)


def test_workers_of_two_nodes_of_a_job_give_the_result_of_one_process(
    slurm_cluster: DevCluster, store: Path, tmp_path: Path
) -> None:
    """Whatever happens to them; and a requeued job has a scheduler file of its own."""
    output = tmp_path / "job.out"
    job = python_in_job(f't.gram_in_job("{store}", "{tmp_path}")', output)
    await_file(tmp_path / "report.json", output)
    first = json.loads((tmp_path / "first.json").read_text())
    report = json.loads((tmp_path / "report.json").read_text())
    assert first["scheduler_files"] == [f"dask-{job}-0.json"]
    assert report["scheduler_files"] == [f"dask-{job}-1.json"]
    assert report["limit_bytes"] == MEMORY_BYTES // 2 - 2**28
    expected = expected_gram(store)
    for disturb in DISTURBANCES:
        np.testing.assert_array_equal(np.load(tmp_path / f"{disturb}.npy"), expected)
        pids, pids_after, was_warned = report[disturb]
        replaced = set(pids) - set(pids_after)
        assert len(replaced) == (0 if disturb == "warning" else 1)
        assert was_warned == (disturb == "warning")
    assert report["steps_left"] == []
    assert not list(tmp_path.glob("dask-*.json"))


# How Python is started, how long is waited for it, and what is said then.
UNABLE = [
    ("no-such-python", 60, ["no_compute: no Dask worker could be started", "not found"]),
    ("sleep 100; true", 4, ["not_started: no Dask worker joined within 4 s", "said nothing"]),
]


def failing_in_job(folder: str) -> None:
    said = []
    for python, timeout_s, _ in UNABLE:
        started_s = time.monotonic()
        worker = node_worker(Path(folder), python)
        try:
            with allocated_workers(NODES, worker, timeout_s=timeout_s):
                words = "they joined"
        except ComputeError as error:
            words = f"{error.error_class}: {error}"
        said.append((time.monotonic() - started_s, words))
        for log in Path(folder).glob("dask-*.log"):
            log.unlink()
    (Path(folder) / "words.part").write_text(json.dumps(said))
    (Path(folder) / "words.part").rename(Path(folder) / "words")


def test_workers_that_cannot_join_a_job_are_reported_with_their_last_words(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    output = tmp_path / "job.out"
    python_in_job(f't.failing_in_job("{tmp_path}")', output)
    await_file(tmp_path / "words", output)
    said = json.loads((tmp_path / "words").read_text())
    for (_, _, words), (seconds, text) in zip(UNABLE, said, strict=True):
        assert seconds < 60  # neither waits for what the other waits for
        assert all(word in text for word in [*words, "n1: ", "n2: "]), text


def test_nodes_of_a_job_are_not_to_be_had_outside_of_one(tmp_path: Path) -> None:
    refused = pytest.raises(ComputeError, match=r"no Slurm job.*--executor slurm")
    with refused, allocated_workers(NODES, node_worker(tmp_path)):
        pass


# Jobs of their own


def queue(*columns: str) -> list[list[str]]:
    command = ["squeue", "--noheader", "--name=synthetic.dask", "--Format"]
    done = subprocess.run(
        [*command, ",".join(f"{column}:|" for column in columns)],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("|")[:-1] for line in done.stdout.splitlines()]


def test_a_lost_job_of_a_worker_is_replaced_and_costs_nothing_but_time(
    slurm_cluster: DevCluster, store: Path, tmp_path: Path
) -> None:
    with job_queue(tmp_path) as address, open_compute(address) as compute:
        before = set(await_two(compute).values())
        jobs = {job for (job,) in queue("JobID")}
        assert len(jobs) == 2
        lost: list[str] = []

        def cancel(address: str) -> None:
            lost.append(compute.client.run(os.getenv, "SLURM_JOB_ID", workers=[address])[address])
            subprocess.run(["scancel", "--signal=KILL", "--full", *lost], check=True)

        killer = killing_the_first(compute, cancel)
        gram = stored_gram_matrix(store, "layer", compute, COLUMNS)
        killer.join(5)
        assert lost, "it was done before a worker was ended"
        limit_s = time.monotonic() + 90
        while set(lost) & (now := {job for (job,) in queue("JobID")}) or len(now) < 2:
            assert time.monotonic() < limit_s, queue("JobID", "State", "Reason")
            time.sleep(0.1)
        assert set(await_two(compute).values()) == before
    np.testing.assert_array_equal(gram, expected_gram(store))
    limit_s = time.monotonic() + 30
    while queue("JobID"):
        assert time.monotonic() < limit_s
        time.sleep(0.2)


def test_jobs_of_workers_are_what_the_profile_says(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    with job_queue(tmp_path, 1, directives=["--partition=high", "--no-requeue"]) as address:
        with open_compute(address) as compute:
            assert compute.worker_memory_bytes == pytest.approx(MEMORY_BYTES - 2**28, rel=0.01)
            assert compute.threads_per_worker == 1
        columns = ("Partition", "Requeue", "TimeLimit", "MinMemory", "NumCPUs")
        assert queue(*columns) == [["high", "0", "10:00", "2G", "1"]]
        (log,) = tmp_path.glob("dask-*.log")
        ((job,),) = queue("JobID")
        script = slurm_cluster.run(["scontrol", "write", "batch_script", job, "-"]).stdout
        assert "--lifetime 510s --lifetime-stagger 30s" in script
        assert log.name == f"dask-{job}.log"
        assert "Start Nanny" in log.read_text()


def test_a_partition_that_is_not_there_is_reported_at_once(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    refused = pytest.raises(ComputeError, match="invalid partition specified: gpus")
    with refused as caught, job_queue(tmp_path, directives=["--partition=gpus"]):
        pass
    assert caught.value.error_class == "no_compute"
    assert time.monotonic() - started_s < 60  # before it is said that none has joined


def test_jobs_that_wait_in_the_queue_are_reported_with_their_reason(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    filling = ["sbatch", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 600"]
    slurm_cluster.run([*filling, "--partition=cpu"])
    started_s = time.monotonic()
    late = pytest.raises(WorkersLateError, match=r"job \d+ is PENDING \((Resources|Priority)\)")
    with late as caught, job_queue(tmp_path, timeout_s=5):
        pass
    assert caught.value.error_class == "not_started"
    assert time.monotonic() - started_s < 60
    assert queue("JobID") == []


def test_jobs_that_end_before_they_join_are_reported_with_their_last_words(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    started_s = time.monotonic()
    failed = pytest.raises(ComputeError, match=r"is FAILED.*no-such-python: (command )?not found")
    with failed, job_queue(tmp_path, worker=node_worker(tmp_path, "no-such-python")):
        pass
    assert time.monotonic() - started_s < 60


# Encode tasks


def profile_with_scratch(folder: Path) -> SiteProfile:
    profile = load_profile("devcluster")
    (folder / "scratch").mkdir(exist_ok=True)
    stage = profile.default.model_copy(update={"scratch": str(folder / "scratch")})
    return SiteProfile.model_validate({**profile.model_dump(exclude_unset=True), "default": stage})


# The covariance of a wide layer would be a large matrix.
SOLVERS = (["pca.solver=gram"], ["pca.solver=covariance", "models.0.layers=[global_pool]"])


def planned(folder: Path, workers: str) -> tuple[RunFolder, list[Task], list[Task]]:
    """A run of both solvers, its extract tasks, and its encode tasks for such workers."""
    folder.mkdir()
    (folder / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
    extract, encode = [], []
    for overrides in SOLVERS:
        config, source = load_config(folder / "sweep.yaml", overrides)
        plan = make_plan(config, source, Catalog(folder / "catalog.json"))
        options = {"workers": workers, "n_nodes": 2, "timeout_min": 10}
        extract += plan.extract
        encode += [replace(task, options={**task.options, **options}) for task in plan.encode]
    run = RunFolder(folder / "a run, with 'quotes'")
    run.create()
    profile = profile_with_scratch(folder).model_dump(mode="json", exclude_unset=True)
    run.write_plan([*extract, *encode], {"slurm": {"profile": profile}})
    return run, extract, encode


def scores(run: RunFolder, tasks: list[Task]) -> Iterator[float]:
    for task in tasks:
        assert run.is_done(task.id), run.log_path(task.id).read_text()
        yield read_scores(run.result_path(task.id))[1]["r_mean"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[Task]]:
    """A run whose encode tasks this process has done, which are these."""
    run, extract, encode = planned(tmp_path_factory.mktemp("one-process") / "here", "threads")
    run_tasks(str(run.path), [task.id for task in (*extract, *encode)], 1)
    return run, encode


@pytest.mark.parametrize("workers", ["allocation", "jobqueue"])
def test_encode_tasks_on_several_nodes_give_the_scores_of_one_process(
    slurm_cluster: DevCluster, here: tuple[RunFolder, list[Task]], tmp_path: Path, workers: str
) -> None:
    run, extract, tasks = planned(tmp_path / "there", workers)
    for task in extract:
        key = features_id(task)
        shutil.copytree(here[0].features_path(key), run.features_path(key))
        shutil.copy(here[0].result_path(task.id), run.result_path(task.id))
    code = take_code_snapshot(run.path, "", ROOT)
    n_nodes = 2 if workers == "allocation" else 1
    request = JobRequest(n_cpus=1, n_gpus=0, memory_gb=2, timeout_min=10, n_nodes=n_nodes)
    batch = Batch("all", TaskKind.ENCODE, tuple(task.id for task in tasks))
    arrays = plan_arrays([batch], ArrayLimits(1000), lambda _: request).arrays
    profile = profile_with_scratch(tmp_path / "there")
    (submission,) = submit_arrays(run, arrays, profile, code)
    log = element_log_path(run, submission.element_id(0))
    await_file(run.result_path(tasks[-1].id), log)

    assert list(scores(run, tasks)) == pytest.approx(list(scores(*here)), rel=1e-6)
    logs = [path.read_text() for path in run.jobs_folder.glob("dask-*.log")]
    assert len(logs) == 2
    assert any("Registered to" in text for text in logs)
    with_gram = [task for task in tasks if task.params["solver"] == "gram"]
    assert 0 < len(with_gram) < len(tasks)
    for task in with_gram:
        extract_id, layer = task.inputs[0], task.params["layer"]
        store = FeatureStore.open(run.features_path(extract_id))
        expected = layer_statistics(
            partial(store.read, layer), store.column_blocks(layer, 2**26), store.n_stimuli
        )
        kept = load_statistics(
            run.gram_path(extract_id, layer),
            features_id=extract_id,
            layer=layer,
            n_stimuli=store.n_stimuli,
        )
        np.testing.assert_allclose(kept.gram, expected.gram, atol=1e-6)
    limit_s = time.monotonic() + 60
    while slurm_cluster.run(["squeue", "--noheader"]).stdout:
        assert time.monotonic() < limit_s, slurm_cluster.run(["squeue"]).stdout
        time.sleep(0.2)
    assert not list(run.jobs_folder.glob("dask-*.json"))
    assert any("there/scratch/toolkit-" in text for text in logs)
    assert not list((tmp_path / "there" / "scratch").iterdir())


@pytest.mark.parametrize("workers", ["threads", "processes", "tcp://host:8786"])
def test_nodes_are_refused_where_workers_have_none(tmp_path: Path, workers: str) -> None:
    (tmp_path / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
    with pytest.raises(ConfigError, match="has no n_nodes: write workers allocation or jobqueue"):
        load_config(tmp_path / "sweep.yaml", [f"dask={{workers: '{workers}', n_nodes: 2}}"])
