"""A job whose end is announced stops between two row blocks, and the next one goes on there."""

import os
import signal
import time
from pathlib import Path

import pytest
from commands import ROOT, Command, python

from jobs.interruption import Interruption, JobEndingError
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.features.store import FeatureStore
from toolkit.plan import make_plan
from toolkit.task import TaskState

CONFIG = """\
name: synthetic-interrupted
dataset: {kind: synthetic, n_train: 300, n_val: 20, n_neuroids: 5, image_px: 32}
models: [{library: timm, names: test_vit, layers: [blocks.2, blocks.5]}]
readouts: [{kind: cka}]
"""
JOB = """\
import sys
from jobs.interruption import Interruption
from jobs.run import run_tasks
interruption = Interruption()
interruption.listen()
run_tasks(sys.argv[1], sys.argv[2:], 1, interruption)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    (tmp_path / "sweep.yaml").write_text(CONFIG, encoding="utf-8")
    config, source = load_config(tmp_path / "sweep.yaml")
    run = RunFolder(tmp_path / "run")
    run.create()
    run.write_plan(make_plan(config, source, Catalog(tmp_path / "catalog.json")).tasks, {})
    return run


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_warned_job_leaves_a_task_that_continues(run: RunFolder, number: signal.Signals) -> None:
    extract, *children = (task.id for task in run.tasks())
    words = ["-c", JOB, str(run.path), extract, *children]
    job = Command(words, ROOT, dict(os.environ))
    deadline = time.monotonic() + 120
    while not list(run.path.glob("features/*/blocks.2/c.*")):
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    job.send_signal(number)
    output, _ = job.communicate(timeout=60)
    assert f"JobEndingError: the scheduler sent {number.name}" in output
    attempt = run.attempt(extract)
    assert attempt is not None and attempt.state is TaskState.PENDING
    assert attempt.error_class == "interrupted"
    store = FeatureStore.open(run.features_path(extract))
    n_missing = len(store.missing_blocks())
    assert 0 < n_missing < store.n_blocks
    assert not any(run.attempt(child) for child in children)

    python(*words)
    assert all(run.is_done(task_id) for task_id in (extract, *children))
    log = run.log_path(extract).read_text()
    assert "attempt 2" in log
    assert f"{(store.n_blocks - n_missing + 1) * 32} of 320" in log


def test_the_handler_only_sets_a_flag() -> None:
    handlers = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)}
    interruption = Interruption()
    try:
        interruption.listen()
        os.kill(os.getpid(), signal.SIGCONT)
        interruption.check()
        os.kill(os.getpid(), signal.SIGUSR2)
        assert interruption.is_set
        with pytest.raises(JobEndingError, match="SIGUSR2"):
            interruption.check()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
