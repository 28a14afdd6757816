"""Sweeps of trainings in the way people run them, and their tables."""

from __future__ import annotations

from pathlib import Path

import commands
import pandas as pd

from toolkit import results
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder
from toolkit.config import load_config
from toolkit.plan import Plan, make_plan


def plan_of(folder: Path, text: str, *overrides: str) -> Plan:
    """The plan of a config."""
    path = folder / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    config, source = load_config(path, overrides)
    return make_plan(config, source, Catalog(folder / "catalog.json"))


def start(config: Path, run: Path, *words: str) -> commands.Command:
    """The sweep in a process of its own, of one thread."""
    return commands.start(config, "--out", run, *words, OMP_NUM_THREADS="1")


def sweep(config: Path, run: Path, *words: str, expect: int = 0) -> str:
    """Run the sweep to its end, and give what it said."""
    return commands.sweep(config, "--out", run, *words, expect=expect, OMP_NUM_THREADS="1")


def collected(folder: Path) -> pd.DataFrame:
    """The rows of all read-outs and trainings."""
    _, rows = results.collect_run(RunFolder(folder))
    return rows
