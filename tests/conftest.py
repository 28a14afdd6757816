import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ("slurm_cluster",)
pytest.register_assert_rewrite("own_files", "slurm_arrays", "slurm_sweeps")

# Test processes run side by side, and start others: each gets its share of the cores.
_N_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
_N_THREADS = max(1, len(os.sched_getaffinity(0)) // _N_WORKERS)
os.environ.setdefault("OMP_NUM_THREADS", str(_N_THREADS))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning takes the cores of the others
threadpool_limits(int(os.environ["OMP_NUM_THREADS"]))


# What fails most often when a version or a change breaks something, and takes little time.
_QUICK = (
    "architecture cluster_failures cluster_run_folder cluster_scheduler config data_dataset "
    "data_files_images data_files_responses data_formats data_nx414 data_response_tables "
    "data_synthetic data_xiao2024 data_zarr_arrays encoding_gram encoding_missing "
    "encoding_protocols encoding_readouts encoding_ridge encoding_similarity features_extract "
    "features_forms features_hooks features_store jobs_encode metrics_aggregate metrics_paired "
    "metrics_regression metrics_reliability metrics_similarity metrics_uncertainty "
    "models_weights results_scores results_tables sweep_boundary task training_checkpoint "
    "training_objectives training_recipe"
)


# Files whose tests mostly wait for Slurm. A lane is run by one worker, on one cluster, beside the
# workers that compute.
_LANES = (
    "slurm_sweep slurm_faults slurm_outages training_slurm",
    "encoding_slurm_workers slurm_devcluster slurm_submission slurm_watching foreign_paths "
    "benchmarks_sweep",
)
_LANE_OF = {f"test_{name}.py": lane for lane in _LANES for name in lane.split()}


class LaneScheduling(LoadScopeScheduling):
    """A lane, or a file of no lane, is run by one worker."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return _LANE_OF.get(Path(file).name, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LaneScheduling:
    """Instead of the schedulers of ``--dist``."""
    return LaneScheduling(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A worker per core and one per lane; none to run a single file."""
    if len(config.args) == 1 and not Path(config.args[0]).is_dir():
        return 0
    n_cores = len(os.sched_getaffinity(0))
    return n_cores if config.option.markexpr else n_cores + len(_LANES)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Of the files that hold none of the quick tests nothing is imported for these."""
    is_other = collection_path.stem.removeprefix("test_") not in _QUICK.split()
    return (config.option.markexpr == "quick" and collection_path.is_file() and is_other) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The lanes first, then files with many slow tests."""
    quick = _QUICK.split()
    for item in items:
        is_slow = item.get_closest_marker("slow") is not None
        if item.path.stem.removeprefix("test_") in quick and not is_slow:
            item.add_marker("quick")
    n_slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    files = sorted(
        {item.path for item in items},
        key=lambda path: (path.name not in _LANE_OF, -n_slow[path], path),
    )
    items.sort(key=lambda item: files.index(item.path))


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through it again and again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries look at the end whether all of theirs is gone."""
    gc.unfreeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a CUDA device where there is none."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device here")


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A task that runs in this process says how many threads torch may use, for good."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and weights kept beside the checkout; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data folder ../shared/data is not there")
    return folder
