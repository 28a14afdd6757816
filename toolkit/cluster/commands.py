"""Slurm's own programs, asked for text."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence

_TIMEOUT_S = 60.0
# A user's own variables of this kind change what the programs list and how they write it.
_FORMATTING = ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT")
# Indices of array elements are written in full.
_UNCUT = {"SLURM_BITSTR_LEN": "0"}


class SlurmCommandError(RuntimeError):
    """One of Slurm's programs is missing, failed, or did not answer in time."""

    error_class = "slurm_command"


def slurm_output(arguments: Sequence[str], timeout_s: float = _TIMEOUT_S) -> str:
    """What a program of Slurm prints.

    Parameters
    ----------
    arguments
        The program and its arguments.
    timeout_s
        How long to wait for it.

    Raises
    ------
    SlurmCommandError
        With what it wrote to ``stderr``.
    """
    program = arguments[0]
    variables = {k: v for k, v in os.environ.items() if not k.startswith(_FORMATTING)}
    try:
        done = subprocess.run(
            arguments,
            env={**variables, **_UNCUT},
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError as error:
        raise SlurmCommandError(
            f"{program} is not installed here; run this on a machine from which jobs are submitted"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmCommandError(f"{program} did not answer within {timeout_s:.0f} s") from error
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = "; ".join(dict.fromkeys(lines)) or "it said nothing"
        raise SlurmCommandError(f"{program} ended with {done.returncode}: {said}")
    return done.stdout


def scancel(arguments: Sequence[str]) -> None:
    """Cancel jobs; those that are over, or that Slurm has forgotten, stay as they are.

    Raises
    ------
    SlurmCommandError
        If Slurm cannot be told.
    """
    try:
        slurm_output(["scancel", *arguments])
    except SlurmCommandError as error:
        if not re.search("Invalid job id|already complet", str(error)):
            raise
