"""One training on several devices of a machine: a process, or rank, for each.

The process that asks for it looks on: it passes on how far training is and that it should stop, and
ends all ranks where one fails. What they give back is the checkpoint that the first rank leaves.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from threading import Thread

import torch
from torch import distributed

from toolkit.training.assignment import Assignment
from toolkit.training.checkpoint import Checkpoints
from toolkit.training.errors import RankLostError
from toolkit.training.ranks import Rank
from toolkit.training.reproducibility import reproducible
from toolkit.training.trainer import Running, Trainer

# They are for the process that looks on, also where they are sent to all of a job.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

# Ranks that fail because another one did are heard of within so long.
_GRACE_S = 5.0

_WORK_NAME, _MEETING_NAME = "work.pickle", "meeting"


@dataclass(frozen=True)
class _Work:
    """What the ranks are to do: ``running`` without what cannot travel."""

    assignment: Assignment
    folder: Path
    running: Running
    n_threads: int


@dataclass(frozen=True)
class _Said:
    """An error of a rank, and when it was met, on the machine's clock."""

    moment_s: float
    error: Exception


@dataclass(frozen=True)
class _Child:
    rank: Rank
    process: SpawnProcess
    connection: Connection


def train_together(assignment: Assignment, folder: Path, running: Running) -> None:
    """Train on ``running.n_devices`` devices, until the last checkpoint is that of the end.

    Parameters
    ----------
    assignment, folder, running
        As for :func:`toolkit.training.train`. On CPUs the ranks share the threads.

    Raises
    ------
    RankLostError
        If a rank ended without a word.
    Exception
        What the first rank that failed raised, as :func:`toolkit.training.train`; a note says
        where.
    """
    n_ranks = running.n_devices
    work = _Work(
        assignment,
        folder,
        replace(running, progress=None, should_stop=_never),
        max(1, torch.get_num_threads() // n_ranks),
    )
    children: list[_Child] = []
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / _WORK_NAME).write_bytes(pickle.dumps(work))
        try:
            with _signals_held_back():
                context = multiprocessing.get_context("spawn")
                stop = context.Event()
                for index in range(n_ranks):
                    rank = Rank(index, n_ranks)
                    here, there = context.Pipe(duplex=False)
                    process = context.Process(target=_run, args=(rank, Path(name), there, stop))
                    process.start()
                    there.close()
                    children.append(_Child(rank, process, here))
            _look_on(children, running, stop)
        finally:
            for child in children:
                child.process.kill()
                child.process.join()


def _look_on(children: Sequence[_Child], running: Running, stop: Event) -> None:
    """Until all ranks are done."""
    talking = {child.connection: child for child in children}
    while talking:
        for connection in wait(list(talking)):
            child = talking[connection]  # type: ignore[index]
            try:
                said = child.connection.recv()
            except (EOFError, OSError):
                del talking[child.connection]
                child.process.join()
                if child.process.exitcode:
                    raise _lost(child) from None
                continue
            if isinstance(said, _Said):
                raise _cause(said, [other for other in talking.values() if other is not child])
            if running.progress is not None:
                running.progress(*said)
            if running.should_stop():
                stop.set()


def _cause(said: _Said, others: Sequence[_Child]) -> Exception:
    """Why training failed: where one rank fails, the others often do so as well."""
    if hasattr(said.error, "error_class"):
        return said.error
    met = [said]
    deadline = time.monotonic() + _GRACE_S
    for child in others:
        child.process.join(max(0.0, deadline - time.monotonic()))
        if child.process.exitcode:
            return _lost(child)
        try:
            while child.connection.poll():
                heard = child.connection.recv()
                met += [heard] if isinstance(heard, _Said) else []
        except (EOFError, OSError):
            continue
    return min(met, key=lambda one: one.moment_s).error


def _lost(child: _Child) -> RankLostError:
    code = child.process.exitcode or 0
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    return RankLostError(
        f"training process {child.rank.index} of {child.rank.n_ranks} {how} without saying why; "
        "the last checkpoint is kept. If memory ran out, write a smaller batch_size or ask for "
        "more memory"
    )


def _run(rank: Rank, folder: Path, connection: Connection, stop: Event) -> None:
    """What a rank's process does."""
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        work = pickle.loads((folder / _WORK_NAME).read_bytes())
        _train(work, rank, folder / _MEETING_NAME, connection, stop)
    except Exception as error:
        moment_s = time.monotonic()
        error.add_note(f"in training process {rank.index}:\n{traceback.format_exc()}")
        connection.send(_Said(moment_s, _portable(error)))


def _train(work: _Work, rank: Rank, meeting: Path, connection: Connection, stop: Event) -> None:
    torch.set_num_threads(work.n_threads)
    running = replace(work.running, checkpoint_interval_s=math.inf)
    if rank.is_first:
        running = replace(
            work.running,
            progress=lambda n_done, n_total: connection.send((n_done, n_total)),
            should_stop=stop.is_set,
        )
    with _met(work.running.device, rank, meeting) as device:
        assignment = work.assignment
        checkpoints = Checkpoints(work.folder, assignment.identity())
        with reproducible(device, assignment.recipe.seed):
            trainer = Trainer(assignment, replace(running, device=device), checkpoints, rank)
            trainer.go_on()
            distributed.barrier()  # All have read the checkpoint before the first rank writes one.
            trainer.run()


@contextmanager
def _met(device: torch.device, rank: Rank, meeting: Path) -> Iterator[torch.device]:
    """The rank's device, while all ranks can talk to each other."""
    method, own = f"file://{meeting}", device
    if device.type == "cuda":
        own = torch.device("cuda", rank.index)
        torch.cuda.set_device(own)
        distributed.init_process_group(
            "nccl", method, rank=rank.index, world_size=rank.n_ranks, device_id=own
        )
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group("gloo", method, rank=rank.index, world_size=rank.n_ranks)
    yield own
    distributed.destroy_process_group()


def _portable(error: Exception) -> Exception:
    """The error, or its text where it would not survive the way."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


def _never() -> bool:
    return False


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes that are started meanwhile never see them; this one does afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
