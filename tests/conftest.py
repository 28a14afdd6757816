import os
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

pytest_plugins = ("slurm_cluster",)
pytest.register_assert_rewrite("own_files", "slurm_arrays", "slurm_sweeps")

# Test processes run side by side, and start others: each gets its share of the cores.
_N_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
_N_THREADS = max(1, len(os.sched_getaffinity(0)) // _N_WORKERS)
os.environ.setdefault("OMP_NUM_THREADS", str(_N_THREADS))
threadpool_limits(int(os.environ["OMP_NUM_THREADS"]))


# What fails most often when a version or a change breaks something, and takes little time.
_QUICK = (
    "architecture cluster_failures cluster_run_folder cluster_scheduler config data_dataset "
    "data_files_images data_files_responses data_formats data_nx414 data_response_tables "
    "data_synthetic data_xiao2024 data_zarr_arrays encoding_gram encoding_missing encoding_pls "
    "encoding_protocols encoding_readouts encoding_ridge encoding_similarity features_extract "
    "features_forms features_hooks features_store jobs_encode metrics_aggregate metrics_paired "
    "metrics_regression metrics_reliability metrics_similarity metrics_uncertainty models_trunks "
    "models_weights results_scores results_tables sweep_boundary task training_checkpoint "
    "training_objectives training_recipe weights_planned"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first, by turns one that waits for Slurm and one that computes."""
    quick = _QUICK.split()
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        if item.path.stem.removeprefix("test_") in quick and not is_slow:
            item.add_marker("quick")
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    files = sorted({item.path for item in items}, key=lambda path: (-n_slow[path], path))
    waiting = [path for path in files if "slurm" in path.name]
    computing = [path for path in files if "slurm" not in path.name]
    turns = [path for pair in zip_longest(waiting, computing) for path in pair if path]
    items.sort(key=lambda item: turns.index(item.path))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and weights kept beside the checkout; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data folder ../shared/data is not there")
    return folder
