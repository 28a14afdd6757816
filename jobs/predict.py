"""Responses that a trained network predicts for images without any."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.session import DataChangedError, Session
from toolkit.atomic import atomic_path
from toolkit.task import Task

if TYPE_CHECKING:
    import torch

    from toolkit.data import NeuralDataset
    from toolkit.training import Trained


def predict_splits(
    task: Task, session: Session, trained: Trained, dataset: NeuralDataset, device: torch.device
) -> None:
    """Leave the predictions for the splits that a task names behind; nothing if it names none.

    A row for each image: ``split``, ``stimulus_id``, a column for each neuron by its id, and the
    most likely class of each kind that was trained, such as ``predicted_object``.

    Raises
    ------
    DataChangedError
        If the images of a split without responses are not those that the task was planned for.
    """
    import numpy as np
    import pandas as pd

    from toolkit.data import images_of_split
    from toolkit.training import ImageBank, predict

    parts = []
    for split in task.params.get("predict", ()):
        stimuli, rows = images_of_split(dataset, split, task.options["dataset"])
        planned = task.params.get("unscored", {}).get(split)
        if planned is not None and stimuli.digest() != planned:
            raise DataChangedError(
                f"the images of split '{split}' of '{dataset.name}' changed since the sweep was "
                "planned; run the sweep again to plan it anew"
            )
        bank = ImageBank.of(session.run.images_folder, stimuli, trained.preprocessing)
        predictions = predict(trained, bank, rows, device=device)
        columns: dict[str, object] = {
            "split": split,
            "stimulus_id": [stimuli.ids[row] for row in rows],
        }
        if predictions.responses is not None:
            columns |= dict(zip(trained.neuroid_ids, predictions.responses.T, strict=True))
        for kind, logits in predictions.logits.items():
            names = np.array(trained.classes[kind])
            columns[f"predicted_{kind}"] = names[logits[:, : len(names)].argmax(axis=1)]
        parts.append(pd.DataFrame(columns))
    if not parts:
        return
    path = session.run.predictions_path(task.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.concat(parts, ignore_index=True)
    table.attrs["task_id"] = task.id
    with atomic_path(path) as temporary:
        table.to_parquet(temporary)
