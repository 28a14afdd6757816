"""A run, or several side by side, as a page that people look at: ``report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.verbs import slurm


def report(options: argparse.Namespace, console: Console) -> int:
    """Write the page, and the figures if they are asked for."""
    from toolkit import report as reports
    from toolkit import results

    folders = [RunFolder.open(path) for path in options.runs]
    for folder in folders:
        slurm.settle_now(folder)
        results.collect_run(folder)
    out = Path(options.out) if options.out else None
    try:
        written = reports.main([folder.path for folder in folders], out, options.figures)
    except (reports.ReportError, results.ResultError) as error:
        raise RunFolderError(str(error)) from error
    for path in written:
        console.print(str(path), soft_wrap=True)
    return 0
