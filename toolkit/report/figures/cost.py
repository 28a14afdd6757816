"""What each network cost: seconds of the devices that computed it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from toolkit.cluster.run_folder import RunFolder
from toolkit.report.chart import Chart
from toolkit.report.figures.scores import ABOUT, scores_chart
from toolkit.report.study import CONDITIONS, NETWORK, Study

_TaskKey = tuple[str, str]
_DEVICES = {"gpu_s": "GPU-seconds", "cpu_s": "CPU-seconds"}
_STAGES = {"train": "train_s", "extract": "extract_s", "encode": "encode_s"}


def cost(study: Study) -> Chart | None:
    """Device-seconds of a network against its score."""
    rows = study.results[study.results["score"].notna()]
    spent = _spent(study)
    rows = rows.join(spent, on="row", how="inner") if len(spent) else rows[:0]
    used = [column for column in _DEVICES if len(rows) and rows[column].gt(0).any()]
    unit = " + ".join(_DEVICES[column] for column in used)
    return scores_chart(
        rows,
        name="cost",
        title="Cost against score",
        caption="What it took to score a network: its training with all trials of a search, the "
        "extraction of its features and the read-out of all of its layers, against the score of "
        "the best one. Seconds of the clock times the GPUs, or else the CPU cores, of the task.",
        kind="points",
        x="device_s",
        x_title=unit,
        series="weights_kind",
        panel="setting",
        best_only=True,
        hover=(*ABOUT, *(used if len(used) > 1 else ()), *_STAGES.values()),
        log_x=True,
        text="network",
    )


def _spent(study: Study) -> pd.DataFrame:
    """Device-seconds behind each row of the results, by device and by stage, by number of row."""
    tasks = _tasks(study)
    inputs = dict(zip(tasks.index, tasks["inputs"], strict=True))
    rows = study.results[study.results["status"] == "done"]
    networks = rows.groupby([*CONDITIONS, *NETWORK], sort=False, dropna=False)
    found = []
    for _, own in networks:
        ids = zip(own["run"], own["task_id"], strict=True)
        behind = tasks.loc[list(_with_ancestors(ids, inputs))]
        if behind.empty or behind["seconds"].isna().any():
            continue
        spent = {"device_s": behind["device_seconds"].sum()}
        for column, on_gpu in (("gpu_s", True), ("cpu_s", False)):
            spent[column] = behind.loc[behind["is_gpu"] == on_gpu, "device_seconds"].sum()
        for kind, column in _STAGES.items():
            spent[column] = behind.loc[behind["kind"] == kind, "device_seconds"].sum()
        found.append(pd.DataFrame(spent, index=own["row"]))
    return pd.concat(found) if found else pd.DataFrame()


def _tasks(study: Study) -> pd.DataFrame:
    """Kind, inputs, seconds and devices of every task, by run and id."""
    tasks = study.tasks.set_index(["run", "task_id"])[["kind", "inputs", "seconds", "device"]]
    results = study.results.drop_duplicates(["run", "task_id"]).set_index(["run", "task_id"])
    measured = results[["seconds", "device", "step"]].reindex(tasks.index)
    tasks = tasks.fillna(measured[["seconds", "device"]]).assign(step=measured["step"])
    is_gpu = ~tasks["device"].fillna("cpu").str.startswith("cpu")
    asked = {run: _resources(RunFolder(path)) for run, path in study.runs.items()}
    n_devices = [
        _n_devices(asked[run].get(kind, {}), on_gpu, step)
        for (run, _), kind, on_gpu, step in zip(
            tasks.index, tasks["kind"], is_gpu, tasks["step"], strict=True
        )
    ]
    return tasks.assign(is_gpu=is_gpu, device_seconds=tasks["seconds"] * n_devices)


def _resources(run: RunFolder) -> dict[str, dict[str, int | None]]:
    return run.read_summary().get("resources", {}) if run.plan_path.is_file() else {}


def _n_devices(asked: dict[str, int | None], on_gpu: bool, step: object) -> int:
    """GPUs or cores of a task; modules of grown networks train on one GPU each."""
    if on_gpu and step == "modules":
        return 1
    return asked.get("gpus" if on_gpu else "cpus") or 1


def _with_ancestors(
    tasks: Iterable[_TaskKey], inputs: dict[_TaskKey, tuple[str, ...]]
) -> Iterator[_TaskKey]:
    """The tasks and all that had to be done before, each once, as far as they are planned."""
    seen: set[_TaskKey] = set()
    left = list(tasks)
    while left:
        task = left.pop()
        if task in seen or task not in inputs:
            continue
        seen.add(task)
        left += [(task[0], parent) for parent in inputs[task]]
        yield task
