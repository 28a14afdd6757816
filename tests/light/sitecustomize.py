"""A stand-in for the work of jobs: it counts, and imports no torch.

Python imports a module of this name when it starts. A profile whose ``setup`` puts this folder on
``PYTHONPATH`` gives its jobs these functions in place of ``jobs.extract`` and ``jobs.encode``, so
that a test of scheduling waits for Slurm alone. What a task has counted is kept in the run folder,
and a task that is started again goes on from there. Variables of the job say what happens in it:

``LIGHT_HOLDS``
    The first start of an extraction stops counting halfway, until the file ``go`` is in the run
    folder or the job is told to end.
``LIGHT_MEMORY_MB``
    What an extraction takes; one that got less waits for its end.
``LIGHT_FAILS``
    The network whose features cannot be used.
``LIGHT_IMPORTS``
    The library that extractions of its networks import.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

_STEP = 16  # images
_STEP_S = 0.02
_POLL_S = 0.1

Progress = Callable[[int, int], None]


def extract_features(task: Any, session: Any, progress: Progress) -> None:
    """Count the images, from where the last start has left off."""
    if task.params["library"] == os.environ.get("LIGHT_IMPORTS"):
        importlib.import_module(task.params["library"])
    memory_mb = int(os.environ.get("LIGHT_MEMORY_MB", "0"))
    taken = bytearray(memory_mb << 20)
    while memory_mb > int(os.environ["SLURM_MEM_PER_NODE"]):
        time.sleep(_POLL_S)
    counted = session.run.path / "counted" / task.id
    counted.parent.mkdir(exist_ok=True)
    n_done = int(counted.read_text()) if counted.exists() else 0
    holds = "LIGHT_HOLDS" in os.environ and not n_done
    dataset = task.options["dataset"]
    n_total = dataset["n_train"] + dataset["n_val"]
    began_s = time.monotonic()
    while n_done < n_total:
        if task.params["model"] == os.environ.get("LIGHT_FAILS"):
            from toolkit.features.errors import FeatureError

            raise FeatureError(f"{task.params['model']!r} gave NaN or infinity")
        time.sleep(_STEP_S)
        n_done = min(n_done + _STEP, n_total)
        counted.write_text(str(n_done))
        progress(n_done, n_total)
        while holds and 2 * n_done >= n_total and not (session.run.path / "go").exists():
            time.sleep(_POLL_S)
            progress(n_done, n_total)
    report = {
        "task_id": task.id,
        "label": task.label,
        "n_stimuli": n_total,
        "share": 1.0,
        "seconds": time.monotonic() - began_s,
        "peak_memory_bytes": len(taken),
        "device": "cpu",
        "batch_size": _STEP,
        "git_sha": session.git_sha,
        "versions": session.versions,
    }
    session.run.result_path(task.id).write_text(json.dumps(report))


def encode_layer(task: Any, session: Any, _: Progress) -> None:
    """Publish scores of no neurons."""
    import pandas as pd

    from toolkit import results
    from toolkit.results.columns import SCORE_COLUMNS, SUMMARY_COLUMNS, names

    summary = {
        **dict.fromkeys(names(SUMMARY_COLUMNS)),
        "seconds": 0.0,
        "peak_memory_bytes": 0,
        "device": "cpu",
        "config_hash": task.options["config_hash"],
        "git_sha": session.git_sha,
        "versions": session.versions,
        "created": datetime.now(UTC),
    }
    no_neurons = pd.DataFrame({name: [] for name in names(SCORE_COLUMNS)})
    results.write_scores(session.run.result_path(task.id), no_neurons, summary)


def _module(name: str, work: Callable[..., None]) -> ModuleType:
    module = ModuleType(name)
    setattr(module, work.__name__, work)
    return module


sys.modules["jobs.extract"] = _module("jobs.extract", extract_features)
sys.modules["jobs.encode"] = _module("jobs.encode", encode_layer)
