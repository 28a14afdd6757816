"""Looks after a run on Slurm once: ``python -m jobs.keeper RUN``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from toolkit.cluster.commands import SlurmCommandError
from toolkit.cluster.dispatch import SlurmSettings, advance
from toolkit.cluster.failure_log import utc_now
from toolkit.cluster.keeper import submit_keeper
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.cluster.submission import SubmissionError


def main(arguments: Sequence[str]) -> int:
    """Settle, submit, and come back later if that is not the end; then collect."""
    run = RunFolder.open(arguments[0])
    settings = SlurmSettings.of_run(run)
    try:
        standing = advance(run, settings)
    except (SlurmCommandError, SubmissionError, RunFolderError) as error:
        print(f"{utc_now()} {error}", flush=True)
        submit_keeper(run, settings)
        return 0
    print(f"{utc_now()} {standing.n_submitted} tasks submitted, {standing.n_queued} in the queue")
    if not standing.is_over:
        submit_keeper(run, settings)
        return 0
    from toolkit.results import collect_run

    collect_run(run)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
