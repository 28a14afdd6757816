"""Weights are fetched before jobs are submitted: compute nodes often have no network."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from toolkit.cluster.run_folder import RunFolderError
from toolkit.task import Task, TaskKind


def fetch_weights(tasks: Sequence[Task], console: Console) -> None:
    """Bring the pretrained weights that tasks need into the cache that jobs read.

    Raises
    ------
    RunFolderError
        If some are not to be had; all of them are named.
    """
    pretrained = [task for task in tasks if task.options.get("weights") == "pretrained"]
    wanted = {network for task in pretrained if (network := _network_of(task)) is not None}
    if not wanted:
        return
    from toolkit import models

    problems = []
    for library, name in sorted(wanted):
        try:
            models.fetch_weights(models.ModelSpec(library, name, "pretrained"))
        except models.WeightsUnavailableError as error:
            problems.append(f"{library} {name}: {error}")
    if problems:
        raise RunFolderError("\n".join(problems))
    console.print(f"The weights of {len(wanted)} networks are here.")


def _network_of(task: Task) -> tuple[str, str] | None:
    """Library and name of the network whose weights a task starts from."""
    if task.kind is TaskKind.EXTRACT:
        return task.params["library"], task.params["model"]
    trunk = task.params.get("network", {}).get("trunk")
    return (trunk["library"], trunk["name"]) if trunk else None
