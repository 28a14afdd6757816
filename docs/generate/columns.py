"""Every column of every table that a run leaves behind."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from docs.generate.markdown import code, notice, table
from toolkit.results.columns import NEURON_COLUMNS, RESULT_COLUMNS, SCORE_COLUMNS, Column
from toolkit.results.loading import TASK_COLUMNS

_KINDS = {
    pa.string(): "text",
    pa.int64(): "integer",
    pa.float64(): "number",
    pa.timestamp("us", tz="UTC"): "time (UTC)",
}

_INTRODUCTION = """\
What is not known or does not apply is null, never NaN. The descriptions are in the files too:

```python
from toolkit import results

results.describe("runs/quickstart/results.parquet")["ev_mean"]
tables = results.load("runs/quickstart")  # tables.results, tables.neurons, tables.tasks
```"""

_TRAININGS = """\
Tables of trainings have columns that depend on what was trained.

`curves/ID.parquet`, a row per epoch:"""

_CURVES = {
    "epoch": "Number of the epoch, from 0.",
    "lr": "Learning rate at its end.",
    "seconds": "Wall-clock time since the training was last started, in seconds.",
    "train_loss, val_loss": "Weighted sum of the objectives, over the training images as they "
    "were met and over the validation images.",
    "train_KIND, val_KIND": "Each objective by itself, such as `train_mse`.",
    "val_ev, val_r": "Means over neurons of explained variance and Pearson's r on the validation "
    "images; where neurons are trained on.",
    "val_accuracy, val_accuracy_KIND": "Share of validation images whose class is right; of the "
    "first classification, and of each.",
    "is_best": "Whether the epoch is better than all before it; with validation images only.",
}

_PREDICTIONS = {
    "split": "Split of the data set that the image is in.",
    "stimulus_id": "Id of the image.",
    "NEURON_ID": "Predicted response of each neuron, a column named by its id.",
    "predicted_KIND": "Most likely class, such as `predicted_object`, where classes are trained.",
}


def page() -> str:
    """``docs/columns.md``."""
    parts = [
        notice("toolkit/results/columns.py and toolkit/results/loading.py"),
        "# Columns of the tables",
        _INTRODUCTION,
        "## results.parquet",
        "A row for each planned read-out and training, done or not.",
        _typed(RESULT_COLUMNS),
        "## neurons.parquet",
        "A row for each neuron of every read-out and training that is done.",
        _typed(NEURON_COLUMNS),
        "## Tasks",
        "`results.load(RUN).tasks` has a row for each planned task, extractions too, as it stands "
        "now.",
        _described(TASK_COLUMNS),
        "## results/ID.parquet",
        "The result of one task, a row for each neuron. Its appearance is what makes a task done; "
        "`collect` puts them together.",
        _typed(SCORE_COLUMNS),
        "## Trainings",
        _TRAININGS,
        _described(_CURVES),
        "`predictions/ID.parquet`, a row per image of the splits that `predict` names:",
        _described(_PREDICTIONS),
    ]
    return "\n\n".join(parts) + "\n"


def _typed(columns: Iterable[Column]) -> str:
    rows = [(code(c.name), _KINDS[c.type], c.description) for c in columns]
    return table(("column", "type", "meaning"), rows)


def _described(columns: dict[str, str]) -> str:
    rows = [(", ".join(map(code, name.split(", "))), text) for name, text in columns.items()]
    return table(("column", "meaning"), rows)
