import os
from collections import Counter
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

pytest_plugins = ("slurm_cluster",)
pytest.register_assert_rewrite("own_files", "slurm_arrays", "slurm_sweeps")

# Test processes run side by side, and start others: each gets its share of the cores.
N_THREADS = max(
    1, len(os.sched_getaffinity(0)) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
)
os.environ.setdefault("OMP_NUM_THREADS", str(N_THREADS))
threadpool_limits(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests first: what waits for Slurm leaves the cores to others."""
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -n_slow[item.path])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and weights kept beside the checkout; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data folder ../shared/data is not there")
    return folder
