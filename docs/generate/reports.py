"""What the reports published, which config repeats it, and what came out here.

    python -m docs.generate.reports RUN...     enter the values of finished runs

``published.yaml`` says what was published, ``measured.csv`` what was measured, docs/reports.md
shows both. Only runs of an unchanged config on the report's own data set are entered.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from docs.generate.markdown import code, notice, table
from docs.generate.published import METRICS, Line, Metric, ReportError, Row, data_set_facts, lines
from toolkit.atomic import atomic_path
from toolkit.catalog import Catalog
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.config import load_config
from toolkit.plan import Plan, make_plan
from toolkit.results import ResultError, Tables, load
from toolkit.task import Task, TaskState, json_digest
from toolkit.terminal import run_command
from toolkit.yaml_source import ConfigError

HERE = Path(__file__).parent
MEASURED = HERE / "measured.csv"
PAGE = HERE.parent / "reports.md"
CONFIGS = HERE.parents[1] / "configs" / "reports"

COLUMNS = ("line", "metric", "value", "row", "n_neurons", "data_set", "git_sha", "date")
"""Columns of ``measured.csv``; ``row`` is the network and layer whose value it is."""

_TASK_ID = re.compile(r"\b(?:extract|encode|train)-[0-9a-f]{12}\b")
# Parameters of a task that say which images and responses it reads, and how many tasks share them.
_OF_THE_DATA = ("stimuli", "unscored", "responses", "part")
# Of a data set in a config: where its files are, which decides no result.
_PLACES = ("path", "sessions", "images", "session_table", "label_table")

INTRODUCTION = """\
Five reports predicted neurons from the images that a macaque saw: A, B, C and E on NX-414
(`IT_data.h5`), D on the recordings of Xiao et al. (2024). For each experiment the tables name the
config in `configs/reports/` that repeats it, what was published, and what this project measured
with that config on the same data. The last column is empty where it has not been run on them; – is
where the report gives no value. A config in `shrunk/` is the same in seconds on synthetic data,
for trying out; its scores mean nothing and are never entered.

EV (explained variance), r, R² and MSE (in squared units of the responses) are means over neurons,
as published; D2 gives a median.
"""
HOW_TO_ENTER = """\
## Entering values

```text
python -m toolkit.sweep configs/reports/A1.yaml
python -m docs.generate.reports runs/A1
```

The second command adds the run's values to `docs/generate/measured.csv`, with the commit that made
them, and writes this page anew. It refuses runs on synthetic or other data and runs whose tasks are
not those of the config.
"""


# What was measured


def measure(run_folder: str | Path) -> pd.DataFrame:
    """What a run measured of the lines of its config.

    Lines whose tasks are not all done are left out.

    Returns
    -------
    pandas.DataFrame
        With :data:`COLUMNS`, a row for each line and metric.

    Raises
    ------
    ReportError
        If the run's data are synthetic or not the report's, its config is none of the reports',
        its tasks are not those of the config, or none is done; :class:`SelectionError` if a line
        picks no row.
    toolkit.results.ResultError, toolkit.cluster.run_folder.RunFolderError
        If there is no run, or nobody collected its results.
    """
    run = RunFolder.open(run_folder)
    tables, tasks = load(run.path), run.tasks()
    _refuse_synthetic(run, tasks)
    config = _config_of(run, tables.results)
    plan = plan_of(config, run.catalog_path)
    _refuse_other_data(run, tasks, plan)
    planned, own = set(work_digests(plan.tasks).values()), work_digests(tasks)
    entries: list[dict[str, Any]] = []
    for line in lines():
        if line.config != config or not line.select:
            continue
        found = _rows(line.rows_in(tables.results))
        for row in found:
            if own.get(row["task_id"]) not in planned:
                raise ReportError(
                    f"{run.path}: {row['task_id']} ({line.id}) is no task of "
                    f"configs/reports/{config}.yaml as it is now: its recipe, read-out, weights or "
                    "protocol differ; run the config unchanged"
                )
        if all(row["status"] == TaskState.DONE for row in found):
            entries += _entries(line, found, tables)
    if not entries:
        raise ReportError(f"{run.path}: no line of its config is done yet")
    return pd.DataFrame(entries, columns=list(COLUMNS))


def plan_of(config: str, catalog_path: Path) -> Plan:
    """What a config of the reports plans, with what a run's catalog knows of networks."""
    return make_plan(*load_config(CONFIGS / f"{config}.yaml"), Catalog(catalog_path))


def work_digests(tasks: Sequence[Task]) -> dict[str, str]:
    """Task id → digest of all that decides its result except the data.

    Parameters
    ----------
    tasks
        Parents before children.
    """
    digests: dict[str, str] = {}
    for task in tasks:
        params = {key: value for key, value in task.params.items() if key not in _OF_THE_DATA}
        if "features" in params:
            params["features"] = sorted({digests[parent] for parent in task.inputs})
        if "from" in params:  # in an order of ids, which know the data
            params["from"] = sorted(digests[parent] for parent in params["from"])
        text = _TASK_ID.sub(lambda found: digests[found[0]], json.dumps(params, sort_keys=True))
        digests[task.id] = json_digest([task.kind, text])
    return digests


def _refuse_synthetic(run: RunFolder, tasks: Sequence[Task]) -> None:
    if "synthetic" in {dataset["kind"] for dataset in _datasets_of(tasks)}:
        raise ReportError(f"{run.path}: its neurons are synthetic; no value of theirs is entered")


def _datasets_of(tasks: Sequence[Task]) -> list[dict[str, Any]]:
    return [task.options["dataset"] for task in tasks if "dataset" in task.options]


def _config_of(run: RunFolder, results: pd.DataFrame) -> str:
    known = list(dict.fromkeys(line.config for line in lines()))
    names = set(results["experiment"])
    if len(names) != 1 or not names <= set(known):
        raise ReportError(
            f"{run.path} is of {', '.join(sorted(names))}, which is no config of configs/reports: "
            f"{', '.join(known)}"
        )
    return str(names.pop())


def _refuse_other_data(run: RunFolder, tasks: Sequence[Task], plan: Plan) -> None:
    [wanted] = [_without_places(dataset.loader) for dataset in plan.datasets]
    for dataset in _datasets_of(tasks):
        given = _without_places(dataset)
        if given != wanted:
            keys = [key for key in wanted | given if wanted.get(key) != given.get(key)]
            raise ReportError(
                f"{run.path}: its data set is not that of the report: {', '.join(keys)} of "
                f"{plan.name}'s dataset differ"
            )


def _without_places(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key not in _PLACES}


def _rows(found: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in found.to_dict("records")]


def _entries(line: Line, found: Sequence[Row], tables: Tables) -> list[dict[str, Any]]:
    row = (
        max(found, key=lambda row: np.nan_to_num(row["r_mean"], nan=-np.inf))
        if line.is_best
        else found[0]
    )
    _refuse_other_sizes(line, row)
    values = {name: METRICS[name].of(row, tables) for name in line.metrics}
    missing = [name for name, value in values.items() if pd.isna(value)]
    if missing:
        raise ReportError(f"{row['task_id']} ({line.id}) has no value of {', '.join(missing)}")
    about = {
        "row": f"{row['model']} {row['layer']}".strip(),
        "n_neurons": int(row["n_neurons"]),
        "data_set": row["dataset"],
        "git_sha": row["git_sha"],
        "date": row["created"].date().isoformat(),
    }
    return [
        {
            "line": line.id,
            "metric": name,
            "value": value if isinstance(value, str) else f"{value:.6g}",
            **about,
        }
        for name, value in values.items()
    ]


def _refuse_other_sizes(line: Line, row: Row) -> None:
    expected = data_set_facts(row["dataset"])
    regions = set(str(row["region"]).split("+"))
    if regions != set(expected["regions"]):
        raise ReportError(
            f"{row['task_id']} ({line.id}): its neurons are of {', '.join(sorted(regions))}, those "
            f"of the report of {', '.join(expected['regions'])}"
        )
    for column in ("n_neurons", "n_test"):
        if column in expected and row[column] != int(expected[column]):
            raise ReportError(
                f"{row['task_id']} ({line.id}): its {column} is {row[column]:.0f}, that of the "
                f"report {expected[column]}; it is not the same data set"
            )


def read_measured(path: Path) -> pd.DataFrame:
    """The table of measured values, each as it is written."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def enter(entries: pd.DataFrame, path: Path) -> None:
    """Add measured values to the table, in the order of the lines; newer ones replace older."""
    all_entries = pd.concat([read_measured(path), entries.astype(str)])
    latest = all_entries.drop_duplicates(["line", "metric"], keep="last")
    order = {line.id: number for number, line in enumerate(lines())}
    latest = latest.sort_values("line", key=lambda ids: ids.map(order), kind="stable")
    with atomic_path(path) as temporary:
        latest.to_csv(temporary, index=False, lineterminator="\n")


# The page


def page(measured: Path = MEASURED) -> str:
    """docs/reports.md."""
    entries = dict(iter(read_measured(measured).groupby("line")))
    n_measured = sum(line.id in entries for line in lines())
    n_lines = sum(bool(line.select) for line in lines())
    parts = [
        notice("docs/generate/published.yaml"),
        "# Against the literature",
        INTRODUCTION.rstrip(),
        f"Measured here so far: {n_measured} of {n_lines} lines.",
    ]
    for report, own in groupby(lines(), key=lambda line: line.row[0]):
        headings = ("experiment", "system", "config", "published", "this project")
        parts += [f"## Report {report}", table(headings, _table_rows(list(own), entries))]
    return "\n\n".join([*parts, HOW_TO_ENTER])


def _table_rows(of_report: Sequence[Line], entries: Mapping[Any, pd.DataFrame]) -> list[list[str]]:
    rows = []
    for row, own in groupby(of_report, key=lambda line: line.row):
        first, *others = own
        head = [row, first.system, _configs(first.config)]
        if others:
            rows.append([*head, "", ""])
        for line in (first, *others):
            names = ["", line.name, ""] if others else head
            rows.append([*names, _published_cell(line), _measured_cell(line, entries)])
    return rows


def _configs(config: str) -> str:
    shrunk = CONFIGS / "shrunk" / f"{config}.yaml"
    names = [f"{config}.yaml", *([f"shrunk/{shrunk.name}"] if shrunk.is_file() else [])]
    return ", ".join(map(code, names))


def _published_cell(line: Line) -> str:
    if isinstance(line.published, str):
        return line.published
    return ", ".join(_value(METRICS[name], text) for name, text in line.published.items())


def _measured_cell(line: Line, entries: Mapping[Any, pd.DataFrame]) -> str:
    if line.id not in entries:
        return ""
    of_line = entries[line.id]
    values = dict(zip(of_line["metric"], of_line["value"], strict=True))
    cell = ", ".join(
        _value(METRICS[name], _written_like(like, values[name]))
        for name, like in line.metrics.items()
        if name in values
    )
    return f"{cell} ({of_line['row'].iloc[0]})" if line.is_best else cell


def _value(metric: Metric, text: str) -> str:
    return f"{metric.heading} {text.replace('-', '−')}".strip()


def _written_like(example: str, value: str) -> str:
    """A measured value in the digits and unit of a published one; text as it is."""
    number, _, unit = example.partition(" ")
    if not re.fullmatch(r"-?[\d.]+", number):
        return value
    n_digits = len(number.partition(".")[2])
    scaled = float(value) * (100 if unit == "%" else 1)
    return f"{scaled:.{n_digits}f} {unit}".strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Enter the values of runs and write the page; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m docs.generate.reports", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run")
    options = parser.parse_args(arguments)
    try:
        entries = pd.concat([measure(run) for run in options.runs])
    except (ReportError, ResultError, RunFolderError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 2
    enter(entries, MEASURED)
    PAGE.write_text(page(MEASURED), encoding="utf-8")
    print(entries[["line", "metric", "value", "row"]].to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
