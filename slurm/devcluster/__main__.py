"""The development cluster from the command line."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from slurm.devcluster.cluster import DevCluster, take_down
from slurm.devcluster.configuration import ClusterShape
from slurm.devcluster.errors import ClusterError
from toolkit.terminal import run_command

_COMMAND = "python -m slurm.devcluster"
_DEFAULT = ClusterShape()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status is 0, 1 where the cluster fails, or that of ``run``'s command.

    Parameters
    ----------
    arguments
        Of the command line; this process's own when left out.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _exit_by_signal)
    options = _parser().parse_args(arguments)
    try:
        return int(options.verb(options))
    except (ClusterError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _exit_by_signal(number: int, _frame: object) -> None:
    sys.exit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=_COMMAND, description="A private Slurm in a folder.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    up = verbs.add_parser("up", help="boot a cluster; print the line that makes commands use it")
    _add_shape(up)
    up.set_defaults(verb=_up)

    down = verbs.add_parser("down", help="end everything of a cluster and remove its folder")
    down.add_argument("dir", metavar="DIR")
    down.set_defaults(verb=_down)

    status = verbs.add_parser("status", help="show daemons and nodes; exit status 0 if all are up")
    status.add_argument("dir", metavar="DIR")
    status.set_defaults(verb=_status)

    run = verbs.add_parser("run", help="boot a cluster, run a command on it, take it down")
    _add_shape(run)
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    run.set_defaults(verb=_run)
    return parser


def _add_shape(parser: argparse.ArgumentParser) -> None:
    for option, default, what in (
        ("--nodes", _DEFAULT.n_nodes, "number of nodes"),
        ("--cpus", _DEFAULT.cpus_per_node, "CPUs that each node claims"),
        ("--gpus", _DEFAULT.gpus_per_node, "GPUs that each node claims"),
        ("--memory-mb", _DEFAULT.memory_mb_per_node, "memory that each node claims, in MB"),
    ):
        parser.add_argument(
            option, type=int, default=default, metavar="N", help=f"{what} (%(default)s)"
        )
    parser.add_argument("--no-accounting", action="store_true", help="without slurmdbd and MariaDB")
    parser.add_argument("--dir", help="empty or new folder with a short path (a temporary one)")


def _start(options: argparse.Namespace) -> DevCluster:
    shape = ClusterShape(
        n_nodes=options.nodes,
        cpus_per_node=options.cpus,
        gpus_per_node=options.gpus,
        memory_mb_per_node=options.memory_mb,
        has_accounting=not options.no_accounting,
    )
    cluster = DevCluster.start(shape, options.dir)
    print(
        f"{shape.n_nodes} nodes with {shape.cpus_per_node} CPUs and {shape.gpus_per_node} GPUs "
        f"each in {cluster.folder}, ready after {cluster.boot_s:.1f} s",
        file=sys.stderr,
    )
    return cluster


def _up(options: argparse.Namespace) -> int:
    cluster = _start(options)
    for name, value in cluster.environment.items():
        print(f"export {name}={shlex.quote(value)}", flush=True)
    print(f"take it down: {_COMMAND} down {cluster.folder}", file=sys.stderr)
    return 0


def _down(options: argparse.Namespace) -> int:
    take_down(options.dir)
    return 0


def _status(options: argparse.Namespace) -> int:
    cluster = DevCluster.open(options.dir)
    running = cluster.daemons()
    for daemon in cluster.expected_daemons:
        print(f"{daemon:12} {running.get(daemon, 'does not run')}")
    for node, state in cluster.nodes().items():
        print(f"{node:12} {state}")
    return 0 if set(cluster.expected_daemons) <= set(running) else 1


def _run(options: argparse.Namespace) -> int:
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        raise ValueError(f"no command to run; for example: {_COMMAND} run -- sinfo")
    with _start(options) as cluster:
        return subprocess.run(command, env={**os.environ, **cluster.environment}).returncode


if __name__ == "__main__":
    sys.exit(run_command(main))
