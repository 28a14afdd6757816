"""The development cluster: a real Slurm that boots, works, breaks as told, and leaves nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from slurm_cluster import Rules

from slurm.devcluster import ClusterError, ClusterShape, DevCluster, take_down
from slurm.devcluster import cluster as cluster_module
from slurm.devcluster.configuration import Ports

pytestmark = pytest.mark.usefixtures("slurm_installed")

ROOT = Path(__file__).resolve().parents[1]
SMALL = ClusterShape(n_nodes=1, has_accounting=False)


def wait_for(condition: Callable[[], bool], timeout_s: float = 40.0) -> None:
    limit_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < limit_s, f"not so within {timeout_s:.0f} s"
        time.sleep(0.1)


def submit(cluster: DevCluster, script: str, *options: str) -> str:
    return cluster.run(["sbatch", "--parsable", *options, f"--wrap={script}"]).stdout.strip()


def state(cluster: DevCluster, job: str) -> str:
    asked = ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"]
    return cluster.run(asked).stdout.strip()


def processes_of(conf_path: Path) -> list[str]:
    """Command lines of all processes that started with this SLURM_CONF."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_CONF") == str(conf_path):
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def waiting_for(path: Path) -> str:
    """A job script that ends when a file appears."""
    return f"while [ ! -e {path} ]; do sleep 0.1; done"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "slurm.devcluster", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A path short enough for Unix sockets, at which nothing is yet."""
    with tempfile.TemporaryDirectory(prefix="dc-") as parent:
        folder = Path(parent).resolve() / "c"
        yield folder
        take_down(folder)


# A cluster that works


def test_boots_with_the_nodes_and_gpus_asked_for(slurm_cluster: DevCluster) -> None:
    print(f"ready after {slurm_cluster.boot_s:.1f} s")
    shown = slurm_cluster.run(["sinfo", "-hN", "--partition=main", "--format=%N %c %m %G"])
    assert shown.stdout.splitlines() == [f"{node} 4 16000 gpu:2" for node in ("n1", "n2", "n3")]
    assert "20001" in slurm_cluster.run(["scontrol", "show", "config"]).stdout


def test_a_job_sees_the_gpus_it_got_and_is_remembered(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    output = tmp_path / "job.out"
    script = "echo $CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME"
    job = submit(slurm_cluster, script, "--gres=gpu:2", "--nodelist=n2", f"--output={output}")

    def accounted() -> str:
        asked = ["sacct", "-XnP", f"--jobs={job}", "--format=State,AllocTRES"]
        return slurm_cluster.run(asked).stdout

    wait_for(lambda: accounted().startswith("COMPLETED"))
    assert "gres/gpu=2" in accounted()
    assert output.read_text() == "0,1 on n2\n"


def test_the_tests_own_process_speaks_to_the_cluster(slurm_cluster: DevCluster) -> None:
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True)
    assert str(slurm_cluster.conf_path) in shown.stdout


@pytest.fixture(scope="module")
def small_cluster(slurm_installed: None) -> Iterator[DevCluster]:
    with DevCluster.start(SMALL) as cluster:
        yield cluster


def test_without_accounting_the_queue_remembers(small_cluster: DevCluster, tmp_path: Path) -> None:
    job = submit(small_cluster, "exit 3", f"--output={tmp_path}/out")
    wait_for(lambda: state(small_cluster, job) == "FAILED")
    assert small_cluster.run(["sacct"], check=False).returncode != 0


def test_two_clusters_side_by_side_do_not_see_each_other(
    slurm_cluster: DevCluster, small_cluster: DevCluster
) -> None:
    job = submit(slurm_cluster, "sleep 60", "--output=/dev/null")
    wait_for(lambda: state(slurm_cluster, job) == "RUNNING")
    assert small_cluster.run(["squeue", "-h"]).stdout == ""
    assert slurm_cluster.folder != small_cluster.folder


# A cluster that breaks as told


@pytest.mark.slow
def test_a_killed_node_loses_its_job_which_runs_again(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    first = tmp_path / "pid"
    script = f'if [ -z "$SLURM_RESTART_COUNT" ]; then echo $$ > {first}; sleep 100; fi'
    job = submit(slurm_cluster, script, "--nodelist=n1", "--output=/dev/null")
    wait_for(first.exists)

    slurm_cluster.kill_node("n1")
    assert slurm_cluster.node_process_id("n1") is None
    assert not is_alive(int(first.read_text()))
    wait_for(lambda: slurm_cluster.nodes()["n1"].startswith("down"))
    assert slurm_cluster.nodes()["n2"] == "idle"

    slurm_cluster.start_node("n1")
    slurm_cluster.wait_ready()
    wait_for(lambda: state(slurm_cluster, job) == "COMPLETED")


def test_a_job_outlives_a_slurmd_that_is_soon_back(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    job = submit(slurm_cluster, waiting_for(tmp_path / "go"), "--nodelist=n1", "--output=/dev/null")
    wait_for(lambda: state(slurm_cluster, job) == "RUNNING")
    slurm_cluster.kill_node("n1", with_jobs=False)
    slurm_cluster.start_node("n1")
    (tmp_path / "go").touch()
    wait_for(lambda: state(slurm_cluster, job) == "COMPLETED")


def test_a_job_outlives_the_controller(slurm_cluster: DevCluster, tmp_path: Path) -> None:
    job = submit(slurm_cluster, waiting_for(tmp_path / "go"), "--output=/dev/null")
    wait_for(lambda: state(slurm_cluster, job) == "RUNNING")
    slurm_cluster.stop_controller()
    assert slurm_cluster.run(["scontrol", "ping"], check=False).returncode != 0
    with pytest.raises(ClusterError, match="slurmctld has ended"):
        slurm_cluster.wait_ready()
    slurm_cluster.start_controller()
    (tmp_path / "go").touch()
    wait_for(lambda: state(slurm_cluster, job) == "COMPLETED")


def test_a_job_over_its_memory_is_killed(slurm_cluster: DevCluster, tmp_path: Path) -> None:
    output = tmp_path / "job.out"
    code = "import time; kept = bytearray(300 << 20); time.sleep(60)"
    job = submit(slurm_cluster, f"{sys.executable} -c '{code}'", "--mem=50", f"--output={output}")
    wait_for(lambda: state(slurm_cluster, job) == "FAILED")
    assert "memory limit" in output.read_text()


@pytest.mark.slow
def test_a_job_of_main_gives_way_to_high_after_a_warning_and_starts_again(
    slurm_cluster: DevCluster, slurm_rules: Rules, tmp_path: Path
) -> None:
    slurm_rules(GraceTime=3)
    low_output, high_output = tmp_path / "low.out", tmp_path / "high.out"
    script = "trap 'echo warned' USR2; echo start $SLURM_RESTART_COUNT; sleep 40 & wait; wait"
    whole_node = ("--nodelist=n1", "--exclusive")
    low = submit(
        slurm_cluster, script, *whole_node, "--signal=B:USR2@60", f"--output={low_output}",
        "--open-mode=append",
    )  # fmt: skip
    wait_for(low_output.exists)
    high = submit(
        slurm_cluster, "echo start", "--partition=high", *whole_node, f"--output={high_output}"
    )
    wait_for(lambda: state(slurm_cluster, high) == "COMPLETED")
    wait_for(lambda: state(slurm_cluster, low) == "RUNNING")
    assert low_output.read_text().startswith("start\nwarned\n")
    wait_for(lambda: "start 1" in low_output.read_text())


# A cluster that goes


def test_down_leaves_nothing_but_programs_that_only_use_the_cluster(tmp_path: Path) -> None:
    with DevCluster.start(SMALL) as cluster:
        ids = tmp_path / "pids"
        script = f"setsid sleep 1000 & env -i sleep 1000 & echo $! > {ids}; srun sleep 1000"
        submit(cluster, script, "--output=/dev/null")
        wait_for(lambda: any(line == "sleep 1000" for line in processes_of(cluster.conf_path)))
        without_environment = int(ids.read_text())
        user = subprocess.Popen(["sleep", "100"], env={**os.environ, **cluster.environment})
    try:
        assert user.poll() is None
    finally:
        user.kill()
        user.wait()
    assert processes_of(cluster.conf_path) == []
    assert not is_alive(without_environment)
    assert not cluster.folder.exists()
    cluster.stop()


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["mariadb-install-db", "slurmctld"])
def test_down_after_a_killed_boot(short_folder: Path, moment: str) -> None:
    boot = subprocess.Popen(
        [sys.executable, "-m", "slurm.devcluster", "up", "--dir", short_folder],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for((short_folder / "daemons" / f"{moment}.json").exists)
    boot.kill()
    boot.wait()
    assert processes_of(short_folder / "slurm.conf")

    for _ in range(2):
        done = command("down", str(short_folder))
        assert done.returncode == 0, done.stderr
    assert processes_of(short_folder / "slurm.conf") == []
    assert not short_folder.exists()


@pytest.mark.parametrize(
    "changes",
    [{}, {"started_s": 1.0}, {"started_s": "x"}, *({"pid": pid} for pid in (-1, 0, "1", 2**70))],
)
def test_down_kills_no_process_that_only_a_record_names(
    short_folder: Path, changes: dict[str, object]
) -> None:
    with subprocess.Popen(["sleep", "100"]) as other:
        wait_for(lambda: bool(psutil.Process(other.pid).environ()))  # it has begun
        (short_folder / "daemons").mkdir(parents=True)
        (short_folder / "cluster.json").write_text("{}")
        started_s = psutil.Process(other.pid).create_time()
        record = {"pid": other.pid, "started_s": started_s, **changes}
        (short_folder / "daemons" / "slurmctld.json").write_text(json.dumps(record))
        take_down(short_folder)
        assert other.poll() is None
        other.kill()


# A cluster that does not start


def test_a_daemon_that_fails_says_why_and_nothing_is_left(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        ports = Ports(controller=taken.getsockname()[1], accounting=1, nodes=(2,))
        monkeypatch.setattr(cluster_module, "free_ports", lambda n_nodes: ports)
        with pytest.raises(ClusterError, match=r"slurmctld has ended:\n(?s:.*)Address already in"):
            DevCluster.start(SMALL, short_folder)
    assert processes_of(short_folder / "slurm.conf") == []
    assert not short_folder.exists()


def test_folders_of_something_else_are_left_alone(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="dc-") as folder:
        kept = Path(folder) / "thesis.tex"
        kept.touch()
        with pytest.raises(ClusterError, match="is not empty"):
            DevCluster.start(SMALL, folder)
        with pytest.raises(ClusterError, match="holds no development cluster"):
            take_down(folder)
        assert kept.exists()
    with pytest.raises(ClusterError, match="bytes too long for Unix sockets"):
        DevCluster.start(SMALL, tmp_path / ("x" * 100))


# From the command line


def test_up_status_down(short_folder: Path) -> None:
    up = command("up", "--nodes", "2", "--no-accounting", "--dir", str(short_folder))
    assert up.stdout == f"export SLURM_CONF={short_folder}/slurm.conf\n", up.stderr
    status = command("status", str(short_folder))
    assert status.returncode == 0
    assert {"n1 idle", "n2 idle"} <= {" ".join(line.split()) for line in status.stdout.splitlines()}
    DevCluster.open(short_folder).kill_node("n2")
    status = command("status", str(short_folder))
    assert status.returncode == 1
    assert "does not run" in status.stdout
    again = command("up", "--no-accounting", "--dir", str(short_folder))
    assert again.returncode == 1
    assert f"down {short_folder}" in again.stderr
    assert command("down", str(short_folder)).returncode == 0
    assert command("status", str(short_folder)).returncode == 1


def test_run_gives_the_commands_exit_status_and_takes_the_cluster_down() -> None:
    script = "echo $SLURM_CONF; sinfo --noheader --format=%D; exit 3"
    done = command("run", "--nodes", "2", "--no-accounting", "--", "bash", "-c", script)
    assert done.returncode == 3, done.stderr
    conf, *counts = done.stdout.split()
    assert counts == ["2"]
    assert not Path(conf).exists()


def test_a_boot_that_is_told_to_stop_leaves_nothing(short_folder: Path) -> None:
    boot = subprocess.Popen(
        [sys.executable, "-m", "slurm.devcluster", "run", "--dir", short_folder, "--", "true"],
        cwd=ROOT,
    )
    wait_for((short_folder / "daemons" / "mariadb-install-db.json").exists)
    boot.send_signal(signal.SIGTERM)
    assert boot.wait(20) == 128 + signal.SIGTERM
    assert processes_of(short_folder / "slurm.conf") == []
    assert not short_folder.exists()
