"""Where the work runs, and what its jobs ask for."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from toolkit.config.base import Section, expand_path

_WORKERS = ("threads", "processes", "allocation", "jobqueue")


def _expand_scheduler_file(workers: str) -> str:
    return workers if workers in _WORKERS or "://" in workers else expand_path(workers)


_UNITS = re.compile(r"(?:(\d{1,6})d)? ?(?:(\d{1,6})h)? ?(?:(\d{1,6})min)?")
_CLOCK = re.compile(
    r"(?:(?P<d>\d{1,6})-)?(?P<h>\d{1,6}):(?P<min>[0-5]\d):(?P<s>[0-5]\d)"
    r"|(?P<days>\d{1,6})-(?P<hours>\d{1,2})(?::(?P<minutes>[0-5]\d))?"
)


def as_minutes(value: Any) -> Any:
    """Minutes of a text such as 90min, 1h30min, 2d, 4:00:00 or 1-12:00:00, seconds rounded up.

    ``4:00`` is four minutes to Slurm and four hours to most people, so it is neither.
    """
    if not isinstance(value, str):
        return value
    if value and (units := _UNITS.fullmatch(value)):
        days, hours, minutes = (int(part or 0) for part in units.groups())
        return 1440 * days + 60 * hours + minutes
    if clock := _CLOCK.fullmatch(value):
        part = {key: int(digits or 0) for key, digits in clock.groupdict().items()}
        days, hours = part["d"] + part["days"], part["h"] + part["hours"]
        return 1440 * days + 60 * hours + part["min"] + part["minutes"] + (part["s"] > 0)
    raise ValueError("write minutes, or a time such as 90min, 4h, 1h30min, 2d, 4:00:00, 1-12:00:00")


Minutes = Annotated[int, BeforeValidator(as_minutes), Field(ge=1, le=1_000_000)]


class DaskConfig(Section):
    """Where the distributed work of read-outs runs; it does not change the results."""

    workers: Annotated[str, AfterValidator(_expand_scheduler_file)] = Field(
        default="threads",
        description="threads, processes (a LocalCluster), allocation (the nodes of the Slurm job), "
        "jobqueue (Slurm jobs of their own), or a scheduler's address or file.",
    )
    n_nodes: PositiveInt = Field(
        default=1, description="Nodes of one job, or jobs of one node; a worker on each."
    )

    @model_validator(mode="after")
    def _nodes_are_of_a_cluster(self) -> DaskConfig:
        if self.n_nodes > 1 and self.workers not in ("allocation", "jobqueue"):
            raise ValueError(
                f"workers {self.workers} has no n_nodes: write workers allocation or jobqueue, or "
                "leave n_nodes out"
            )
        return self


class Resources(Section):
    """What one job of a stage asks for."""

    cpus: PositiveInt | None = Field(
        default=None, description="Cores; the machine's, shared by the parallel jobs, if left out."
    )
    gpus: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="GPUs; one to extract where the machine has any, if left out."
    )
    memory_gb: PositiveFloat = Field(
        default=8.0, description="Memory, GB; what needs more is refused when it is planned."
    )
    timeout_min: Minutes = Field(
        default=240,
        description="Time limit: minutes, or a time such as 90min, 4h, 1h30min, 2d, or as Slurm "
        "takes it, 4:00:00, 1-12:00:00.",
    )


class StageResources(Section):
    """Resources of each stage's jobs."""

    extract: Resources = Field(default=Resources(), description="Feature extraction.")
    encode: Resources = Field(default=Resources(), description="Read-outs.")
    train: Resources = Field(default=Resources(), description="Training.")

    @property
    def probe(self) -> Resources:
        """Of jobs that only say where they run; no config asks for them."""
        return Resources()


class ExecutorConfig(Section):
    """Where jobs run."""

    kind: Literal["inprocess", "local", "slurm"] = Field(
        default="local",
        description="In this process, in processes of this machine, or on a Slurm cluster.",
    )
    max_parallel: PositiveInt = Field(
        default=2, description="Jobs that run at the same time (local)."
    )
    profile: str | None = Field(
        default=None, description="The site: a name of slurm/profiles, or a .yaml file (slurm)."
    )
    canary_above: PositiveInt | None = Field(
        default=50,
        description="The jobs of a family (extractions with one library, say) of more tasks than "
        "this wait for its first one; null: none does (slurm).",
    )
