"""What went wrong with a task, from three witnesses: its own record, the scheduler, the log."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path

from toolkit.cluster.run_folder import Attempt
from toolkit.cluster.scheduler_output import SchedulerView

# The first line that a job prints, each time it is started; see :func:`last_words`.
START_LINE = "=== start"
_TAIL_BYTES = 16_384


class FailureClass(StrEnum):
    """Kinds of failure that are treated differently."""

    OUT_OF_MEMORY = "out_of_memory"
    CUDA_OUT_OF_MEMORY = "cuda_out_of_memory"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAILURE = "node_failure"
    NOT_STARTED = "not_started"
    IMPORT_ERROR = "import_error"
    BAD_DATA = "bad_data"
    DIVERGED = "diverged"
    DAMAGED_FEATURES = "damaged_features"
    DISK_FULL = "disk_full"
    UNAVAILABLE = "weights_unavailable"
    CANCELLED = "cancelled"
    BLOCKED = "blocked"
    UNKNOWN = "unknown"


# Classes of the rooms' own errors that are no class here: the same input gives the same error.
_BY_ERROR_CLASS = {
    "code_changed": FailureClass.IMPORT_ERROR,
    "no_compute": FailureClass.IMPORT_ERROR,
    "download_failed": FailureClass.UNAVAILABLE,
    "wrong_hash": FailureClass.UNAVAILABLE,
    "data_changed": FailureClass.BAD_DATA,
    "decoder_too_large": FailureClass.BAD_DATA,
    "checkpoint_of_another_config": FailureClass.BAD_DATA,
}
# Those that tasks give their errors themselves.
ERROR_CLASSES = (
    *_BY_ERROR_CLASS, "bad_config", "bad_encoding", "bad_features", "bad_layer",
    "bad_metric_input", "bad_model", "bad_protocol", "bad_readout", "bad_recipe", "bad_reduction",
    "bad_report", "bad_responses", "bad_result", "bad_run_folder", "bad_training_data",
    "bad_weights", "feature_storage", "interrupted", "killed", "not_submitted", "process_lost",
    "slurm_command",
)  # fmt: skip
# Said by a process that was told to stop, or by one who found it gone: others know better why.
_SECOND_HAND = {"", "cancelled", "interrupted", "killed", "timeout", "preempted", "unknown"}

_BY_STATE = {
    "OUT_OF_MEMORY": FailureClass.OUT_OF_MEMORY,
    "TIMEOUT": FailureClass.TIMEOUT,
    "DEADLINE": FailureClass.TIMEOUT,
    "PREEMPTED": FailureClass.PREEMPTED,
    "NODE_FAIL": FailureClass.NODE_FAILURE,
    "BOOT_FAIL": FailureClass.NODE_FAILURE,
}
# In the order in which they explain each other: a job over its memory is also "killed".
_BY_LOG = (
    (r"OutOfMemoryError: CUDA|CUDA out of memory|CUDA error: out of memory",
     FailureClass.CUDA_OUT_OF_MEMORY),
    (r"[Ee]xceeded (job )?memory limit|oom[-_]kill|Out [Oo]f [Mm]emory|^MemoryError",
     FailureClass.OUT_OF_MEMORY),
    (r"DUE TO TIME LIMIT", FailureClass.TIMEOUT),
    (r"DUE TO PREEMPTION", FailureClass.PREEMPTED),
    (r"DUE TO NODE FAILURE", FailureClass.NODE_FAILURE),
    (r"^srun: error: (Unable to (confirm allocation|create step)|Task launch for)",
     FailureClass.NOT_STARTED),
    (r"No space left on device|Disk quota exceeded", FailureClass.DISK_FULL),
    (r"^(ModuleNotFoundError|ImportError|\S*CodeChangedError): "
     r"|python\S*: (No module named|Error while finding module)"
     r"|(python\S*|module|conda|apptainer|singularity): command not found|error: execve\(\): ",
     FailureClass.IMPORT_ERROR),
)  # fmt: skip
_PEAK = re.compile(r"exceeded memory limit \((\d+) > \d+\)")


def classify(view: SchedulerView | None, attempt: Attempt | None, log_tail: str) -> FailureClass:
    """Why a task has no result.

    Parameters
    ----------
    view
        What the scheduler said of the element that was to do it, if it knows.
    attempt
        The task's own record of that job, if there is one.
    log_tail
        Its :func:`last_words`, Slurm's own included.

    Returns
    -------
    FailureClass
        What the task itself says counts first, unless it only says that it was told to stop;
        then the scheduler, then the log.
    """
    said = attempt.error_class if attempt is not None else ""
    if says_why(attempt):
        return _of_error_class(said)
    if view is not None and view.is_blocked:
        return FailureClass.BLOCKED
    if view is not None and view.state in _BY_STATE:
        return _BY_STATE[view.state]
    for pattern, failure in _BY_LOG:
        if re.search(pattern, log_tail, re.MULTILINE):
            return failure
    if view is not None and view.state == "CANCELLED":
        return FailureClass.CANCELLED
    if said == "interrupted":
        return FailureClass.PREEMPTED
    return FailureClass(said) if said in set(FailureClass) else FailureClass.UNKNOWN


def says_why(attempt: Attempt | None) -> bool:
    """Whether a task's own record names a reason, not only that it was told to stop."""
    return attempt is not None and attempt.error_class not in _SECOND_HAND


def _of_error_class(name: str) -> FailureClass:
    if name in set(FailureClass):
        return FailureClass(name)
    if name.startswith("bad_"):
        return FailureClass.BAD_DATA
    return _BY_ERROR_CLASS.get(name, FailureClass.UNKNOWN)


def peak_memory_gb(log_tail: str) -> float | None:
    """Most memory that Slurm saw a job use before it killed it for that, GB; None if it did not."""
    peaks = [int(found) for found in _PEAK.findall(log_tail)]
    return max(peaks) / 2**30 if peaks else None


def last_words(log: Path, n_bytes: int = _TAIL_BYTES) -> str:
    """The end of what an element printed since it was started last; empty if it printed nothing.

    Parameters
    ----------
    log
        Its file, to which each start appends.
    n_bytes
        How much to read at most.
    """
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - n_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.rpartition(START_LINE)[2]
