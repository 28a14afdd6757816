"""How many jobs a cluster takes at once."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, replace

from toolkit.cluster.commands import SlurmCommandError, slurm_output
from toolkit.cluster.profiles import SiteProfile
from toolkit.cluster.scheduler_output import read_rows
from toolkit.task import TaskKind

KEEPER_SUFFIX = ".keeper"


@dataclass(frozen=True)
class ArrayLimits:
    """Bounds on what is submitted.

    Parameters
    ----------
    max_array_size
        Most elements in one array; None where that is not known.
    max_submit
        Most elements of one user in the queue; None where there is no bound.
    n_queued
        Elements of this user that are there already.
    """

    max_array_size: int | None
    max_submit: int | None = None
    n_queued: int = 0

    def without(self, n_jobs: int) -> ArrayLimits:
        """The same with room for so many other jobs left free, at least one for these."""
        if self.max_submit is None:
            return self
        return replace(self, max_submit=max(1, self.max_submit - n_jobs))

    def __post_init__(self) -> None:
        known = (limit for limit in (self.max_array_size, self.max_submit) if limit is not None)
        if any(limit < 1 for limit in known):
            raise ValueError(f"limits are at least 1, not {self}")


def ask_limits(profile: SiteProfile) -> ArrayLimits:
    """The profile's limits; those that it leaves open are asked of Slurm.

    Raises
    ------
    SlurmCommandError
        If Slurm does not answer.
    """
    config = _parse_config(slurm_output(["scontrol", "show", "config"]))
    size = profile.max_array_size
    if size is None:
        said = (config.get(name, "") for name in ("MaxArraySize", "MaxJobCount"))
        size = min((max(1, int(limit)) for limit in said if limit.isdecimal()), default=None)
    max_submit = profile.max_submit
    if max_submit is None and "limits" in config.get("AccountingStorageEnforce", "").split(","):
        max_submit = _submit_limit(profile)
    return ArrayLimits(size, max_submit, 0 if max_submit is None else _n_queued())


def _parse_config(text: str) -> dict[str, str]:
    """``Name = value`` lines of ``scontrol show config``."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _submit_limit(profile: SiteProfile) -> int | None:
    """The tightest limit of the accounts and qualities of service that the profile uses."""
    stages = [profile.stage(kind) for kind in TaskKind]
    accounts = {stage.account for stage in stages if stage.account}
    qualities = {stage.qos for stage in stages if stage.qos}
    shown = _accounting("assoc", f"user={getpass.getuser()}", "Account,DefaultQOS,MaxSubmit")
    found = []
    for account, default_quality, max_submit in shown:
        if not accounts or account in accounts:
            found.append(max_submit)
            qualities |= {default_quality} - {""}
    for name, *limits in _accounting("qos", "", "Name,MaxSubmitPU,MaxSubmitPA,GrpSubmit"):
        found += limits if name in (qualities or {"normal"}) else []
    return min((int(limit) for limit in found if limit.isdecimal() and int(limit)), default=None)


def _accounting(entity: str, which: str, columns: str) -> list[list[str]]:
    command = ["sacctmgr", "--noheader", "--parsable2", "show", entity]
    try:
        text = slurm_output([*command, *([which] if which else []), f"format={columns}"])
    except SlurmCommandError:
        return []
    return read_rows(text, columns.count(",") + 1)[0]


def _n_queued() -> int:
    """Keepers apart: room is left for them."""
    said = slurm_output(["squeue", "--noheader", "--array", "--me", "--Format=JobArrayID:|,Name:|"])
    rows, unreadable = read_rows(said, 2)
    return len(unreadable) + sum(not name.endswith(KEEPER_SUFFIX) for _, name in rows)
