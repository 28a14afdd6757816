"""Images through one network into the feature store."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from jobs.meter import Meter
from jobs.session import DataChangedError, Session
from toolkit.cluster.run_folder import write_text
from toolkit.plan import layers_of
from toolkit.task import Task

_log = logging.getLogger("toolkit")


def extract_features(task: Task, session: Session, progress: Callable[[int, int], None]) -> None:
    """Run one extract task: every layer of one network in one forward pass over the images.

    Raises
    ------
    DataChangedError
        If the images are not those that the task was planned for.
    """
    import torch

    from toolkit import models
    from toolkit.features.extract import extract
    from toolkit.features.store import FeatureStore

    meter = Meter()
    stimuli = session.dataset(task.options["dataset"]).stimuli
    if stimuli.digest() != task.params["stimuli"]:
        raise DataChangedError(
            "the images changed since the sweep was planned; run the sweep again to plan it anew"
        )
    torch.set_num_threads(session.n_cpus)
    device = _device(task.options["device"])
    spec = models.ModelSpec(
        library=task.params["library"],
        name=task.params["model"],
        weights=task.options["weights"],
        seed=task.params["seed"],
    )
    layers = layers_of(task)
    store = FeatureStore.create(
        session.run.features_path(task.id),
        layers=layers,
        stimulus_ids=stimuli.ids,
        provenance=task.params,
    )
    extract(
        models.load_network(spec, device),
        stimuli,
        layers,
        store,
        batch_size=task.options["batch_size"],
        device=device,
        progress=progress,
    )
    report = {
        "task_id": task.id,
        "label": task.label,
        "n_stimuli": len(stimuli),
        "feature_bytes": sum(layer.n_features for layer in layers) * len(stimuli) * 4,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "device": device,
        "git_sha": session.git_sha,
        "versions": session.versions,
    }
    write_text(session.run.result_path(task.id), json.dumps(report, indent=1))


def _device(wanted: str) -> str:
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"
