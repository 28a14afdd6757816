from pathlib import Path

import pytest

pytest_plugins = ("slurm_cluster",)
pytest.register_assert_rewrite("own_files", "slurm_arrays", "slurm_sweeps")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real recordings and weights kept beside the checkout; tests that need them skip without."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("real data folder ../shared/data is not there")
    return folder
