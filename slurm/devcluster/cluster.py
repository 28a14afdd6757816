"""Boot a development cluster, disturb it, and take it down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from slurm.devcluster import mariadb
from slurm.devcluster.configuration import (
    ClusterShape,
    Ports,
    check_socket_paths,
    free_ports,
    write_configuration,
)
from slurm.devcluster.errors import ClusterError
from slurm.devcluster.processes import Daemons, kill, kill_strays, slurmd
from slurm.devcluster.programs import DEBIAN_PACKAGES, missing_programs, program, search_path

_POLL_S = 0.05
_BOOT_LIMIT_S = 60.0
_STOP_LIMIT_S = 60.0
_COMMAND_LIMIT_S = 60.0
_MARKER = "cluster.json"
_READY_STATES = {"idle", "planned", "mixed", "allocated", "completing"}
# Variables of another Slurm, or of the user, that change what Slurm's commands do.
_SLURM_VARIABLES = ("SLURM", "SBATCH", "SRUN", "SQUEUE", "SINFO", "SACCT", "SCONTROL", "SCANCEL")


class DevCluster:
    """A Slurm of its own in a folder; as a context manager it is taken down at the end.

    Made by :meth:`start`, or by :meth:`open` for one that runs. Its daemons listen on all of the
    machine's addresses; they answer only who can read the key in the folder.

    Attributes
    ----------
    folder
        Everything about the cluster; removed with it.
    shape
        Its size and rules.
    boot_s
        Seconds from :meth:`start` to the moment at which every node was idle.
    """

    def __init__(self, folder: Path, shape: ClusterShape, ports: Ports, boot_s: float) -> None:
        self.folder = folder
        self.shape = shape
        self.boot_s = boot_s
        self._ports = ports
        self._daemons = _daemons(folder)

    @classmethod
    def start(
        cls, shape: ClusterShape | None = None, folder: Path | str | None = None
    ) -> DevCluster:
        """Boot a cluster and wait until its nodes are idle.

        Parameters
        ----------
        shape
            Size and rules; the default shape when left out.
        folder
            A folder that is empty or not there yet; a temporary one when left out. Its path has
            to be short, since Unix sockets lie in it.

        Raises
        ------
        ClusterError
            If programs are missing, the folder cannot be used, or a daemon does not start; the
            message ends with what the daemon printed last. Nothing is left of the cluster then.
        """
        began_s = time.monotonic()
        shape = shape or ClusterShape()
        if missing := missing_programs(shape.has_accounting):
            raise ClusterError(
                f"not installed: {', '.join(missing)}; on Debian: apt-get install {DEBIAN_PACKAGES}"
            )
        cluster = cls(_claim(folder, shape), shape, free_ports(shape.n_nodes), boot_s=0.0)
        try:
            cluster._write_marker()
            write_configuration(cluster.folder, shape, cluster._ports)
            cluster._boot()
            cluster.boot_s = time.monotonic() - began_s
            cluster._write_marker()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    @classmethod
    def open(cls, folder: Path | str) -> DevCluster:
        """The cluster that was started in this folder.

        Raises
        ------
        ClusterError
            If there is none.
        """
        folder = Path(folder).resolve()
        try:
            raw = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
            shape, ports = ClusterShape(**raw["shape"]), raw["ports"]
            ports = Ports(ports["controller"], ports["accounting"], tuple(ports["nodes"]))
            boot_s = raw["boot_s"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(f"{folder} holds no development cluster") from error
        return cls(folder, shape, ports, boot_s)

    def stop(self) -> None:
        """Take the cluster down and remove its folder; once is enough, twice does no harm."""
        take_down(self.folder)

    def __enter__(self) -> DevCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # What others need to use it

    @property
    def conf_path(self) -> Path:
        """The cluster's slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make Slurm's commands, and submitit, speak to this cluster."""
        return {"SLURM_CONF": str(self.conf_path)}

    def log_path(self, daemon: str) -> Path:
        """The log of one of :attr:`expected_daemons`."""
        own = self.folder / "log" / f"{daemon}.log"
        return own if own.exists() else self._daemons.output_path(daemon)

    def run(
        self, arguments: Sequence[str], *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands on this cluster.

        Parameters
        ----------
        arguments
            The command and its arguments.
        check
            Whether a command that fails is an error.

        Returns
        -------
        subprocess.CompletedProcess
            With ``stdout`` and ``stderr`` as text.

        Raises
        ------
        ClusterError
            If it failed; the message holds what it wrote to ``stderr``.
        """
        done = subprocess.run(
            arguments,
            env=self._daemons.environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_COMMAND_LIMIT_S,
            check=False,
        )
        if check and done.returncode != 0:
            raise ClusterError(
                f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}"
            )
        return done

    def nodes(self) -> dict[str, str]:
        """State of each node as ``sinfo`` says it, such as ``idle``, ``mixed`` or ``down*``."""
        lines = self.run(["sinfo", "--noheader", "--Node", "--format=%N %T"]).stdout.splitlines()
        return dict(line.split() for line in lines)

    def daemons(self) -> dict[str, int]:
        """Process id of each daemon that runs."""
        return {name: process.pid for name, process in self._daemons.running().items()}

    @property
    def expected_daemons(self) -> tuple[str, ...]:
        """Names of the daemons that make up the whole cluster."""
        accounting = ("mariadbd", "slurmdbd") if self.shape.has_accounting else ()
        return ("munged", *accounting, "slurmctld", *map(slurmd, self.shape.nodes))

    # What can happen to a cluster

    def node_process_id(self, node: str) -> int | None:
        """Process id of a node's slurmd; None when it does not run."""
        process = self._daemons.process(slurmd(node))
        return process.pid if process else None

    def kill_node(self, node: str, *, with_jobs: bool = True) -> None:
        """Kill a node's slurmd at once, as a power cut would.

        Parameters
        ----------
        node
            Its name.
        with_jobs
            Whether what runs on the node dies with it. Without, the jobs go on while Slurm
            takes them for lost.
        """
        process = self._daemons.process(slurmd(node))
        kill([process] if process else [])
        if with_jobs:
            kill_strays(self.conf_path, node)

    def start_node(self, node: str) -> None:
        """Start a node's slurmd; Slurm uses the node again a moment later."""
        conf = str(self.conf_path)
        self._daemons.start(slurmd(node), [program("slurmd"), "-D", "-N", node, "-f", conf])

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on, and commands fail."""
        self._daemons.stop("slurmctld", _STOP_LIMIT_S)  # a killed one would give ids again

    def start_controller(self) -> None:
        """Start slurmctld and wait until it answers."""
        self._daemons.start("slurmctld", [program("slurmctld"), "-D", "-f", str(self.conf_path)])
        self._wait_until(self._controller_answers, "slurmctld")

    def wait_ready(self, timeout_s: float = _BOOT_LIMIT_S) -> None:
        """Wait until every node can take jobs.

        Raises
        ------
        ClusterError
            If a daemon of a node or the controller has ended, or time is over.
        """
        needed = ["slurmctld", *(slurmd(node) for node in self.shape.nodes)]
        self._wait_until(self._nodes_are_up, *needed, timeout_s=timeout_s)

    # Booting

    def _boot(self) -> None:
        self._start_munge()
        if self.shape.has_accounting:
            self._start_accounting()
        self.start_controller()
        for node in self.shape.nodes:
            self.start_node(node)
        self.wait_ready()
        if self.shape.has_accounting:
            self._wait_until(self._is_registered, "slurmdbd", "slurmctld")

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        arguments = [
            "--foreground",
            "--force",  # its socket is for one user and need not be reached by others
            f"--key-file={folder}/key",
            f"--socket={folder}/s",
            f"--seed-file={folder}/seed",
            f"--pid-file={folder}/munged.pid",
        ]
        self._daemons.start("munged", [program("munged"), *arguments])
        self._wait_until((folder / "s").is_socket, "munged")

    def _start_accounting(self) -> None:
        folder = self.folder / "mysql"
        installing = self._daemons.start("mariadb-install-db", mariadb.install_command(folder))
        if installing.wait(_BOOT_LIMIT_S) != 0:
            raise ClusterError(
                f"mariadb-install-db failed:\n{self._daemons.tail('mariadb-install-db')}"
            )
        self._daemons.start("mariadbd", mariadb.server_command(folder))
        self._wait_until(lambda: mariadb.answers(folder), "mariadbd")
        socket = str(mariadb.socket_path(folder))
        self._daemons.start("slurmdbd", [program("slurmdbd"), "-D"], MYSQL_UNIX_PORT=socket)
        self._wait_until(self._accounting_answers, "slurmdbd")

    def _controller_answers(self) -> bool:
        return self.run(["scontrol", "ping"], check=False).returncode == 0

    def _accounting_answers(self) -> bool:
        return self.run(["sacctmgr", "show", "cluster"], check=False).returncode == 0

    def _is_registered(self) -> bool:
        asked = ["sacctmgr", "-nP", "show", "cluster", "format=ControlPort"]
        shown = self.run(asked, check=False)
        return str(self._ports.controller) in shown.stdout.split()

    def _nodes_are_up(self) -> bool:
        try:
            states = self.nodes()
        except ClusterError:
            return False
        return set(states) == set(self.shape.nodes) and _READY_STATES.issuperset(states.values())

    def _wait_until(
        self, condition: Callable[[], bool], *needed: str, timeout_s: float = _BOOT_LIMIT_S
    ) -> None:
        """Wait for a condition that only comes true while the ``needed`` daemons run."""
        limit_s = time.monotonic() + timeout_s
        while not condition():
            for name in needed:
                if self._daemons.process(name) is None:
                    raise ClusterError(f"{name} has ended:\n{self._daemons.tail(name)}")
            if time.monotonic() > limit_s:
                tails = "\n".join(f"{name}:\n{self._daemons.tail(name)}" for name in needed)
                raise ClusterError(f"not ready after {timeout_s:.0f} s; last words of {tails}")
            time.sleep(_POLL_S)

    def _write_marker(self) -> None:
        content = {
            "shape": asdict(self.shape),
            "ports": asdict(self._ports),
            "boot_s": self.boot_s,
        }
        (self.folder / _MARKER).write_text(json.dumps(content), encoding="utf-8")


def take_down(folder: Path | str) -> None:
    """End everything of the cluster in a folder, also of one whose boot was cut off; remove it.

    Parameters
    ----------
    folder
        The cluster's; when it is gone already, only what still runs is ended.

    Raises
    ------
    ClusterError
        If the folder holds something else.
    """
    folder = Path(folder).resolve()
    if (
        folder.exists()
        and not (folder / _MARKER).is_file()
        and (not folder.is_dir() or any(folder.iterdir()))
    ):
        raise ClusterError(f"{folder} holds no development cluster; nothing was done")
    daemons = _daemons(folder)
    for name in reversed(daemons.running()):
        daemons.stop(name)
    kill_strays(folder / "slurm.conf")
    shutil.rmtree(folder, ignore_errors=True)


def _claim(folder: Path | str | None, shape: ClusterShape) -> Path:
    """An empty folder for a new cluster."""
    if folder is None:
        check_socket_paths(Path(tempfile.gettempdir()).resolve() / "slurm-xxxxxxxx", shape)
        return Path(tempfile.mkdtemp(prefix="slurm-")).resolve()
    path = Path(folder).resolve()
    if (path / _MARKER).exists():
        raise ClusterError(
            f"{path} holds a cluster; take it down: python -m slurm.devcluster down {path}"
        )
    check_socket_paths(path, shape)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ClusterError(f"{path} is a file; give a folder") from error
    if any(path.iterdir()):
        raise ClusterError(f"{path} is not empty; give a folder that is, or a new one")
    return path


def _daemons(folder: Path) -> Daemons:
    """The cluster's daemons, with an environment that knows of no other Slurm."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(_SLURM_VARIABLES)}
    conf = str(folder / "slurm.conf")
    return Daemons(folder, {**outside, "PATH": search_path(), "SLURM_CONF": conf})
