"""What a development cluster looks like, and the files that tell Slurm so."""

from __future__ import annotations

import os
import pwd
import random
import socket
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from slurm.devcluster.errors import ClusterError

_MAX_SOCKET_PATH_BYTES = 107
# Outside the range from which the kernel takes the ports of outgoing connections.
_PORTS = range(10_000, 32_000)


@dataclass(frozen=True)
class ClusterShape:
    """Size and rules of a cluster.

    There are three partitions, each over all nodes: ``main`` (the default; its jobs are requeued
    when ``high`` needs their place), ``high`` and ``cpu`` (jobs of both are left alone).

    Parameters
    ----------
    n_nodes
        Nodes, named ``n1``, ``n2``, …; each is a slurmd of this machine.
    cpus_per_node, gpus_per_node, memory_mb_per_node
        What each node claims to have, whatever the machine has. GPUs are names only.
    has_accounting
        Whether slurmdbd and MariaDB run, so that ``sacct`` and ``sacctmgr`` work.
    """

    n_nodes: int = 3
    cpus_per_node: int = 4
    gpus_per_node: int = 2
    memory_mb_per_node: int = 16_000
    has_accounting: bool = True

    def __post_init__(self) -> None:
        for name in ("n_nodes", "cpus_per_node", "memory_mb_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.gpus_per_node < 0:
            raise ValueError(f"gpus_per_node is {self.gpus_per_node}; give 0 or more")

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(f"n{i + 1}" for i in range(self.n_nodes))


@dataclass(frozen=True)
class Ports:
    """TCP ports of the daemons, all free when they were chosen."""

    controller: int
    accounting: int
    nodes: tuple[int, ...]


def free_ports(n_nodes: int) -> Ports:
    """Ports that nobody listens at."""
    with ExitStack() as held:
        chosen: list[int] = []
        for port in random.sample(_PORTS, len(_PORTS)):
            listener = held.enter_context(socket.socket())
            try:
                listener.bind(("", port))
            except OSError:
                continue
            chosen.append(port)
            if len(chosen) == n_nodes + 2:
                return Ports(chosen[0], chosen[1], tuple(chosen[2:]))
    raise ClusterError(
        f"fewer than {n_nodes + 2} ports are free in {_PORTS.start}-{_PORTS.stop - 1}"
    )


def longest_socket_path(folder: Path, shape: ClusterShape) -> Path:
    """The longest path of a Unix socket that Slurm makes: that of a job step's daemon."""
    node = shape.nodes[-1]
    return folder / "spool" / node / f"{node}_4294967295.4294967295"


def check_socket_paths(folder: Path, shape: ClusterShape) -> None:
    """Refuse a folder below which Unix sockets cannot be made.

    Raises
    ------
    ClusterError
        If their paths would be too long.
    """
    excess = len(os.fsencode(longest_socket_path(folder, shape))) - _MAX_SOCKET_PATH_BYTES
    if excess > 0:
        raise ClusterError(
            f"the folder's path is {excess} bytes too long for Unix sockets: {folder}; "
            f"give a shorter one, such as {Path(tempfile.gettempdir()) / 'slurm'}"
        )


def write_configuration(folder: Path, shape: ClusterShape, ports: Ports) -> None:
    """Write all that the daemons read, and make the folders that they write to."""
    folder.chmod(0o700)
    for name in ("daemons", "gpus", "log", "munge", "mysql", "mysql/tmp", "spool", "state"):
        (folder / name).mkdir()
    for node in shape.nodes:
        (folder / "spool" / node).mkdir()
        for i in range(shape.gpus_per_node):
            (folder / "gpus" / f"{node}_gpu{i}").symlink_to("/dev/null")
    _write_private(folder / "munge" / "key", os.urandom(128))
    (folder / "slurm.conf").write_text(_slurm_conf(folder, shape, ports), encoding="utf-8")
    (folder / "gres.conf").write_text(_gres_conf(folder, shape), encoding="utf-8")
    if shape.has_accounting:
        text = _slurmdbd_conf(folder, ports)
        _write_private(folder / "slurmdbd.conf", text.encode())


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _slurm_conf(folder: Path, shape: ClusterShape, ports: Ports) -> str:
    host = socket.gethostname().split(".")[0]
    user = _user()
    gres = f" Gres=gpu:{shape.gpus_per_node}" if shape.gpus_per_node else ""
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
        f"CPUs={shape.cpus_per_node} RealMemory={shape.memory_mb_per_node}{gres} State=UNKNOWN"
        for node, port in zip(shape.nodes, ports.nodes, strict=True)
    )
    accounting = (
        f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports.accounting}
AccountingStoragePass={folder}/munge/s
AccountingStorageTRES=gres/gpu"""
        if shape.has_accounting
        else "AccountingStorageType=accounting_storage/none"
    )
    return f"""\
ClusterName=dev
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A job that was requeued starts again only when the credentials of its last start are over.
AuthInfo=socket={folder}/munge/s,cred_expire=5
CredType=cred/munge

StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/state/slurmctld.pid
SlurmdPidFile={folder}/spool/%n/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log

# Works without privileges and on any machine.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides

SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
GresTypes=gpu
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
{accounting}

# Everything soon.
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=1,sched_interval=2,bf_interval=1,\
default_queue_depth=1000
KillWait=10
SlurmdTimeout=10
MessageTimeout=5
TCPTimeout=2
InactiveLimit=0
MaxArraySize=20001
MaxJobCount=50000
MinJobAge=300

# A node that comes back is used again; what ran there, or was preempted, starts again.
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal

{nodes}
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 MaxTime=INFINITE DefaultTime=10 \
State=UP PreemptMode=REQUEUE GraceTime=20
PartitionName=cpu Nodes=ALL PriorityTier=10 MaxTime=INFINITE DefaultTime=10 \
State=UP PreemptMode=OFF
PartitionName=high Nodes=ALL PriorityTier=100 MaxTime=INFINITE DefaultTime=10 \
State=UP PreemptMode=OFF
"""


def _gres_conf(folder: Path, shape: ClusterShape) -> str:
    if not shape.gpus_per_node:
        return ""
    last = shape.gpus_per_node - 1
    return "".join(
        f"NodeName={node} Name=gpu File={folder}/gpus/{node}_gpu[0-{last}]\n"
        for node in shape.nodes
    )


def _slurmdbd_conf(folder: Path, ports: Ports) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/s
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={ports.accounting}
SlurmUser={_user()}
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/state/slurmdbd.pid
CommitDelay=1
"""
