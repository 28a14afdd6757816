from pathlib import Path

import numpy as np
import pytest

from benchmarks.encode import Budget, Size, compare, run_system, scaling, write_problem
from benchmarks.encode_peers import SYSTEMS, Problem, run

SIZE = Size(3_000, n_train=160, n_test=64, n_components=60)
BUDGET = Budget(n_threads=2, memory_bytes=8 * 10**9, peer_timeout_s=60.0, n_pairs=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problem")
    write_problem(path, SIZE)
    return path


@pytest.fixture(scope="module")
def mean_ev(folder: Path) -> dict[str, float]:
    problem = Problem.load(folder, n_threads=2)
    return {name: run(name, problem)["mean_ev"] for name in SYSTEMS if name != "floor"}


def test_synthetic_features_look_like_those_of_a_relu(folder: Path) -> None:
    problem = Problem.load(folder, n_threads=1)
    features = problem.features(slice(None))
    assert features.shape == (SIZE.n_train + SIZE.n_test, SIZE.n_features)
    assert features.min() == 0
    assert 0.4 < (features == 0).mean() < 0.6
    variances = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    assert (variances[:-1] > 1e-6 * variances[0]).all()
    slope = np.polyfit(np.log(np.arange(1, 101)), np.log(variances[:100]), 1)[0]
    assert -1.5 < slope < -0.5


def test_the_toolkit_agrees_with_exact_pca_and_ridge(mean_ev: dict[str, float]) -> None:
    assert mean_ev["toolkit"] > 0.05
    assert mean_ev["toolkit"] == pytest.approx(mean_ev["scikit-learn PCA(full)"], abs=1e-6)


@pytest.mark.parametrize(
    "peer",
    [
        "scikit-learn IncrementalPCA",
        "scikit-learn PCA(randomized)",
        "dask-ml IncrementalPCA",
        "himalaya KernelRidgeCV",
    ],
)
def test_peers_solve_about_the_same_task(mean_ev: dict[str, float], peer: str) -> None:
    assert mean_ev["toolkit"] == pytest.approx(mean_ev[peer], abs=0.05)


def test_himalayas_two_ways_agree(mean_ev: dict[str, float]) -> None:
    assert mean_ev["himalaya RidgeCV"] == pytest.approx(mean_ev["himalaya KernelRidgeCV"], abs=1e-3)


def test_the_batches_of_incremental_pca_cover_the_training_images(folder: Path) -> None:
    problem = Problem.load(folder, n_threads=1)
    rows = [np.arange(SIZE.n_train)[batch] for batch in problem.train_batches()]
    assert np.array_equal(np.concatenate(rows), np.arange(SIZE.n_train))
    assert all(len(batch) >= SIZE.n_components for batch in rows)


def test_a_system_of_its_own_process_prints_its_parts(folder: Path) -> None:
    result = run_system("floor", folder, BUDGET).result
    parts = [result["read_s"], result["product_s"], result["eigh_s"]]
    assert all(seconds > 0 for seconds in parts)
    assert result["seconds"] == pytest.approx(sum(parts))


def test_too_little_memory_is_a_result(folder: Path) -> None:
    stingy = Budget(n_threads=1, memory_bytes=2 * 10**6, peer_timeout_s=60.0, n_pairs=1)
    found = run_system("toolkit", folder, stingy)
    assert found.measured.status != "ok"
    assert found.result == {}


@pytest.mark.slow
def test_a_peer_that_ran_out_of_time_is_not_run_again() -> None:
    impatient = Budget(n_threads=2, memory_bytes=8 * 10**9, peer_timeout_s=0.01, n_pairs=1)
    wider = Size(4_000, SIZE.n_train, SIZE.n_test, SIZE.n_components)
    records = compare([SIZE, wider], impatient)
    assert len(records) == 2 * len(SYSTEMS)
    first, second = records[: len(SYSTEMS)], records[len(SYSTEMS) :]
    assert [record.system for record in first] == list(SYSTEMS)
    for record in (*first[:2], *second[:2]):
        assert record.status == "ok"
        assert record.ratio_to_floor is not None
    for early, late in zip(first[2:], second[2:], strict=True):
        assert early.status == late.status == "timeout"
        assert "more than" in early.note
        assert late.note == f"not run: see {SIZE}"
        assert late.case == str(wider)


@pytest.mark.slow
def test_scaling_doubles_one_thing_at_a_time() -> None:
    records = scaling(SIZE, BUDGET)
    assert [record.case.partition(":")[0] for record in records] == [
        "base",
        "p × 2",
        "n × 2",
        "workers × 2",
    ]
    assert all(record.status == "ok" for record in records)
    assert "6,000" in records[1].case
    assert "n = 320 + 128" in records[2].case
    assert "2 threads" in records[3].case
