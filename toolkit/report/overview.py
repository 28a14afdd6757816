"""A run in words: the answer, what was run, and what is missing."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from toolkit.cluster.run_folder import RunFolder
from toolkit.report.study import Study

_MOST_ANSWERS = 6
_MOST_NAMES = 40


def answers(study: Study) -> Iterator[str]:
    """The best network of each setting, as HTML."""
    if study.best.empty:
        yield "No scores yet."
        return
    best = study.best.assign(predicts=study.best["r_mean"].notna())
    first = best.drop_duplicates(["setting", "predicts"])
    for _, row in first[:_MOST_ANSWERS].iterrows():
        where = _escaped(row, "setting") or _escaped(row, "readout")
        yield f"{where}: <b>{_escaped(row, 'network')}</b>, {_scores(row)}"
    if len(first) > _MOST_ANSWERS:
        yield f"and {len(first) - _MOST_ANSWERS} more settings"


def failure_counts(unfinished: pd.DataFrame) -> str:
    """``3 failed (2 out_of_memory, 1 bad_data), 4 pending``."""
    parts = []
    for status, tasks in unfinished.groupby("status", sort=True):
        classes = tasks.loc[tasks["status"] != "blocked", "error_class"].value_counts()
        why = ", ".join(f"{n} {name}" for name, n in classes.items())
        parts.append(f"{len(tasks)} {status}" + (f" ({why})" if why else ""))
    return ", ".join(parts) + "."


def run_facts(study: Study, run: str) -> dict[str, str]:
    """What was run, when, where and with what, by name."""
    results = study.results[study.results["run"] == run]
    done = results[results["status"] == "done"]
    folder = RunFolder(study.runs[run])
    facts = {
        "folder": str(study.runs[run]),
        "data sets": _datasets(results),
        "networks": _listed(results["network"]),
        "read-outs": _listed(results["readout"]),
        "features": _listed(results["features"]),
        "trainings": _listed(results["training"]),
        "protocol": _protocols(folder),
        "results": f"{len(done):,} of {len(results):,}, {results['layer'].nunique():,} layer names",
        "when": _period(done["created"]),
        "where": _where(study.tasks[study.tasks["run"] == run], done, folder),
        "config": _listed(done["config_hash"].str[:12]),
        "code": _git_states(done["git_sha"]),
        "versions": _versions(done["versions"]),
    }
    return {name: text for name, text in facts.items() if text}


def _escaped(row: pd.Series, column: str) -> str:
    return html.escape(str(row[column]))


def _scores(row: pd.Series) -> str:
    where = f"{_escaped(row, 'layer')}: " if row["layer"] else ""
    if math.isnan(row["r_mean"]):
        return f"{where}similarity <b>{row['similarity']:.3f}</b>"
    has_interval, has_ceiling = row[["r_mean_low", "ceiling_median"]].notna()
    interval = f" (95 % interval {row['r_mean_low']:.3f} to {row['r_mean_high']:.3f})"
    r = f"r = <b>{row['r_mean']:.3f}</b>{interval if has_interval else ''}"
    ceiling = f"ceiling {row['ceiling_median']:.3f}" if has_ceiling else "no ceiling"
    return f"{where}{r}, EV {row['ev_mean']:.3f}; {ceiling}"


def _listed(values: pd.Series) -> str:
    distinct = [str(value) for value in values.dropna().unique() if value != ""]
    more = f" and {len(distinct) - _MOST_NAMES} more" if len(distinct) > _MOST_NAMES else ""
    count = f"{len(distinct)}: " if len(distinct) > 3 else ""
    return count + ", ".join(distinct[:_MOST_NAMES]) + more


def _datasets(results: pd.DataFrame) -> str:
    described = []
    for (name, region), rows in results.groupby(["dataset", "region"], sort=False, dropna=False):
        sizes = rows.loc[rows["r_mean"].notna(), ["n_neurons", "n_train", "n_test"]].max()
        text = f"{name}, {region}" if region else str(name)
        if sizes.notna().all():
            text += (
                f" ({sizes['n_neurons']:.0f} neurons, {sizes['n_train']:.0f} images to train on, "
                f"{sizes['n_test']:.0f} to test)"
            )
        described.append(text)
    return "; ".join(described)


def _protocols(folder: RunFolder) -> str:
    tasks = folder.tasks() if folder.plan_path.is_file() else []
    found = {
        _as_words(task.params["protocol"]): None for task in tasks if "protocol" in task.params
    }
    return "; ".join(found)


def _as_words(settings: dict[str, Any]) -> str:
    rest = ", ".join(f"{key} {value}" for key, value in settings.items() if key != "kind")
    return f"{settings.get('kind', '')}: {rest}" if rest else str(settings.get("kind", ""))


def _period(created: pd.Series) -> str:
    if created.empty:
        return ""
    first, last = (f"{time:%Y-%m-%d %H:%M}" for time in (created.min(), created.max()))
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _where(tasks: pd.DataFrame, done: pd.DataFrame, folder: RunFolder) -> str:
    parts = []
    if folder.plan_path.is_file():
        parts.append(f"executor {folder.read_summary().get('executor', {}).get('kind', 'unknown')}")
    for what, devices in (("extraction", tasks["device"]), ("read-outs", done["device"])):
        listed = _listed(devices.dropna())
        parts += [f"{what} on {listed}"] if listed else []
    return "; ".join(parts)


def _git_states(shas: pd.Series) -> str:
    states = []
    for sha in shas.fillna("").unique():
        commit, _, dirty = sha.partition("-")
        states.append(
            f"{commit[:12]}{' with uncommitted changes' if dirty else ''}"
            if commit
            else "no git checkout"
        )
    return ", ".join(states)


def _versions(versions: pd.Series) -> str:
    states = []
    for text in versions.dropna().unique():
        states.append(", ".join(f"{name} {v}" for name, v in json.loads(text).items()))
    return "; or ".join(states)
