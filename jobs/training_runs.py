"""How a train task runs, and what it leaves behind."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from jobs.assignments import rows_of
from jobs.interruption import JobEndingError
from jobs.meter import Meter
from jobs.predict import predict_splits
from jobs.session import Session
from toolkit.atomic import atomic_path
from toolkit.download import file_digest
from toolkit.task import Task, json_digest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from toolkit.training import Assignment, Recipe, Running, Trained, TrainingResult
    from toolkit.training.trainer import CurveRow

_log = logging.getLogger("toolkit")

_DIGEST_DIGITS = 12

Progress = Callable[[int, int], None]


class EndingProgress:
    """Progress of a training, which is to write a checkpoint before its job ends.

    Parameters
    ----------
    progress
        What is told; it raises :class:`JobEndingError` where the end of the job was announced.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.ending: JobEndingError | None = None

    def tell(self, n_done: int, n_total: int) -> None:
        """Tell the progress, and remember the end of the job."""
        try:
            self._progress(n_done, n_total)
        except JobEndingError as error:
            self.ending = error

    def should_stop(self) -> bool:
        """Whether the job ends."""
        return self.ending is not None


def run_training(
    task: Task, session: Session, progress: Progress, assignment: Assignment
) -> TrainingResult:
    """Train in the task's own folder of checkpoints, or go on there.

    Raises
    ------
    JobEndingError
        If the end of the job was announced; a checkpoint was written before.
    toolkit.training.DivergedError
        If a loss is not finite.
    """
    from toolkit.training import StoppedError, train

    ending = EndingProgress(progress)
    try:
        return train(assignment, session.run.checkpoints_path(task.id), running_of(task, ending))
    except StoppedError as error:
        _log.info("%s", error)
        assert ending.ending is not None
        raise ending.ending from error


def running_of(task: Task, ending: EndingProgress) -> Running:
    """How a task's training runs."""
    from toolkit.training import Running

    device = device_of(task)
    return Running(
        device=device,
        n_devices=n_devices_of(task, device),
        compiled=task.options["compile"],
        memory_bytes=int(task.options["memory_gb"] * 1e9) if device.type == "cpu" else None,
        checkpoint_interval_s=task.options["checkpoint_s"],
        progress=ending.tell,
        should_stop=ending.should_stop,
    )


def device_of(task: Task) -> torch.device:
    """Where it trains."""
    import torch

    wanted = task.options["device"]
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def n_devices_of(task: Task, device: torch.device) -> int:
    """On how many devices it trains: the GPUs that were asked for and are there, or else one.

    Modules of a grown network are trained too briefly for more.
    """
    import torch

    n_asked = task.options.get("gpus") or 1
    if device.type != "cuda" or n_asked == 1 or task.params["step"] == "modules":
        return 1
    return max(1, min(n_asked, torch.cuda.device_count()))


def keep_network(task: Task, session: Session, trained: Trained) -> None:
    """Leave a network behind, as the task's; its file says so."""
    from toolkit.training import save_trained

    path = session.run.network_path(task.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_trained(path, replace(trained, task=task.id))


def keep_curve(task: Task, session: Session, curve: list[CurveRow]) -> None:
    """Leave what was measured in each epoch behind."""
    import pandas as pd

    path = session.run.curve_path(task.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(curve)
    table.attrs["task_id"] = task.id
    with atomic_path(path) as temporary:
        table.to_parquet(temporary)


def description_of(
    origin: Task, recipe: Recipe, assignment: Assignment, result: TrainingResult | None
) -> dict[str, Any]:
    """The columns on training: what was done, and what came of it; without a result it diverged."""
    how = {"recipe": recipe.to_plain(), "decoder": origin.params.get("network", {}).get("decoder")}
    n_rows = len(assignment.rows)
    return {
        "outcome": "diverged" if result is None else "trained",
        "recipe": json.dumps(how, sort_keys=True),
        "recipe_digest": json_digest(how)[:_DIGEST_DIGITS],
        "n_epochs": None if result is None else len(result.curve),
        "best_epoch": None if result is None else result.best_epoch,
        "val_score": None if result is None else result.best_value,
        "accuracy": None,
        "n_train": n_rows - recipe.n_validation(n_rows),
        "n_test": 0,
    }


def publish_tested(
    task: Task,
    session: Session,
    origin: Task,
    assignment: Assignment,
    trained: Trained,
    description: Mapping[str, Any],
    meter: Meter,
) -> None:
    """Score a network on the test images, once, and publish the task's result.

    Parameters
    ----------
    task, session
        The task, and the job's state.
    origin
        The task that says which images are tested.
    assignment
        What was trained on.
    trained
        The network.
    description
        From :func:`description_of`.
    meter
        Of the task.
    """
    from toolkit.training import accuracy, predict

    dataset, device = assignment.dataset, device_of(task)
    _, test = rows_of(origin, dataset)
    predictions = predict(trained, assignment.bank, test, device=device)
    neurons, summary = None, dict[str, Any]()
    if predictions.responses is not None:
        neurons, summary = _neuron_scores(task, session, assignment, test, predictions.responses)
    right = None
    if assignment.recipe.label_kinds:
        kind = assignment.recipe.label_kinds[0]
        right = accuracy(predictions, trained.classes[kind], dataset, kind, test)
    predict_splits(task, session, trained, dataset, device)
    whole = {**summary, **description, "accuracy": right, "n_test": len(test)}
    publish(task, session, neurons, whole, meter)


def publish(
    task: Task,
    session: Session,
    neurons: pd.DataFrame | None,
    summary: Mapping[str, Any],
    meter: Meter,
) -> None:
    """Let the result of a train task appear, with the hash of the network that it left."""
    import pandas as pd

    from toolkit import results
    from toolkit.results.columns import SCORE_COLUMNS, SUMMARY_COLUMNS, names

    if neurons is None:
        neurons = pd.DataFrame({name: [] for name in names(SCORE_COLUMNS)})
    network = session.run.network_path(task.id)
    whole = {
        "weights_sha256": file_digest(network) if network.is_file() else None,
        **dict.fromkeys(names(SUMMARY_COLUMNS)),
        **results.summarise(neurons),
        "n_splits": 1,
        **summary,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "device": str(device_of(task)),
        "config_hash": task.options["config_hash"],
        "git_sha": session.git_sha,
        "versions": session.versions,
        "created": datetime.now(UTC),
    }
    results.write_scores(session.run.result_path(task.id), neurons, whole)


def _neuron_scores(
    task: Task,
    session: Session,
    assignment: Assignment,
    test: np.ndarray,
    predicted: np.ndarray,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores of each neuron, and the aggregates that depend on more than one of them."""
    import numpy as np
    import pandas as pd

    from jobs.encode import ceiling_images
    from toolkit import metrics
    from toolkit.metrics.uncertainty import bootstrap_interval
    from toolkit.training import neuron_scores

    dataset = assignment.dataset
    ceilings = session.ceilings(dataset, None if task.params["ceiling_images"] == "all" else [test])
    scores = neuron_scores(dataset.responses[test], predicted)
    r = scores["r"][None]
    low = high = np.nan
    if n_resamples := task.params.get("bootstrap", 0):
        low, high = bootstrap_interval(r, statistic="mean", n_resamples=n_resamples)
    neurons = pd.DataFrame(
        {
            "neuron_id": dataset.neuroid_ids,
            "region": dataset.regions,
            "alpha": np.nan,
            "alpha_at_edge": np.nan,
            **scores,
            "n_splits_scored": np.isfinite(scores["r"]).astype(int),
            "ceiling": metrics.mean_over_splits(ceilings),
        }
    )
    return neurons, {
        "r_mean_low": low,
        "r_mean_high": high,
        "ceiling_images": ceiling_images(task, ceilings),
        "ceiling_median": metrics.median_over_neurons(ceilings),
        "ceiled_median_2026": metrics.ceiled_2026(r, ceilings),
        "ceiled_median_2018": metrics.ceiled_2018(r, ceilings),
    }
