"""Nothing but saying where it runs: what a job costs beside its work."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import toolkit
from jobs.session import Session
from toolkit.cluster.run_folder import scheduler_job, write_text
from toolkit.task import Task


def say_where(task: Task, session: Session, _: Callable[[int, int], None]) -> None:
    """Run one probe task and publish :func:`where_it_runs`."""
    report = {"task_id": task.id, **where_it_runs()}
    write_text(session.run.result_path(task.id), json.dumps(report))


def where_it_runs() -> dict[str, Any]:
    """Host, process, job of the scheduler (empty without one), and what runs the code."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "job": scheduler_job(),
        "python": sys.executable,
        "versions": {"python": platform.python_version(), "toolkit": toolkit.__version__},
        "created": datetime.now(UTC).isoformat(),
    }
