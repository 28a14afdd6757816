"""What is recorded of submitted job arrays: one small file each, and Slurm's id beside it.

The file says what each element does and is written before ``sbatch``; the id is written after.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.run_folder import RunFolder, write_text
from toolkit.task import TaskKind


@dataclass(frozen=True)
class Submission:
    """One job array that was submitted, or was about to be.

    Parameters
    ----------
    name
        Unique; also of its files.
    job_name
        What the queue shows; it holds the name.
    kind, request
        The stage, and what each job asks for.
    elements
        Ids of the tasks of each element.
    code
        Digest of the code the jobs must run.
    written
        When, UTC (ISO 8601).
    time_limit_s
        A warning so long after a job's start, seconds, is that of its time limit.
    timeouts_allowed
        How often a job goes on after its time limit.
    is_canary
        Whether others wait for it only to see that their like works at all.
    array_id
        Slurm's; empty while it is not recorded.
    """

    name: str
    job_name: str
    kind: TaskKind
    request: JobRequest
    elements: tuple[tuple[str, ...], ...]
    code: str
    written: str
    time_limit_s: float = 0.0
    timeouts_allowed: int = 0
    is_canary: bool = False
    array_id: str = ""

    def element_id(self, index: int) -> str:
        """Slurm's id of an element: ``4711_3``."""
        return f"{self.array_id}_{index}"

    @property
    def element_ids(self) -> list[str]:
        """Of all elements; empty while the array's id is not recorded."""
        return [self.element_id(i) for i in range(len(self.elements))] if self.array_id else []


def manifest_path(run: RunFolder, name: str) -> Path:
    """The file that says what the elements of an array do."""
    return run.path / "submissions" / f"{name}.json"


def element_log_path(run: RunFolder, element_id: str) -> Path:
    """What an element prints, Slurm's own words included."""
    return run.jobs_folder / f"{element_id}_0_log.out"


def write_manifest(run: RunFolder, submission: Submission) -> Path:
    """Record a submission, but not the array's id."""
    path = manifest_path(run, submission.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = asdict(submission)
    del values["array_id"]
    write_text(path, json.dumps(values))
    return path


def read_manifest(path: Path) -> Submission:
    """One submission, with the array's id if that is recorded."""
    raw = json.loads(path.read_bytes())
    submission = Submission(
        **{
            **raw,
            "kind": TaskKind(raw["kind"]),
            "request": JobRequest.from_dict(raw["request"]),
            "elements": tuple(map(tuple, raw["elements"])),
        }
    )
    with suppress(FileNotFoundError):
        array_id = _id_path(path).read_text(encoding="utf-8")
        submission = replace(submission, array_id=array_id)
    return submission


def read_submissions(run: RunFolder) -> list[Submission]:
    """All of a run, oldest first."""
    paths = (run.path / "submissions").glob("[!.]*.json")
    return sorted(map(read_manifest, paths), key=lambda submission: submission.written)


def record_array_id(manifest: Path, array_id: str) -> None:
    """Record Slurm's id of the array; a running element may do it too."""
    path = _id_path(manifest)
    if not path.is_file():
        write_text(path, array_id)


def _id_path(manifest: Path) -> Path:
    return manifest.with_suffix(".id")
