"""Fixtures of tests that need a real Slurm; conftest.py gives them to all.

A cluster is booted when the first test asks for its shape, shared by the tests of a session, and
taken down at the end.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from slurm.devcluster import ClusterShape, DevCluster, missing_programs

ClusterOfShape = Callable[[ClusterShape], DevCluster]


@pytest.fixture(scope="session")
def slurm_installed() -> None:
    """Skip where a cluster's programs are not installed."""
    if missing := missing_programs():
        pytest.skip(f"Slurm's programs are not installed here: {', '.join(missing)}")


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


@pytest.fixture(scope="session")
def slurm_clusters(slurm_installed: None) -> Iterator[ClusterOfShape]:
    """A function that gives the session's cluster of a shape, with all its nodes up."""
    clusters: dict[ClusterShape, DevCluster] = {}

    def cluster_of(shape: ClusterShape) -> DevCluster:
        if shape not in clusters:
            clusters[shape] = DevCluster.start(shape)
        return clusters[shape]

    # A test run that is told to stop takes its clusters down first.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield cluster_of
    finally:
        signal.signal(signal.SIGTERM, before)
        for cluster in clusters.values():
            cluster.stop()


@pytest.fixture
def use_cluster(
    slurm_clusters: ClusterOfShape, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClusterOfShape]:
    """Like ``slurm_clusters``; the test's own process speaks to the cluster that it asked for last.

    Whatever the test did to the cluster is undone after it: jobs are cancelled, daemons started.
    """
    used: list[DevCluster] = []

    def cluster_of(shape: ClusterShape) -> DevCluster:
        cluster = slurm_clusters(shape)
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        used.append(cluster)
        return cluster

    yield cluster_of
    for cluster in used:
        restore(cluster)


@pytest.fixture
def slurm_cluster(use_cluster: ClusterOfShape) -> DevCluster:
    """The cluster of the default shape: three nodes with two GPUs each, and accounting."""
    return use_cluster(ClusterShape())


@pytest.fixture
def slurm_cluster_without_accounting(use_cluster: ClusterOfShape) -> DevCluster:
    """The same without slurmdbd: ``sacct`` fails."""
    return use_cluster(ClusterShape(has_accounting=False))
