"""Site profiles: what a cluster wants to be told about jobs, one YAML file per site."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
)
from pydantic_core import ErrorDetails

from toolkit.cluster.job_request import JobRequest
from toolkit.cluster.retries import RetryPolicy
from toolkit.task import TaskKind
from toolkit.terminal import control_character
from toolkit.yaml_source import ConfigError, Source, StrictModel, nearest, validated, what_is_wrong

PROFILES_FOLDER = Path(__file__).resolve().parents[2] / "slurm" / "profiles"
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _one_line(text: str) -> str:
    """Refuse what would begin a line of its own in a job's script."""
    if found := control_character(text):
        raise ValueError(f"it must be one line without the character {found}")
    return text


def _unquoted(text: str) -> str:
    """Refuse what would leave the quotes around it, or run a command inside."""
    if found := next((part for part in ('"', "`", "\\", "$(") if part in text), None):
        raise ValueError(f"it is a folder, perhaps with $VARIABLES, and must not hold {found}")
    return text


_Line = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]


class StageProfile(StrictModel):
    """How the jobs of one stage are submitted; what a stage leaves out is taken from default."""

    partition: _Line | None = Field(
        default=None, description="Partition; the site's own if left out"
    )
    account: _Line | None = Field(default=None, description="Account that is charged.")
    qos: _Line | None = Field(default=None, description="Quality of service.")
    constraint: _Line | None = Field(default=None, description="Features a node must have.")
    gres: Annotated[_Line, Field(pattern=r"\{n\}")] = Field(
        default="gpu:{n}", description="How GPUs are asked for; {n} is their number."
    )
    gpus_per_node: Annotated[_Line, Field(pattern=r"\{n\}")] | None = Field(
        default=None,
        description="GPUs as --gpus-per-node wants them, such as a100:{n}; instead of gres.",
    )
    memory: bool = Field(
        default=True, description="Whether memory is asked for; false where a site forbids --mem."
    )
    reservation: _Line | None = Field(default=None, description="Reservation to run in.")
    licenses: _Line | None = Field(default=None, description="Licenses that a job takes.")
    mail_user: _Line | None = Field(default=None, description="Whom Slurm writes to.")
    mail_type: _Line | None = Field(default=None, description="On what, such as END,FAIL.")
    exclude: tuple[_Line, ...] = Field(default=(), description="Nodes never to use.")
    setup: tuple[str, ...] = Field(
        default=(), description="Shell lines before Python starts: modules, conda, proxies."
    )
    container: _Line | None = Field(
        default=None, description="Command in front of Python, such as apptainer exec IMAGE."
    )
    scratch: Annotated[_Line, AfterValidator(_unquoted)] | None = Field(
        default=None,
        description="Folder on the node in which a job makes its TMPDIR; may hold $VARIABLES.",
    )
    max_running: PositiveInt | None = Field(
        default=None, description="Jobs of one array that run at the same time; no bound if null."
    )
    gpus: Annotated[int, Field(ge=0)] = Field(
        default=0, description="GPUs of a job whose config leaves that open."
    )
    cpus: PositiveInt = Field(
        default=4, description="Cores of a job whose config leaves that open."
    )
    tasks_per_job: PositiveInt = Field(
        default=1, description="Tasks that share a job, one after the other, where they are small."
    )
    requeue: bool = Field(
        default=True, description="Whether Slurm starts a job again that it had to stop."
    )


class SiteProfile(StrictModel):
    """A cluster, as its users see it."""

    max_array_size: PositiveInt | None = Field(
        default=None, description="Most jobs in one array; asked of Slurm if null."
    )
    max_submit: PositiveInt | None = Field(
        default=None, description="Most jobs of one user in the queue; asked of Slurm if null."
    )
    signal_delay_s: PositiveInt = Field(
        default=120, description="Seconds between the warning and the time limit."
    )
    python: _Line | None = Field(
        default=None,
        description="Python of the jobs, as a shell takes it; the one that submits if null.",
    )
    min_query_interval_s: PositiveFloat = Field(
        default=30.0, description="Least seconds between two questions to the scheduler."
    )
    keeper_interval_s: PositiveInt | None = Field(
        default=600,
        description="How often a job of the run looks after it while no command watches; null: "
        "never, and failed tasks wait for somebody.",
    )
    retries: RetryPolicy = Field(
        default=RetryPolicy(), description="How often a task is tried again, by class of failure."
    )
    default: StageProfile = Field(default=StageProfile(), description="All stages.")
    extract: StageProfile = Field(default=StageProfile(), description="Feature extraction.")
    encode: StageProfile = Field(default=StageProfile(), description="Read-outs.")
    train: StageProfile = Field(default=StageProfile(), description="Training.")

    def stage(self, kind: TaskKind) -> StageProfile:
        """A stage's own settings over those of ``default``; not every kind of task has some."""
        own: StageProfile = getattr(self, kind, self.default)
        return self.default.model_copy(update={k: getattr(own, k) for k in own.model_fields_set})

    @property
    def tasks_per_job(self) -> dict[TaskKind, int]:
        """For each stage."""
        return {kind: self.stage(kind).tasks_per_job for kind in TaskKind}


def load_profile(name: str) -> SiteProfile:
    """Read and validate a profile.

    Parameters
    ----------
    name
        Of one in ``slurm/profiles``, or the path of a YAML file.

    Raises
    ------
    ConfigError
        With a line per problem: file, line, key, the nearest valid name.
    """
    source = Source.read(_path_of(name))
    try:
        return validated(SiteProfile, source)
    except ValidationError as error:
        problems = [_describe(detail, source) for detail in error.errors(include_url=False)]
        raise ConfigError(list(dict.fromkeys(problems))) from None


def _path_of(name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        return Path(os.path.expanduser(name))  # noqa: PTH111
    known = sorted(path.stem for path in PROFILES_FOLDER.glob("*.yaml"))
    if name not in known:
        near = nearest(name, known, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ConfigError(
            [f"--profile {name}: there is no such profile; {hint}known: {', '.join(known)}; "
             "or give the path of a .yaml file"]
        )  # fmt: skip
    return PROFILES_FOLDER / f"{name}.yaml"


def _describe(detail: ErrorDetails, source: Source) -> str:
    path = detail["loc"]
    if detail["type"] == "extra_forbidden":
        section = SiteProfile if len(path) == 1 else type(getattr(SiteProfile(), str(path[0])))
        near = nearest(str(path[-1]), section.model_fields, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        allowed = ", ".join(section.model_fields)
        return source.problem(path, f"unknown key; {hint}allowed: {allowed}")
    return source.problem(source.existing(path), what_is_wrong(detail))


def submitit_parameters(
    profile: SiteProfile, kind: TaskKind, request: JobRequest
) -> dict[str, Any]:
    """What submitit's ``SlurmExecutor.update_parameters`` is to be told.

    Parameters
    ----------
    profile
        The site.
    kind
        The stage.
    request
        What one job asks for.

    Returns
    -------
    dict
        All but the job's name, the size of its array and its dependencies.
    """
    stage = profile.stage(kind)
    restart = {"requeue": True} if stage.requeue else {"no-requeue": True}
    gpus = f"{request.n_gpus}" if request.n_gpus else None
    exclude = dict.fromkeys((*stage.exclude, *request.exclude))
    return {
        "partition": stage.partition,
        "account": stage.account,
        "qos": stage.qos,
        "constraint": stage.constraint,
        "gres": gpus and (None if stage.gpus_per_node else stage.gres.replace("{n}", gpus)),
        "gpus_per_node": gpus and stage.gpus_per_node and stage.gpus_per_node.replace("{n}", gpus),
        "exclude": ",".join(exclude) or None,
        "nodes": request.n_nodes,
        "cpus_per_task": request.n_cpus,
        "mem": f"{round(request.memory_gb * 1024)}MB" if stage.memory else None,
        "time": request.timeout_min,
        "signal_delay_s": profile.signal_delay_s,
        "setup": setup_lines(stage, request.n_cpus),
        # From 22.05 on, srun no longer takes the number of cores from the job.
        "srun_args": ["--nodes=1", "--ntasks=1", f"--cpus-per-task={request.n_cpus}"],
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": {**_more(stage), **restart, "kill-on-invalid-dep": "yes"},
    }


def _more(stage: StageProfile) -> dict[str, str]:
    """Options of ``sbatch`` that submitit has no names for."""
    options = {
        "reservation": stage.reservation,
        "licenses": stage.licenses,
        "mail-user": stage.mail_user,
        "mail-type": stage.mail_type,
    }
    return {name: value for name, value in options.items() if value}


def worker_directives(profile: SiteProfile, kind: TaskKind) -> list[str]:
    """Where the jobs of a stage's Dask workers go, as options of ``sbatch``."""
    stage = profile.stage(kind)
    options = {
        "partition": stage.partition,
        "account": stage.account,
        "qos": stage.qos,
        "constraint": stage.constraint,
        "exclude": ",".join(stage.exclude) or None,
        **_more(stage),
    }
    restart = "--requeue" if stage.requeue else "--no-requeue"
    given = [f"--{key}={shlex.quote(value)}" for key, value in options.items() if value]
    return [*given, restart]


def setup_lines(stage: StageProfile, n_cpus: int) -> list[str]:
    """Shell lines before the Python of a job: the site's own, threads, scratch."""
    threads = [f"export {name}={n_cpus}" for name in _THREAD_VARIABLES]
    return [*stage.setup, *threads, *scratch_lines(stage, "$SLURM_JOB_ID")]


def scratch_lines(stage: StageProfile, owner: str) -> list[str]:
    """Shell lines that make a ``TMPDIR`` on the node and remove it at the end; maybe none.

    Parameters
    ----------
    stage
        Whose scratch folder it is made in.
    owner
        What its name ends in; may hold $VARIABLES.
    """
    if not stage.scratch:
        return []
    return [
        f'export TMPDIR="{stage.scratch}/toolkit-{owner}"',
        'mkdir -p "$TMPDIR"',
        "trap 'rm -rf -- \"$TMPDIR\"' EXIT",
    ]
