"""What a scheduler's signals mean to a job: nothing at once, a flag that the work looks at."""

from __future__ import annotations

import signal
import threading
from types import FrameType

# Slurm warns with USR2 (asked for by --signal) and ends a preempted job with CONT and TERM.
_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


class JobEndingError(RuntimeError):
    """The scheduler has announced the end of the job; what is published stays published."""

    error_class = "interrupted"


class Interruption:
    """A flag that signals set; the handler does nothing else, so that no code is torn apart."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.signal_name = ""

    def listen(self) -> None:
        """Have the scheduler's signals set the flag, from now on; in the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._set)

    def _set(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCONT:
            self.signal_name = signal.Signals(number).name
            self._event.set()

    @property
    def is_set(self) -> bool:
        """Whether the end of the job has been announced."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise :class:`JobEndingError` if the end of the job has been announced."""
        if self.is_set:
            raise JobEndingError(f"the scheduler sent {self.signal_name}")
