"""A training killed by the kernel, again and again, ends with the bits of one left alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from training_problem import assignment

from toolkit.models.network_spec import DecoderSpec, NetworkSpec, ShallowTrunk
from toolkit.training import Augmentation, Objective, Optimizer, Recipe, Running, Schedule, train

# Everything that has a state is in it.
SPEC = NetworkSpec(
    ShallowTrunk((8, 16), normalised=True, dropout=0.2, input_px=32),
    DecoderSpec(hidden=(30,), dropout=0.3, pool_px=2),
)
RECIPE = Recipe(
    n_epochs=5,
    batch_size=9,
    objectives=(Objective("mse"), Objective("object", 0.3)),
    optimizer=Optimizer("nadam", 3e-3, weight_decay=1e-4),
    schedule=Schedule("onecycle", warmup_epochs=2),
    augmentation=Augmentation(flip=True, shift_px=2),
    max_grad_norm=1.0,
    precision="float16",
    validation_share=0.2,
    patience=3,
    monitor="ev",
)


def run(folder: Path) -> int:
    """Train with a checkpoint after every step, which is printed; return how many there were."""
    steps = []

    def progress(n_done: int, _: int) -> None:
        steps.append(n_done)
        print(n_done, flush=True)

    running = Running(checkpoint_interval_s=0, progress=progress)
    train(assignment(folder.parent, RECIPE, SPEC), folder, running)
    return len(steps)


@pytest.fixture
def one_thread():
    """Sums over threads depend on their number."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killed_trainings_end_with_the_same_bits(tmp_path):
    n_steps = run(tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    met = []
    for last in sorted(np.random.default_rng(0).choice(np.arange(2, n_steps), 3, replace=False)):
        with start(folder) as process:
            for line in process.stdout:
                met.append(int(line))
                if met[-1] >= last:
                    process.kill()
                    break
        assert process.returncode == -9
        assert not (folder / "weights.safetensors").exists()
    with start(folder) as process:
        met += [int(line) for line in process.stdout]
    assert process.returncode == 0
    assert set(met) == set(range(1, n_steps + 1))
    assert len(met) < 2 * n_steps
    expected = (tmp_path / "undisturbed" / "weights.safetensors").read_bytes()
    assert (folder / "weights.safetensors").read_bytes() == expected


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(Path(sys.argv[1]))
