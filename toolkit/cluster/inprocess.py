"""Run batches here, one after the other: for debugging, and for small sweeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolkit.cluster.batches import Batch
from toolkit.task import TaskKind

Work = Callable[[Sequence[str], int | None], None]


def run_inprocess(batches: Sequence[Batch], work: Work, n_cpus: dict[TaskKind, int | None]) -> None:
    """Run every batch in this process.

    Parameters
    ----------
    batches
        In an order in which parents come first.
    work
        Runs tasks by id with a number of threads (None: as many as there are cores); it
        records what happens to each and raises only to stop the whole run.
    n_cpus
        Threads for a batch of each stage.
    """
    for batch in batches:
        work(batch.task_ids, n_cpus[batch.kind])
