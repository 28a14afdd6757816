"""What is still to be written, against the room on the disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rich.filesize import decimal

from toolkit.plan import features_id, form_of, kept_size
from toolkit.task import Task, TaskKind

# A task leaves its result and its log.
_FILES_PER_TASK = 2


@dataclass(frozen=True)
class Space:
    """Bytes and files still to be written, at most, and those that are free.

    Parameters
    ----------
    feature_bytes
        Of features before compression, and of Gram matrices kept in their place. What an
        interrupted extraction has written counts as still to be written.
    gram_bytes
        Of the Gram matrices of stored features, if all read-outs are computed from them.
    n_files
        Features, Gram matrices, results and logs.
    free_bytes, free_files
        Of the file system, for this user; None where it does not bound the files. A quota of the
        user or the project is not seen.
    """

    feature_bytes: int
    gram_bytes: int
    n_files: int
    free_bytes: int
    free_files: int | None

    @property
    def warnings(self) -> list[str]:
        """What does not fit."""
        found = []
        if self.feature_bytes + self.gram_bytes > self.free_bytes:
            found.append(
                f"up to {decimal(self.feature_bytes + self.gram_bytes)} are to be written and "
                f"{decimal(self.free_bytes)} are free; keep less of each layer (features: average, "
                "projection or gram) or choose another --out"
            )
        if self.free_files is not None and self.n_files > self.free_files:
            found.append(
                f"{self.n_files} files are to be written and the file system has room for "
                f"{self.free_files} more"
            )
        return found


def kept_sizes(tasks: Mapping[str, Task]) -> dict[str, tuple[float, float]]:
    """Bytes and files that each extract task keeps; of features that several make, its share."""
    whole: dict[str, tuple[int, int]] = {}
    sizes = {}
    for task_id, task in tasks.items():
        if task.kind is TaskKind.EXTRACT:
            key = features_id(task)
            if key not in whole:
                whole[key] = kept_size(task)
            _, n_parts = task.params.get("part", (0, 1))
            sizes[task_id] = (whole[key][0] / n_parts, whole[key][1] / n_parts)
    return sizes


def total_size(sizes: Iterable[tuple[float, float]]) -> tuple[int, int]:
    """Bytes and files together."""
    pairs = list(sizes)
    return round(sum(n_bytes for n_bytes, _ in pairs)), round(sum(n for _, n in pairs))


def space_to_write(
    folder: Path,
    tasks: Mapping[str, Task],
    done_ids: Collection[str],
    sizes: Mapping[str, tuple[float, float]],
) -> Space:
    """What the tasks that are not done will write.

    Parameters
    ----------
    folder
        Where; it need not exist yet.
    tasks
        All planned tasks by id.
    done_ids
        Tasks whose results are there.
    sizes
        Of what extract tasks keep, see :func:`kept_sizes`.
    """
    feature_bytes, feature_files = total_size(
        size for task_id, size in sizes.items() if task_id not in done_ids
    )
    gram_bytes, gram_files = _gram_matrices(tasks, done_ids)
    n_to_run = sum(task_id not in done_ids for task_id in tasks)
    free = os.statvfs(_existing(folder))
    return Space(
        feature_bytes=feature_bytes,
        gram_bytes=gram_bytes,
        n_files=feature_files + gram_files + _FILES_PER_TASK * n_to_run,
        free_bytes=free.f_bavail * free.f_frsize,
        free_files=free.f_favail if free.f_files else None,
    )


def _gram_matrices(tasks: Mapping[str, Task], done_ids: Collection[str]) -> tuple[int, int]:
    """Bytes and files of those that read-outs will make from stored features and keep."""
    layers: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for task_id, task in tasks.items():
        if task.kind is TaskKind.ENCODE and task.params.get("solver", "gram") == "gram":
            parent = task.inputs[0]
            layers[task_id in done_ids].add((parent, task.params["layer"]))
    missing = Counter(parent for parent, _ in layers[False] - layers[True])
    n_bytes = n_files = 0
    for parent, n_layers in missing.items():
        if form_of(tasks[parent]).kind != "gram":
            n_bytes += n_layers * _gram_bytes(tasks[parent])
            n_files += n_layers
    return n_bytes, n_files


def _gram_bytes(extraction: Task) -> int:
    """Of one layer."""
    form = {**extraction.params["form"], "kind": "gram"}
    n_bytes, n_files = kept_size(replace(extraction, params={**extraction.params, "form": form}))
    return n_bytes // n_files


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
