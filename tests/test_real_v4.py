"""Real macaque V4 responses from real weights, by a config and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from commands import sweep

from toolkit.results import load

N_IMAGES = 256  # of 640
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "v4_cowley2023.yaml"
LAST_BLOCK = {"squeezenet1_1": "features.12", "mobilenet_v2": "features.18"}


@pytest.fixture(scope="module")
def table(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    here = tmp_path_factory.mktemp("v4")
    shutil.unpack_archive(shared_data / "v4_cowley2023" / "images_210325.zip", here / "images")
    for path in sorted((here / "images").iterdir())[N_IMAGES:]:
        path.unlink()
    responses = np.load(shared_data / "v4_cowley2023" / "raw_210325.npy")
    np.save(here / "responses.npy", responses[:, :N_IMAGES])
    words: list[str] = []
    for override in (
        f"dataset.images={here / 'images'}",
        f"dataset.responses={here / 'responses.npy'}",
        "readouts.0.n_components=200",
        "resources={extract: {cpus: 1}, encode: {cpus: 1}}",
        f"models.0.weights=[{shared_data}/weights_squeezenet1_1/squeezenet1_1.pth, random]",
        f"models.1.weights=[{shared_data}/weights_mobilenet_v2/mobilenet_v2.pth, random]",
        "models.0.seeds=0",
        "models.1.seeds=0",
        "models.0.layers=[features.12]",
        "models.1.layers=[features.18]",
    ):
        words += ["--set", override]
    sweep(CONFIG, "--out", here / "run", *words)
    return load(here / "run").results


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
