"""What a scheduler's signals mean to a job: nothing at once, a flag that the work looks at."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType

# Slurm warns with USR2, as asked by --signal. CONT and TERM end a job that it has decided about,
# such as one that somebody cancelled: it is not for the job to come back then.
_SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGCONT)


class JobEndingError(RuntimeError):
    """The scheduler has announced the end of the job; what is published stays published.

    Parameters
    ----------
    message
        What it sent.
    is_time_limit
        Whether the job's own time limit is near; otherwise somebody else needs its place.
    """

    def __init__(self, message: str, *, is_time_limit: bool = False) -> None:
        super().__init__(message)
        self.error_class = "timeout" if is_time_limit else "interrupted"


class Interruption:
    """A flag that signals set; the handler does nothing else, so that no code is torn apart.

    Parameters
    ----------
    time_limit_s
        A warning so long after this, seconds, is that of the job's time limit.
    """

    def __init__(self, time_limit_s: float = math.inf) -> None:
        self._event = threading.Event()
        self._time_limit_s = time.monotonic() + time_limit_s
        self._is_time_limit = False
        self.signal_name = ""

    def listen(self) -> None:
        """Have the scheduler's signals set the flag, from now on; in the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._set)

    def _set(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCONT:
            self._is_time_limit = time.monotonic() >= self._time_limit_s
            self.signal_name = signal.Signals(number).name
            self._event.set()

    @property
    def is_warning(self) -> bool:
        """Whether the job may ask to be continued."""
        return self.signal_name == signal.SIGUSR2.name

    @property
    def is_set(self) -> bool:
        """Whether the end of the job has been announced."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise :class:`JobEndingError` if the end of the job has been announced."""
        if self.is_set:
            raise JobEndingError(
                f"the scheduler sent {self.signal_name}", is_time_limit=self._is_time_limit
            )
