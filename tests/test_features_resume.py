"""An extraction killed by the kernel, again and again, ends with the bits of one left alone."""

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, Command
from test_features_extract import SyntheticNoise, network, store_at
from torch import nn

from toolkit.features.extract import ForwardOptions, extract
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo

N_STIMULI = 32 * 20 - 7
PX = 16
# Large layers, so that much of the time goes into writing chunks and kills fall there too.
LAYERS = (LayerInfo("conv1", (96, PX, PX), 0), LayerInfo("conv2", (151, PX, PX), 1))


def wide_network():
    torch.manual_seed(5)
    module = nn.Sequential()
    module.add_module("conv1", nn.Conv2d(3, 96, 3, padding=1))
    module.add_module("relu", nn.ReLU(inplace=True))
    module.add_module("conv2", nn.Conv2d(96, 151, 3, padding=1))
    return network(module)


def extract_to(path: str, batch_size: int) -> None:
    stimuli = SyntheticNoise(N_STIMULI)
    store = store_at(path, stimuli, LAYERS)
    extract(
        wide_network(),
        stimuli,
        LAYERS,
        store,
        options=ForwardOptions(batch_size=batch_size),
        progress=lambda done, total: print(done, flush=True),
    )


def start(path: Path, batch_size: int) -> Command:
    return Command([__file__, str(path), str(batch_size)], ROOT, dict(os.environ))


def progress_of_all(path: Path, batch_size: int) -> list[str]:
    process = start(path, batch_size)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output.splitlines()


def digests(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [16, 64])
def test_killed_extractions_resume_to_the_same_bits(tmp_path, batch_size):
    assert progress_of_all(tmp_path / "undisturbed.zarr", batch_size)[-1] == str(N_STIMULI)
    rng = np.random.default_rng(batch_size)
    path = tmp_path / "killed.zarr"
    missing = [20]
    for _ in range(5):
        process = start(path, batch_size)
        while not process.output():
            assert process.returncode is None
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert process.returncode == -9
        missing.append(len(FeatureStore.open(path).missing_blocks()))
    assert missing == sorted(missing, reverse=True)
    assert 0 < missing[-1] < 20
    assert len(progress_of_all(path, batch_size)) == missing[-1]

    expected = digests(tmp_path / "undisturbed.zarr")
    found = digests(path)
    assert found == expected


if __name__ == "__main__":
    extract_to(sys.argv[1], int(sys.argv[2]))
