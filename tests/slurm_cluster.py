"""Fixtures of tests that need a real Slurm; conftest.py gives them to all.

One cluster is booted when the first test asks for it, shared by the tests of a session, and taken
down at the end. A test that needs other rules gives them to that cluster for as long as it runs.
"""

import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from slurm.devcluster import DevCluster, missing_programs

Rules = Callable[..., None]

_THOUSANDS = itertools.count(1)
# The controller takes these as they were when it started.
_FIXED = re.compile("^(?:MaxArraySize|AccountingStorageEnforce)=.*", re.MULTILINE)


@pytest.fixture(scope="session")
def slurm_installed() -> None:
    """Skip where a cluster's programs are not installed."""
    if missing := missing_programs():
        pytest.skip(f"Slurm's programs are not installed here: {', '.join(missing)}")


@pytest.fixture(scope="session")
def shared_cluster(slurm_installed: None) -> Iterator[DevCluster]:
    """The session's cluster: three nodes with two GPUs each, and accounting."""
    # A test run that is told to stop takes its cluster down first.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with DevCluster.start() as cluster:
            yield cluster
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def slurm_cluster(
    shared_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DevCluster]:
    """The session's cluster with all its nodes up, to which the test's own process speaks.

    Whatever the test did to the cluster is undone after it: jobs are cancelled, daemons started.
    """
    for name, value in shared_cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield shared_cluster
    restore(shared_cluster)


@pytest.fixture
def slurm_rules(slurm_cluster: DevCluster) -> Iterator[Rules]:
    """A function that gives the cluster other values in slurm.conf until the end of the test."""
    before = slurm_cluster.conf_path.read_text(encoding="utf-8")

    def change(**rules: object) -> None:
        text = slurm_cluster.conf_path.read_text(encoding="utf-8")
        for key, value in rules.items():
            text, n_changed = re.subn(rf"\b{key}=\S+", f"{key}={value}", text)
            text += "" if n_changed else f"{key}={value}\n"
        apply(text)

    def apply(text: str) -> None:
        # Slurm forgets ids of array elements that it has forgotten; accounting would mix them up.
        text = re.sub("^FirstJobId=.*\n", "", text, flags=re.MULTILINE)
        text += f"FirstJobId={1000 * next(_THOUSANDS)}\n"
        fixed = _FIXED.findall(slurm_cluster.conf_path.read_text(encoding="utf-8"))
        slurm_cluster.conf_path.write_text(text, encoding="utf-8")
        if _FIXED.findall(text) == fixed:
            slurm_cluster.run(["scontrol", "reconfigure"])
        else:
            slurm_cluster.stop_controller()
            slurm_cluster.start_controller()

    yield change
    apply(before)


@pytest.fixture
def without_accounting(slurm_cluster: DevCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the test's own process, and what it starts, ``sacct`` fails as where there is none."""
    text = slurm_cluster.conf_path.read_text(encoding="utf-8")
    conf_path = slurm_cluster.folder / "without-accounting.conf"
    conf_path.write_text(
        re.sub("^AccountingStorage.*\n", "", text, flags=re.MULTILINE), encoding="utf-8"
    )
    monkeypatch.setenv("SLURM_CONF", str(conf_path))


def restore(cluster: DevCluster) -> None:
    """Start what a test has ended, cancel what it left in the queue, wait until all is idle."""
    if "slurmctld" not in cluster.daemons():
        cluster.start_controller()
    for node in cluster.shape.nodes:
        if cluster.node_process_id(node) is None:
            cluster.start_node(node)
    cluster.run(["scancel", "--user", str(os.getuid())])
    limit_s = time.monotonic() + 30
    while cluster.run(["squeue", "--noheader"]).stdout:
        assert time.monotonic() < limit_s, cluster.run(["squeue"]).stdout
        time.sleep(0.1)
    cluster.wait_ready()
