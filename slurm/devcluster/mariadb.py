"""A private MariaDB server for Slurm's accounting: no network, no password, no durability."""

from __future__ import annotations

import os
import pwd
import socket
from pathlib import Path

from slurm.devcluster.programs import program

# The data live as long as the cluster: nothing has to survive a crash.
_QUICK = (
    "--skip-log-bin",
    "--innodb-log-file-size=16M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-flush-method=nosync",
    "--innodb-doublewrite=0",
    "--innodb-lock-wait-timeout=900",
)


def install_command(folder: Path) -> list[str]:
    """Prepare a folder: an empty database whose root needs no password."""
    return [
        program("mariadb-install-db"),
        "--no-defaults",
        "--auth-root-authentication-method=normal",
        "--skip-test-db",
        "--skip-name-resolve",
        *_options(folder),
    ]


def server_command(folder: Path) -> list[str]:
    """Serve the database on a socket in its folder."""
    return [
        program("mariadbd"),
        "--no-defaults",
        "--skip-networking",
        f"--socket={socket_path(folder)}",
        f"--pid-file={folder}/mariadbd.pid",
        *_options(folder),
    ]


def socket_path(folder: Path) -> Path:
    """The server's socket."""
    return folder / "s"


def answers(folder: Path) -> bool:
    """Whether the server takes connections."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(socket_path(folder))) == 0


def _options(folder: Path) -> list[str]:
    return [
        # A server that starts removes the temporary tables it finds, whosever they are.
        f"--tmpdir={folder}/tmp",
        f"--datadir={folder}/data",
        # It runs as root only when root is named.
        f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
        *_QUICK,
    ]
