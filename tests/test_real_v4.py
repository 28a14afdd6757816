"""Real macaque V4 responses from real weights, by a config and nothing else."""

from pathlib import Path

import pandas as pd
import pytest
from commands import sweep

from toolkit.results import load

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "v4_cowley2023.yaml"
LAST_BLOCK = {"squeezenet1_1": "features.12", "mobilenet_v2": "features.18"}


@pytest.fixture(scope="module")
def table(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("v4") / "run"
    words: list[str] = []
    for override in (
        f"dataset.images={shared_data}/v4_cowley2023/images_210325.zip",
        f"dataset.responses={shared_data}/v4_cowley2023/raw_210325.npy",
        f"models.0.weights=[{shared_data}/weights_squeezenet1_1/squeezenet1_1.pth, random]",
        f"models.1.weights=[{shared_data}/weights_mobilenet_v2/mobilenet_v2.pth, random]",
        "models.0.seeds=0",
        "models.1.seeds=0",
        "models.0.layers=[features.12]",
        "models.1.layers=[features.18]",
    ):
        words += ["--set", override]
    sweep(CONFIG, "--out", folder, *words)
    return load(folder).results


@pytest.mark.slow
@pytest.mark.parametrize("model", LAST_BLOCK)
def test_pretrained_beats_random_at_the_last_block(table: pd.DataFrame, model: str) -> None:
    rows = table[(table["model"] == model) & (table["layer"] == LAST_BLOCK[model])]
    pretrained = rows[rows["weights"] != "random"]["r_mean"].item()
    random = rows[rows["weights"] == "random"]["r_mean"].item()
    assert pretrained > random + 0.08


@pytest.mark.slow
def test_ceilings_and_ceiled_scores_are_there(table: pd.DataFrame) -> None:
    assert (table["status"] == "done").all()
    assert (table["region"] == "V4").all()
    assert table["ceiling_median"].between(0.65, 0.85).all()
    assert table["ceiled_median_2026"].between(0, 1).all()
    assert table["n_neurons_scored"].between(48, 50).all()
