"""Where Dask works: real schedulers and worker processes, also killed ones."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import dask
import numpy as np
import pytest
from distributed import LocalCluster, Scheduler, SchedulerPlugin, get_worker
from threadpoolctl import threadpool_info

from toolkit.encoding import FeaturesError, column_slices, gram_matrix
from toolkit.encoding.compute import (
    Compute,
    ComputeError,
    open_compute,
    stored_gram_matrix,
    stored_statistics,
    tree_reduced,
)
from toolkit.encoding.gram import layer_statistics
from toolkit.features.errors import DamagedChunkError
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo

TWO_PROCESSES = {"n_cores": 2, "memory_bytes": 2 * 2**30}


def synthetic_store(path, n=90, p=400, seed=0):
    features = np.random.default_rng(seed).standard_normal((n, p)).astype(np.float32) + 3
    store = FeatureStore.create(
        path,
        layers=[LayerInfo("layer", (p,), 0)],
        stimulus_ids=[f"synthetic-{i}" for i in range(n)],
        provenance={},
    )
    for block in store.missing_blocks():
        store.write_block(block, {"layer": features[store.rows(block)]})
    return features


def blas_threads():
    import scipy.linalg  # noqa: F401

    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


@pytest.fixture(scope="module")
def processes():
    with open_compute("processes", **TWO_PROCESSES) as compute:
        yield compute


def test_threads_are_the_default_and_stay_within_the_cores():
    lock, running, most = threading.Lock(), [0], [0]
    meeting = threading.Barrier(3)

    def work(_):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        meeting.wait(60)
        with lock:
            running[0] -= 1
        return blas_threads()

    with open_compute(n_cores=3) as compute:
        seen = dask.compute(*(dask.delayed(work)(i) for i in range(12)))
    assert (compute.n_workers, compute.threads_per_worker, compute.client) == (1, 3, None)
    assert most[0] == 3
    assert set.union(*seen) == {1}


def test_workers_are_processes_with_the_threads_and_memory_asked_for(processes):
    assert (processes.n_workers, processes.threads_per_worker) == (2, 1)
    assert processes.worker_memory_bytes == 2**30
    pids = processes.client.run(os.getpid)
    assert len(set(pids.values()) | {os.getpid()}) == 3
    assert set(processes.client.nthreads().values()) == {1}


def test_dask_computes_in_the_workers_inside_the_block(processes):
    (pid,) = dask.compute(dask.delayed(os.getpid)())
    assert pid != os.getpid()


@pytest.mark.slow
def test_workers_use_one_blas_thread_also_after_a_restart(monkeypatch):
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(variable, "3")  # a user's choice, which Dask hands to its workers
    with open_compute("processes", **TWO_PROCESSES) as compute:
        assert set.union(*compute.client.run(blas_threads).values()) == {1}
        compute.client.restart()
        assert set.union(*compute.client.run(blas_threads).values()) == {1}


def test_more_threads_per_worker_than_cores_are_refused():
    refused = pytest.raises(ComputeError, match="threads_per_worker is 3, but 2 core")
    with refused, open_compute("processes", n_cores=2, threads_per_worker=3):
        pass


@pytest.mark.parametrize("p", [400, 60])
def test_gram_is_that_of_gram_matrix_wherever_it_is_computed(tmp_path, processes, p):
    features = synthetic_store(tmp_path / "store", p=p)
    columns = column_slices(p, 17)
    expected = gram_matrix(lambda s: features[:, s], columns, 90)
    there = stored_gram_matrix(tmp_path / "store", "layer", processes, columns)
    with dask.config.set(scheduler="threads"):
        here = stored_gram_matrix(tmp_path / "store", "layer", Compute(1, 2, None, None), columns)
    np.testing.assert_allclose(there, expected, rtol=0, atol=1e-13 * expected.max())
    np.testing.assert_array_equal(there, here)
    np.testing.assert_array_equal(there, there.T)
    assert there.flags.writeable


def test_the_stores_own_blocks_are_the_default(tmp_path, processes):
    features = synthetic_store(tmp_path / "store")
    gram = stored_gram_matrix(str(tmp_path / "store"), "layer", processes)
    expected = gram_matrix(lambda s: features[:, s], column_slices(400), 90)
    np.testing.assert_array_equal(gram, expected)


def test_the_sums_of_rows_come_with_it(tmp_path, processes):
    features = synthetic_store(tmp_path / "store")
    there = stored_statistics(tmp_path / "store", "layer", processes, column_slices(400, 17)).rows
    here = layer_statistics(lambda s: features[:, s], column_slices(400, 17), 90).rows
    assert there.n_features == 400
    np.testing.assert_allclose(there.row_sums, here.row_sums, atol=1e-9)
    np.testing.assert_allclose(there.mean_products, here.mean_products, atol=1e-9)


def test_a_relative_path_means_the_same_store_to_workers(tmp_path, processes, monkeypatch):
    synthetic_store(tmp_path / "store")
    monkeypatch.chdir(tmp_path)
    relative = stored_gram_matrix("store", "layer", processes)
    np.testing.assert_array_equal(
        relative, stored_gram_matrix(tmp_path / "store", "layer", processes)
    )


def test_what_is_wrong_in_a_worker_is_raised_here_with_its_class(tmp_path, processes):
    synthetic_store(tmp_path / "store")
    (tmp_path / "store" / "layer" / "c.1.0").unlink()
    with pytest.raises(DamagedChunkError, match="missing or damaged file"):
        stored_gram_matrix(tmp_path / "store", "layer", processes)


def test_overflowing_products_are_refused(tmp_path, processes, monkeypatch):
    monkeypatch.setattr("toolkit.encoding.gram._FLOAT64_MULTIPLICATIONS", 0)
    store = FeatureStore.create(
        tmp_path / "store",
        layers=[LayerInfo("layer", (100,), 0)],
        stimulus_ids=[f"synthetic-{i}" for i in range(20)],
        provenance={},
    )
    huge = np.random.default_rng(0).standard_normal((20, 100)).astype(np.float32) * np.float32(1e25)
    store.write_block(0, {"layer": huge})
    with pytest.raises(FeaturesError, match="overflow float32"):
        stored_gram_matrix(tmp_path / "store", "layer", processes)


def test_workers_that_are_too_small_are_refused_before_they_start(tmp_path, processes):
    synthetic_store(tmp_path / "store")
    needed = 2 * 8 * 90**2 + 12 * 90 * 400 + 3 * 8 * 90**2
    enough = Compute(2, 1, int(needed / 0.6) + 1, processes.client)
    stored_gram_matrix(tmp_path / "store", "layer", enough)
    too_small = Compute(2, 1, int(needed / 0.6) - 1, processes.client)
    with pytest.raises(ComputeError, match=r"of 90 stimuli takes .* more memory or fewer threads"):
        stored_gram_matrix(tmp_path / "store", "layer", too_small)


class Counted:
    """A partial result that knows how many of its kind are held."""

    held = most = 0
    lock = threading.Lock()

    def __init__(self):
        with Counted.lock:
            Counted.held += 1
            Counted.most = max(Counted.most, Counted.held)

    def __del__(self):
        with Counted.lock:
            Counted.held -= 1


def test_few_partial_results_are_held_at_once():
    def leaf(_):
        return Counted()

    parts = [dask.delayed(leaf)(i) for i in range(64)]
    with open_compute(n_cores=1):  # which of two threads is first is not to be known
        dask.compute(tree_reduced(lambda a, b: Counted(), parts))
    assert 3 <= Counted.most <= 2 + np.log2(64) + 2


@pytest.mark.parametrize("n_parts", [1, 2, 3, 7, 8])
def test_the_tree_has_one_shape_and_uses_each_part_once(n_parts):
    parts = [dask.delayed(str)(i) for i in range(n_parts)]
    (tree,) = dask.compute(tree_reduced(lambda a, b: f"({a}{b})", parts), scheduler="sync")
    expected = {1: "0", 2: "(01)", 3: "((01)2)", 7: "(((01)(23))((45)6))"}
    assert tree == expected.get(n_parts, "(((01)(23))((45)(67)))")


class KillsTheFirstThatHoldsTwo(SchedulerPlugin):
    """In the scheduler, which is a thread of this process: kills before anything else happens."""

    killed: ClassVar[list[str]] = []

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids

    async def start(self, scheduler: Scheduler) -> None:
        self._workers = scheduler.workers

    def transition(self, key, start, finish, *args, **kwargs):
        for address, worker in self._workers.items():
            if not self.killed and len(worker.has_what) >= 2:
                os.kill(self._pids[address], signal.SIGKILL)
                self.killed.append(address)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(tmp_path, processes):
    synthetic_store(tmp_path / "store")
    columns = column_slices(400, 8)
    undisturbed = stored_gram_matrix(tmp_path / "store", "layer", processes, columns)
    with open_compute("processes", **TWO_PROCESSES) as compute:
        pids = compute.client.run(os.getpid)
        compute.client.register_plugin(KillsTheFirstThatHoldsTwo(pids))
        gram = stored_gram_matrix(tmp_path / "store", "layer", compute, columns)
        killed = KillsTheFirstThatHoldsTwo.killed
        assert killed, "the sum was done before a worker held two results"
        gone = set(pids) - set(compute.client.scheduler_info()["workers"])
    assert gone == set(killed)
    np.testing.assert_array_equal(gram, undisturbed)


def test_a_scheduler_that_does_not_answer_is_reported_in_time():
    with socket.socket() as listener:  # accepts, and never says a word
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        refused = pytest.raises(ComputeError, match=f"no Dask scheduler answered at {address}")
        with refused, open_compute(address, timeout_s=0.5):
            pass


def test_a_scheduler_file_that_does_not_come_is_reported_in_time(tmp_path):
    (tmp_path / "half.json").write_text('{"addr')
    for name in ("absent.json", "half.json"):
        refused = pytest.raises(ComputeError, match=f"no Dask scheduler wrote the file .*{name}")
        with refused, open_compute(str(tmp_path / name), timeout_s=0.2):
            pass


@pytest.fixture
def scheduler_file(tmp_path):
    path = tmp_path / "scheduler.json"
    written = {"scheduler_file": str(path)}
    with LocalCluster(n_workers=0, dashboard_address=None, scheduler_kwargs=written):
        yield path


@pytest.mark.slow
def test_a_running_scheduler_is_used_once_a_worker_joins_it(tmp_path, scheduler_file):
    refused = pytest.raises(ComputeError, match=r"1 worker\(s\) did not join the Dask scheduler")
    with refused, open_compute(str(scheduler_file), timeout_s=1):
        pass

    command = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny"]
    command += [
        "--no-dashboard",
        "--nthreads",
        "2",
        "--memory-limit",
        "1GiB",
        "--local-directory",
        str(tmp_path),
    ]
    worker = subprocess.Popen(
        [*command, "--scheduler-file", str(scheduler_file)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    try:
        with open_compute(str(scheduler_file)) as compute:
            assert (compute.n_workers, compute.threads_per_worker) == (1, 2)
            assert compute.worker_memory_bytes == 2**30
            assert set.union(*compute.client.run(blas_threads).values()) == {1}
            features = synthetic_store(tmp_path / "store")
            gram = stored_gram_matrix(tmp_path / "store", "layer", compute)
            assert dask.compute(dask.delayed(lambda: get_worker().address)())
    finally:
        worker.terminate()
        worker.wait(30)
    expected = gram_matrix(lambda s: features[:, s], column_slices(400), 90)
    np.testing.assert_array_equal(gram, expected)
