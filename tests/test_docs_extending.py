"""docs/extending.md: its edits, made in a copy of the code, and the sweep that its configs ask for.

A block after "New file `PATH`:" is the file; one after "`PATH`:" is a diff without line numbers,
with "@@" between two places of the file.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.io
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MOST_LINES = 30
THINGS = ("A data set", "A network", "A read-out", "A metric")

EDIT = re.compile(r"^(New file )?`([^`\n]+)`:\n\n```(?:python|diff)\n(.*?)^```$", re.M | re.S)
CONFIG = re.compile(r"^```yaml\n(.*?)^```$", re.M | re.S)

N_IMAGES, N_NEURONS, N_REPETITIONS = 30, 4, 3
MAKE_WEIGHTS = """\
import torch, torchvision
from pathlib import Path
from toolkit.models.labnet import LabNet
Path("data/weights").mkdir()
torch.manual_seed(1)
torch.save(LabNet().state_dict(), "data/weights/labnet.pt")
network = torchvision.models.shufflenet_v2_x0_5()
torch.save(network.state_dict(), "data/weights/shufflenet.pt")
"""


@dataclass(frozen=True)
class Edit:
    """A new file, or changes to one that is there."""

    path: str
    is_new: bool
    text: str

    @property
    def n_added(self) -> int:
        """Lines that are written, blank ones apart."""
        lines = self.text.splitlines()
        if not self.is_new:
            lines = [line[1:] for line in lines if line.startswith("+")]
        return sum(bool(line.strip()) for line in lines)

    def apply(self, checkout: Path) -> None:
        file = checkout / self.path
        if self.is_new:
            assert not file.exists(), self.path
            file.write_text(self.text, encoding="utf-8")
            return
        content = file.read_text(encoding="utf-8")
        for place in self.text.split("@@\n"):
            lines = place.splitlines(keepends=True)
            before = "".join(line[1:] or "\n" for line in lines if line[0] != "+")
            after = "".join(line[1:] or "\n" for line in lines if line[0] != "-")
            assert f"\n{content}".count(f"\n{before}") == 1, f"{self.path}: where is\n{before}"
            content = f"\n{content}".replace(f"\n{before}", f"\n{after}")[1:]
        file.write_text(content, encoding="utf-8")


def edits_for(thing: str) -> list[Edit]:
    section = PAGE.split(f"\n## {thing}\n")[1].split("\n## ")[0]
    edits = [Edit(path, bool(new), text) for new, path, text in EDIT.findall(section)]
    assert len(edits) == len(re.findall(r"^```(?:python|diff)$", section, re.M))
    return edits


def copy_of_the_code(folder: Path) -> Path:
    for package in ("toolkit", "jobs"):
        shutil.copytree(
            ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def python(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=checkout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("thing", THINGS)
def test_each_thing_is_short_and_stands_alone(thing: str, tmp_path: Path) -> None:
    edits = edits_for(thing)
    assert 0 < sum(edit.n_added for edit in edits) <= MOST_LINES
    checkout = copy_of_the_code(tmp_path)
    for edit in edits:
        edit.apply(checkout)
    for edit in edits:
        compile((checkout / edit.path).read_text(encoding="utf-8"), edit.path, "exec")


@pytest.mark.parametrize("thing", THINGS)
def test_every_edited_file_is_in_the_table(thing: str) -> None:
    section = PAGE.split(f"\n## {thing}\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `([^`]+)` \|", section, re.M)
    assert listed == [edit.path for edit in edits_for(thing)]


def write_data(folder: Path) -> None:
    """Synthetic images, and counts with a little of them, where the page's configs look."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (N_IMAGES, 4, 4, 3), dtype=np.uint8)
    rates = pixels.reshape(N_IMAGES, -1)[:, :N_NEURONS, None] / 32
    counts = rng.poisson(rates, (N_IMAGES, N_NEURONS, N_REPETITIONS)).astype(np.uint8)
    files = [f"{i:02d}.png" for i in range(N_IMAGES)]
    for images in (folder / "arrays" / "images", folder / "monkey_b"):
        images.mkdir(parents=True)
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image).resize((64, 64), Image.Resampling.NEAREST).save(images / file)
    np.save(folder / "arrays" / "counts.npy", counts.transpose(1, 0, 2))
    objects = [f"object {i % 3}" for i in range(N_IMAGES)]
    table = pd.DataFrame({"filename": files, "object_name": objects})
    table.to_csv(folder / "arrays" / "images.csv", index=False)
    session: dict[str, Any] = {
        "counts": counts,
        "files": np.array(files, dtype=object),
        "units": np.array([f"u{i}" for i in range(N_NEURONS)], dtype=object),
        "areas": np.array(["V4", "IT", "IT", "IT"], dtype=object),
    }
    scipy.io.savemat(folder / "monkey_b" / "session.mat", session)


def merged_config() -> dict[str, list[Any]]:
    """All of the page's configs in one: each data set with each network and read-out."""
    merged: dict[str, list[Any]] = {}
    for text in CONFIG.findall(PAGE):
        for key, value in yaml.safe_load(text).items():
            merged.setdefault(key, []).extend(value if isinstance(value, list) else [value])
    return merged


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with all the page's edits, and data for its configs."""
    folder = copy_of_the_code(tmp_path_factory.mktemp("checkout"))
    for thing in THINGS:
        for edit in edits_for(thing):
            edit.apply(folder)
    write_data(folder / "data")
    python(folder, "-c", MAKE_WEIGHTS)
    return folder


@pytest.mark.slow
def test_the_page_run_as_one_sweep_shows_every_new_thing(checkout: Path) -> None:
    config = {
        "name": "extended",
        "protocol": {"kind": "kfold", "n_splits": 3},
        "executor": {"kind": "inprocess"},
        **merged_config(),
    }
    (checkout / "extended.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    python(checkout, "-m", "toolkit.sweep", "extended.yaml", "--out", "run")
    results = pd.read_parquet(checkout / "run" / "results.parquet")
    assert set(results["status"]) == {"done"}
    assert set(results["dataset"]) == {"our_arrays", "monkey_b"}
    assert set(results["region"]) == {"IT", "V4+IT"}
    weights = [str(checkout / "data" / "weights" / name) for name in ("labnet.pt", "shufflenet.pt")]
    assert set(zip(results["model"], results["weights"], strict=True)) == {
        ("labnet", "random"),
        ("labnet", weights[0]),
        ("shufflenet_v2_x0_5", weights[1]),
    }
    assert set(results.loc[results["model"] == "labnet", "layer"]) == {"v1", "it"}
    assert set(results["readout"]) == {"nearest3"}
    assert results["ceiling_median"].notna().all()

    neurons = pd.read_parquet(checkout / "run" / "neurons.parquet")
    averaged = neurons.groupby("task_id")["spearman"].mean()
    assert neurons["spearman"].notna().all()
    np.testing.assert_allclose(averaged[results["task_id"]], results["spearman_mean"])
    assert (results["spearman_mean"] != results["r_mean"]).any()


@pytest.mark.slow
def test_a_data_set_of_a_new_kind_is_described(checkout: Path) -> None:
    (rig,) = (one for one in merged_config()["dataset"] if one["kind"] == "rig")
    (checkout / "rig.yaml").write_text(yaml.safe_dump({"dataset": rig}), encoding="utf-8")
    assert rig["name"] in python(checkout, "-m", "toolkit.data", "describe", "rig.yaml")
