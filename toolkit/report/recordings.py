"""The responses and Gram matrices behind a study's scores, read when a figure asks for them."""

from __future__ import annotations

import pandas as pd

from toolkit.cluster.run_folder import RunFolder
from toolkit.data import DataError, NeuralDataset
from toolkit.data import load as load_dataset
from toolkit.encoding import EncodingError
from toolkit.encoding.statistics import LayerStatistics, load_statistics
from toolkit.plan import features_id
from toolkit.report.study import Study
from toolkit.task import Task, TaskKind, json_digest


class Recordings:
    """What the rows of a study were computed from.

    Parameters
    ----------
    study
        The runs. A data set is loaded as its tasks say, once.

    Attributes
    ----------
    absences
        Why something could not be read, in words, each once.
    """

    def __init__(self, study: Study) -> None:
        self.absences: list[str] = []
        self._runs = {name: RunFolder(path) for name, path in study.runs.items()}
        self._tasks = {
            (name, task.id): task
            for name, run in self._runs.items()
            if run.plan_path.is_file()
            for task in run.tasks()
        }
        self._datasets: dict[str, NeuralDataset | None] = {}

    def task(self, row: pd.Series) -> Task | None:
        """The encode task of a row of the results; None where there is no plan."""
        return self._tasks.get((row["run"], row["task_id"]))

    def dataset(self, row: pd.Series) -> NeuralDataset | None:
        """The data set of a row; None where it is not here, or not what it was."""
        task = self.task(row)
        if task is None:
            return None
        source = self._source(row["run"], task)
        key = json_digest([source.options["dataset"], source.params["responses"]])
        if key not in self._datasets:
            self._datasets[key] = self._load(source)
        return self._datasets[key]

    def statistics(self, row: pd.Series) -> LayerStatistics | None:
        """Gram matrix and row sums of a row's layer; None where they were not kept."""
        task = self.task(row)
        if task is None or task.kind is not TaskKind.ENCODE:
            return None
        key, layer = features_id(task), task.params["layer"]
        path = self._runs[row["run"]].gram_path(key, layer)
        n_stimuli = self._tasks[row["run"], task.inputs[0]].columns["n_stimuli"]
        try:
            return load_statistics(path, features_id=key, layer=layer, n_stimuli=n_stimuli)
        except FileNotFoundError:
            return None
        except EncodingError as error:
            self._note(str(error))
            return None

    def _source(self, run: str, task: Task) -> Task:
        """The task itself, or of a search's rung or winner a trial, which says the responses."""
        while "responses" not in task.params:
            task = self._tasks[run, task.params["from"][0]]
        return task

    def _load(self, task: Task) -> NeuralDataset | None:
        try:
            dataset = load_dataset(**task.options["dataset"])
        except (DataError, OSError) as error:
            self._note(str(error))
            return None
        if dataset.responses_digest() != task.params["responses"]:
            self._note(f"the responses of '{dataset.name}' changed since the run")
            return None
        return dataset

    def _note(self, absence: str) -> None:
        if absence not in self.absences:
            self.absences.append(absence)
