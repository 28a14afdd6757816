"""Seconds and peak memory of one task."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import psutil

_log = logging.getLogger("toolkit")


class Meter:
    """Seconds and peak memory of one task, from its construction on.

    The peak is the kernel's high-water mark of resident memory, set back at the start where the
    kernel allows it; otherwise it is the process's peak so far.
    """

    def __init__(self) -> None:
        self._started = time.perf_counter()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            _log.debug("the peak of resident memory cannot be set back here")

    def seconds(self) -> float:
        """Wall time so far."""
        return time.perf_counter() - self._started

    def peak_memory_bytes(self) -> int:
        """Largest resident memory so far."""
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        except (OSError, StopIteration):
            return int(psutil.Process().memory_info().rss)
