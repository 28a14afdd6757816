"""What is recorded of submitted job arrays: one small file each, and Slurm's id beside it.

The file says what each element does and is written before ``sbatch``; the id is written after.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.records import BAD_JSON
from toolkit.cluster.run_folder import RunFolder, RunFolderError, write_text
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
    write_text(path, json.dumps({"run": str(run.path), **values}))
    return path


def read_manifest(path: Path) -> Submission:
    """One submission, with the array's id if that is recorded.

    Raises
    ------
    RunFolderError
        If the file is damaged.
    """
    return _read(path)[1]


def read_submissions(run: RunFolder) -> list[Submission]:
    """All of a run, oldest first; without those of another that this folder is a copy of.

    Raises
    ------
    RunFolderError
        If one cannot be read.
    """
    found = map(_read, (run.path / "submissions").glob("[!.]*.json"))
    own = (submission for submitter, submission in found if _is_same(submitter, run.path))
    return sorted(own, key=lambda submission: submission.written)


def _read(path: Path) -> tuple[Path, Submission]:
    """The run folder of which it was submitted, and the submission."""
    try:
        raw = json.loads(path.read_bytes())
        submitter = Path(raw.pop("run"))
        submission = Submission(
            **{
                **raw,
                "kind": TaskKind(raw["kind"]),
                "request": JobRequest.from_dict(raw["request"]),
                "elements": tuple(map(tuple, raw["elements"])),
                "array_id": _read_id(path),
            }
        )
        return submitter, submission
    except (OSError, *BAD_JSON) as error:
        raise RunFolderError(
            f"{path} is damaged; it says which tasks the jobs do whose name ends in .{path.stem}: "
            "see that none of them is in Slurm's queue, then remove it"
        ) from error


def _is_same(submitter: Path, run: Path) -> bool:
    """Whether a run folder is the one of which was submitted; it may have been moved since."""
    try:
        return submitter.samefile(run)
    except OSError:
        return True


def record_array_id(manifest: Path, array_id: str) -> None:
    """Record Slurm's id of the array; a running element may do it too."""
    if not _read_id(manifest):
        write_text(_id_path(manifest), array_id)


def _read_id(manifest: Path) -> str:
    try:
        text = _id_path(manifest).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
    return text if text.isdecimal() else ""


def _id_path(manifest: Path) -> Path:
    return manifest.with_suffix(".id")
