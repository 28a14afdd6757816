"""The programs that a development cluster is made of."""

from __future__ import annotations

import os
import shutil

_SLURM = ("slurmctld", "slurmd", "sbatch", "scontrol", "sinfo", "munged", "munge")
_ACCOUNTING = ("slurmdbd", "sacctmgr", "mariadbd", "mariadb-install-db")
DEBIAN_PACKAGES = (
    "slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge "
    "slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core"
)
# Daemons live where an ordinary user's PATH does not look.
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def search_path() -> str:
    """The caller's PATH, followed by the folders that hold daemons."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS))


def program(name: str) -> str:
    """Absolute path of an installed program.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """
    found = shutil.which(name, path=search_path())
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found


def missing_programs(has_accounting: bool = True) -> list[str]:
    """Names of the programs a cluster needs that are not installed here."""
    needed = _SLURM + (_ACCOUNTING if has_accounting else ())
    return [name for name in needed if shutil.which(name, path=search_path()) is None]
