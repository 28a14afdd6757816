"""Where Dask works, and the Gram matrix of a stored layer computed there.

Dask runs in threads of this process, in worker processes on this machine, or on the workers of a
scheduler that is there already. In each case every Dask thread computes on one BLAS thread, so the
cores in use are the Dask threads.

Sums over blocks are binary trees of fixed shape. They depend neither on the number of workers nor
on which finishes first, and parts that are lost with a worker are computed again, so the result
is the same to the last bit.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Worker, WorkerPlugin, rpc
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

from toolkit.encoding.gram import Total, add_in_place, block_sums, finished, no_sum, product_dtype
from toolkit.encoding.statistics import LayerStatistics
from toolkit.features.store import FeatureStore

# Sums of a few blocks each are made where the blocks are read; only these sums travel.
MAX_PARTIAL_SUMS = 64

_BLOCK_BYTES = 2**28

# Above .6 of its limit a Dask worker starts to write results to disk
# (distributed.worker.memory.target), above .95 it is killed.
_USABLE_MEMORY = 0.6

_POLL_S = 0.1


class ComputeError(RuntimeError):
    """No Dask workers could be had, or they are too small for what they are asked to do."""

    error_class = "no_compute"


@dataclass(frozen=True)
class Compute:
    """Workers that are ready. :func:`dask.compute` uses them as long as the context is open.

    Attributes
    ----------
    n_workers
        Processes when the context was opened; 1 for threads of this process.
    threads_per_worker
        Dask threads of the worker that has most.
    worker_memory_bytes
        The least memory limit of a worker; None where there is no limit.
    client
        The connection to the scheduler; None for threads of this process.
    """

    n_workers: int
    threads_per_worker: int
    worker_memory_bytes: int | None
    client: Client | None


class _OneBlasThread(WorkerPlugin):
    """Limits BLAS in a worker process; workers that join or restart later get it too.

    The environment variables that Dask sets for its workers give way to those of the user.
    """

    name = "one-blas-thread"

    def setup(self, worker: Worker) -> None:
        import scipy.linalg  # noqa: F401  the limit only reaches libraries that are loaded

        threadpool_limits(1, user_api="blas")


@contextmanager
def open_compute(
    where: str = "threads",
    *,
    n_cores: int = CPU_COUNT,
    threads_per_worker: int = 1,
    memory_bytes: int | None = None,
    timeout_s: float = 60.0,
) -> Iterator[Compute]:
    """Workers for the Dask computations inside the ``with`` block.

    Parameters
    ----------
    where
        ``"threads"``: of this process. ``"processes"``: a Dask ``LocalCluster``, closed at the end.
        Otherwise a scheduler that runs already: its address (``tcp://host:8786``), or the path of
        its scheduler file.
    n_cores
        Threads and processes: cores that may be used, by default those this process may run on.
    threads_per_worker
        Processes: Dask threads of each; there are ``n_cores // threads_per_worker`` processes.
    memory_bytes
        Processes: memory of all workers together; None for that of the machine.
    timeout_s
        How long to wait, in all, for the scheduler and its first worker, or for all local workers.

    Raises
    ------
    ComputeError
        If the scheduler does not answer, or no worker joins it, within ``timeout_s``; or if there
        are fewer cores than threads in one worker.
    """
    with ExitStack() as stack:
        if where == "threads":
            stack.enter_context(threadpool_limits(1, user_api="blas"))
            stack.enter_context(dask.config.set(scheduler="threads", num_workers=n_cores))
            yield Compute(1, n_cores, memory_bytes, client=None)
            return
        deadline_s = time.monotonic() + timeout_s
        if where == "processes":
            cluster = stack.enter_context(
                _local_cluster(n_cores, threads_per_worker, memory_bytes, timeout_s)
            )
            address, n_awaited = cluster.scheduler_address, n_cores // threads_per_worker
        else:
            address, n_awaited = _scheduler_address(where, deadline_s, timeout_s), 1
        client = stack.enter_context(_connected(address, n_awaited, deadline_s, timeout_s))
        client.register_plugin(_OneBlasThread())
        n_threads = client.nthreads().values()
        limits_bytes = client.run(_memory_limit_bytes).values()
        yield Compute(
            n_workers=len(n_threads),
            threads_per_worker=max(n_threads),
            worker_memory_bytes=min((limit for limit in limits_bytes if limit), default=None),
            client=client,
        )


def stored_statistics(
    path: str | Path, layer: str, compute: Compute, columns: Sequence[slice] | None = None
) -> LayerStatistics:
    """:func:`toolkit.encoding.gram.layer_statistics` of a stored layer, by the given workers.

    Workers get the path and open the store themselves, so it must be on storage that they share.
    Each block of columns is read once, unless a worker is lost: then what it held is computed
    again. Consecutive blocks are added up where they are read, in at most ``MAX_PARTIAL_SUMS``
    float64 sums, and these in a binary tree. So the result is bit-identical for any workers, and
    differs from that of ``gram_matrix`` by the order of its float64 additions.

    Parameters
    ----------
    path
        Of the feature store.
    layer
        Its name there.
    compute
        From :func:`open_compute`.
    columns
        The blocks, covering each column once; by default whole chunks, of at most 256 MiB where
        a chunk column is no larger. They decide the last bits of the result.

    Raises
    ------
    ComputeError
        If a worker has too little memory for this number of stimuli.
    FeaturesError, FeatureError, DamagedChunkError
        As in ``gram_matrix`` and ``FeatureStore.read``.
    """
    store = FeatureStore.open(path)
    blocks = store.column_blocks(layer, _BLOCK_BYTES) if columns is None else list(columns)
    n_rows, n_columns = store.n_stimuli, store.layer(layer).n_features
    dtype = product_dtype(n_rows, n_columns)
    _require_memory(compute, n_rows, max(block.stop - block.start for block in blocks), dtype)
    product_sum = dask.delayed(_product_sum)
    n_sums = min(MAX_PARTIAL_SUMS, len(blocks))
    sums = [
        product_sum(str(store.path.resolve()), layer, [blocks[i] for i in group], n_rows, dtype)
        for group in np.array_split(np.arange(len(blocks)), n_sums)
    ]
    ((gram, rows),) = dask.compute(tree_reduced(_added, sums))
    return finished(gram if gram.flags.writeable else gram.copy(), rows)


def stored_gram_matrix(
    path: str | Path, layer: str, compute: Compute, columns: Sequence[slice] | None = None
) -> NDArray[np.float64]:
    """The Gram matrix alone, (n_stimuli, n_stimuli); see :func:`stored_statistics`."""
    return stored_statistics(path, layer, compute, columns).gram


def tree_reduced(combine: Callable[[Any, Any], Any], parts: Sequence[Delayed]) -> Delayed:
    """All parts combined by neighbours, level by level.

    Dask goes through such a tree depth first: about log2(number of parts) of them wait to be
    combined, beside those under way. ``combine`` must leave its arguments as they are, because
    Dask may use them again after a worker is lost.
    """
    join = dask.delayed(combine)
    while len(parts) > 1:
        pairs = [join(*parts[i : i + 2]) for i in range(0, len(parts) - 1, 2)]
        parts = pairs + list(parts[2 * len(pairs) :])
    return parts[0]


def _product_sum(
    path: str, layer: str, blocks: Sequence[slice], n_rows: int, dtype: DTypeLike
) -> Total:
    """Sums over some blocks."""
    read = partial(FeatureStore.open(path).read, layer)
    total = no_sum(n_rows)
    for block in blocks:
        total = add_in_place(total, block_sums(read, block, n_rows, dtype, None))
    return total


def _added(one: Total, other: Total) -> Total:
    (gram, rows), (more_gram, more_rows) = one, other
    with np.errstate(invalid="ignore", over="ignore"):
        return gram + more_gram, rows + more_rows if rows and more_rows else rows or more_rows


def _require_memory(compute: Compute, n_rows: int, width: int, dtype: DTypeLike) -> None:
    """Refuse workers that could not hold what :func:`stored_gram_matrix` has in memory at once.

    A thread holds a sum, a product, a block and a copy of it; a worker also two sums and their sum.
    """
    if compute.worker_memory_bytes is None:
        return
    square_bytes = 8 * n_rows**2
    thread_bytes = 2 * square_bytes + (4 + np.dtype(dtype).itemsize) * n_rows * width
    needed_bytes = compute.threads_per_worker * thread_bytes + 3 * square_bytes
    usable_bytes = _USABLE_MEMORY * compute.worker_memory_bytes
    if needed_bytes > usable_bytes:
        raise ComputeError(
            f"the Gram matrix of {n_rows} stimuli takes {needed_bytes / 1e9:.2f} GB in a worker of "
            f"{compute.threads_per_worker} thread(s), which may use {usable_bytes / 1e9:.2f} GB of "
            f"its {compute.worker_memory_bytes / 1e9:.2f}: give workers more memory or fewer "
            "threads, or choose a solver that needs no Gram matrix"
        )


@contextmanager
def _local_cluster(
    n_cores: int, threads_per_worker: int, memory_bytes: int | None, timeout_s: float
) -> Iterator[LocalCluster]:
    n_workers = n_cores // threads_per_worker
    if n_workers < 1:
        raise ComputeError(
            f"threads_per_worker is {threads_per_worker}, but {n_cores} core(s) may be used: "
            "write at most that"
        )
    try:
        cluster = LocalCluster(
            n_workers=n_workers,
            threads_per_worker=threads_per_worker,
            processes=True,
            memory_limit="auto" if memory_bytes is None else memory_bytes // n_workers,
            dashboard_address=":0",
            death_timeout=timeout_s,
        )
    except (OSError, RuntimeError, TimeoutError) as error:
        raise ComputeError(f"{n_workers} local Dask workers did not start: {error}") from error
    with closing(cluster):
        yield cluster


@contextmanager
def _connected(
    address: str, n_awaited: int, deadline_s: float, timeout_s: float
) -> Iterator[Client]:
    """A client of a scheduler that has this many workers."""
    try:
        asyncio.run(asyncio.wait_for(_answer(address), deadline_s - time.monotonic()))
        client = Client(address, timeout=max(_POLL_S, deadline_s - time.monotonic()))
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise ComputeError(
            f"no Dask scheduler answered at {address} within {timeout_s:g} s ({error!r}): start "
            "one, or correct the address"
        ) from error
    with closing(client):
        try:
            client.wait_for_workers(n_awaited, timeout=max(_POLL_S, deadline_s - time.monotonic()))
        except TimeoutError as error:
            raise ComputeError(
                f"{n_awaited} worker(s) did not join the Dask scheduler at {address} within "
                f"{timeout_s:g} s: see the log of the workers"
            ) from error
        yield client


async def _answer(address: str) -> None:
    """Ask a scheduler who it is: ``Client`` waits for ever where something else listens."""
    async with rpc(address) as scheduler:
        await scheduler.identity()


def _scheduler_address(where: str, deadline_s: float, timeout_s: float) -> str:
    """The address itself, or the one in a scheduler file once that is there and complete."""
    if "://" in where:
        return where
    while True:
        try:
            return json.loads(Path(where).read_text(encoding="utf-8"))["address"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > deadline_s:
                raise ComputeError(
                    f"no Dask scheduler wrote the file {where} within {timeout_s:g} s "
                    f"({error!r}): start one with this --scheduler-file, or write 'threads', "
                    "'processes', or an address such as tcp://host:8786"
                ) from error
        time.sleep(_POLL_S)


def _memory_limit_bytes(dask_worker: Worker) -> int | None:
    return dask_worker.memory_manager.memory_limit
