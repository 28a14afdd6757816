"""A training killed by the kernel, again and again, ends with the bits of one left alone."""

from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SERVER
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


def run(folder: Path, say: Callable[[int], None]) -> None:
    """Train with a checkpoint after every step, which is said."""
    running = Running(checkpoint_interval_s=0, progress=lambda n_done, _: say(n_done))
    train(assignment(folder.parent, RECIPE, SPEC), folder, running)


@pytest.fixture
def one_thread():
    """Sums over threads depend on their number."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def run_on_one_thread(folder: Path, said: Connection) -> None:
    torch.set_num_threads(1)
    run(folder, said.send)


def start(folder: Path) -> tuple[BaseProcess, Connection]:
    said, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=run_on_one_thread, args=(folder, sender))
    process.start()
    sender.close()
    return process, said


def steps_until(last: int, said: Connection) -> list[int]:
    """What it says, up to this step or the end."""
    steps = []
    try:
        while not steps or steps[-1] < last:
            steps.append(said.recv())
    except (EOFError, OSError):  # also within a message
        pass
    return steps


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_killed_trainings_end_with_the_same_bits(tmp_path):
    undisturbed = []
    run(tmp_path / "undisturbed", undisturbed.append)
    n_steps = len(undisturbed)
    folder = tmp_path / "killed"
    met = []
    for last in sorted(np.random.default_rng(0).choice(np.arange(2, n_steps), 3, replace=False)):
        process, said = start(folder)
        met += steps_until(last, said)
        process.kill()
        process.join()
        met += steps_until(n_steps + 1, said)
        assert process.exitcode == -9
        assert not (folder / "weights.safetensors").exists()
    process, said = start(folder)
    met += steps_until(n_steps + 1, said)
    process.join()
    assert process.exitcode == 0
    assert set(met) == set(range(1, n_steps + 1))
    assert len(met) < 2 * n_steps
    expected = (tmp_path / "undisturbed" / "weights.safetensors").read_bytes()
    assert (folder / "weights.safetensors").read_bytes() == expected
