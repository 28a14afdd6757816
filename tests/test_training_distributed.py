"""A training that two processes share is the training of one."""

import multiprocessing
import os
import signal
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from commands import SERVER
from training_problem import PX, assignment, synthetic

from toolkit.models.network_spec import DecoderSpec, NetworkSpec, ShallowTrunk
from toolkit.training import (
    DivergedError,
    Objective,
    Optimizer,
    RankLostError,
    Recipe,
    Running,
    StoppedError,
    TrainingDataError,
    train,
)

# Batches of 12 images, and 7 to validate, of which two processes cannot have the same number.
RECIPE = Recipe(3, batch_size=13, optimizer=Optimizer("adam", 3e-3), validation_share=0.12)
TWO = Running(n_devices=2)


@pytest.fixture
def quick_ranks(monkeypatch):
    """Processes that begin with torch imported."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: SERVER)


def assert_close(one, other):
    left, right = (result.trained.network.state_dict() for result in (one, other))
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-5)
    for row, twin in zip(one.curve, other.curve, strict=True):
        assert row.keys() == twin.keys()
        for key in row.keys() - {"seconds"}:
            assert row[key] == pytest.approx(twin[key], rel=1e-3, abs=1e-4), key


@pytest.mark.slow
@pytest.mark.usefixtures("quick_ranks")
def test_two_processes_give_what_one_gives(tmp_path):
    dataset = synthetic(60, 20)
    responses = dataset.responses.copy()
    responses[::3, 0] = np.nan
    missing = replace(dataset, responses=responses, repetitions=None, masks_missing=True)
    kinds = {"mse": 1.0, "correlation": 0.5, "object": 0.3, "category": 0.0}
    # Steps of this optimizer are as large as the gradients.
    recipe = replace(
        RECIPE,
        objectives=tuple(Objective(*item) for item in kinds.items()),
        optimizer=Optimizer("sgd", 1e-2, momentum=0.9),
    )
    given = assignment(tmp_path, recipe, dataset=missing)
    steps = []
    running = replace(TWO, progress=lambda *step: steps.append(step))
    assert_close(train(given, tmp_path / "two", running), train(given, tmp_path / "one"))
    assert steps == [(number, 15) for number in range(1, 16)]
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_ranks")
def test_an_announced_end_stops_all_and_they_go_on(tmp_path):
    spec = NetworkSpec(
        ShallowTrunk((6,), normalised=True, dropout=0.2, input_px=PX), DecoderSpec(pool_px=2)
    )
    given = assignment(tmp_path, replace(RECIPE, n_epochs=40), spec)
    steps = []

    def running(stops_after):
        return replace(
            TWO,
            progress=lambda done, _: steps.append(done),
            should_stop=lambda: steps[-1] >= stops_after,
        )

    with pytest.raises(StoppedError, match="goes on"):
        train(given, tmp_path / "two", running(3))
    n_before = len(steps)
    assert not multiprocessing.active_children()
    assert n_before < 200
    result = train(given, tmp_path / "two", running(10**6))
    assert steps == list(range(1, 201))
    assert [row["epoch"] for row in result.curve] == list(range(40))
    assert result.curve[-1]["train_loss"] < result.curve[0]["train_loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_ranks")
def test_a_lost_process_ends_the_training_with_a_word(tmp_path):
    def kill_the_second(done, _):
        if done == 2:
            sorted(multiprocessing.active_children(), key=lambda one: one.pid)[1].kill()

    given = assignment(tmp_path, replace(RECIPE, n_epochs=1000))
    with pytest.raises(RankLostError, match=r"process 1 of 2 was killed by SIGKILL"):
        train(given, tmp_path / "two", replace(TWO, progress=kill_the_second))
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_ranks")
def test_what_a_process_raises_is_raised(tmp_path):
    wild = replace(RECIPE, optimizer=Optimizer("sgd", lr=1e25), n_epochs=20)
    with pytest.raises(DivergedError, match="Write a lower") as caught:
        train(assignment(tmp_path, wild), tmp_path / "wild", TWO)
    assert any("in training process" in note for note in caught.value.__notes__)
    few = replace(RECIPE, validation_share=0.02)
    with pytest.raises(TrainingDataError, match="1 images cannot be shared among 2 devices"):
        train(assignment(tmp_path, few), tmp_path / "few", TWO)


def train_without_end(folder: Path, done: Connection) -> None:
    """A job of its own, whose every step is sent."""
    os.setsid()
    signal.signal(signal.SIGUSR2, lambda *_: None)
    endless = assignment(folder, replace(RECIPE, n_epochs=10**6))
    train(endless, folder / "two", replace(TWO, progress=lambda step, _: done.send(step)))


@pytest.mark.slow
def test_signals_to_the_whole_job_are_for_its_first_process_and_no_rank_outlives_it(tmp_path):
    done, sender = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=train_without_end, args=(tmp_path, sender))
    process.start()
    sender.close()
    try:
        while (step := done.recv()) < 10:
            if step == 2:
                os.killpg(process.pid, signal.SIGUSR2)
        ranks = psutil.Process(process.pid).children(recursive=True)
        assert len(ranks) >= 2
    finally:
        process.kill()
        process.join()
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive
