"""Looks after a run on Slurm once: ``python -m jobs.keeper RUN``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from toolkit.cluster.commands import SlurmCommandError
from toolkit.cluster.dispatch import SlurmSettings, TakenOverError, advance
from toolkit.cluster.failure_log import utc_now
from toolkit.cluster.keeper import dismiss_keeper, submit_keeper
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.submission import SubmissionError
from toolkit.results import collect_run
from toolkit.terminal import run_command

_PATIENCE_S = 60.0


def main(arguments: Sequence[str]) -> int:
    """Settle, submit, and come back later if that is not the end; then collect.

    Where Slurm does not answer, or refuses, it is asked again until this job's time is over. A run
    that was taken over by another executor is left alone.
    """
    run = RunFolder.open(arguments[0])
    while True:
        try:
            if _look_after(run):
                return 0
            break
        except TakenOverError as error:
            print(f"{utc_now()} {error}", flush=True)
            dismiss_keeper(run)
            return 0
        except (SlurmCommandError, SubmissionError, RunFolderError) as error:
            print(f"{utc_now()} {error}", flush=True)
            time.sleep(_PATIENCE_S)
    dismiss_keeper(run)
    collect_run(run)
    return 0


def _look_after(run: RunFolder) -> bool:
    """One step; whether another keeper comes back for more."""
    settings = SlurmSettings.of_run(run)
    standing = advance(run, settings)
    print(f"{utc_now()} {standing.n_submitted} tasks submitted, {standing.n_queued} in the queue")
    if standing.is_over:
        return False
    submit_keeper(run, settings)
    return True


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
