"""What consecutive tasks of one job share: data set, one layer's Gram matrix, provenance."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import toolkit
from toolkit.atomic import atomic_path
from toolkit.cluster.run_folder import RunFolder
from toolkit.results.provenance import git_sha, versions
from toolkit.task import Task, json_digest

if TYPE_CHECKING:
    from toolkit.data import NeuralDataset
    from toolkit.encoding import LayerEncoder

_BLOCK_BYTES = 2**26


class DataChangedError(RuntimeError):
    """The data are not those that the task was planned for."""

    error_class = "data_changed"


class Session:
    """State of one job; tasks come in an order that makes sharing pay.

    Parameters
    ----------
    run
        The run folder.
    n_cpus
        Threads that the job may use.
    """

    def __init__(self, run: RunFolder, n_cpus: int) -> None:
        self.run = run
        self.n_cpus = n_cpus
        self.git_sha = git_sha(Path(toolkit.__file__).parent)
        self.versions = versions()
        self._dataset: tuple[str, NeuralDataset] | None = None
        self._encoder: tuple[tuple[str, str], LayerEncoder] | None = None
        self._ceiling: tuple[str, np.ndarray] | None = None

    def dataset(self, loader: dict[str, Any]) -> NeuralDataset:
        """The data set that these loader arguments name."""
        key = json_digest(loader)
        if self._dataset is None or self._dataset[0] != key:
            from toolkit import data

            self._dataset = (key, data.load(**loader))
        return self._dataset[1]

    def dataset_for_encoding(self, task: Task) -> NeuralDataset:
        """The data set of an encode task.

        Raises
        ------
        DataChangedError
            If the responses are not those that the task was planned for.
        """
        dataset = self.dataset(task.options["dataset"])
        if dataset.responses_digest() != task.params["responses"]:
            raise DataChangedError(
                f"the responses of '{dataset.name}' changed since the sweep was planned; "
                "run the sweep again to plan it anew"
            )
        return dataset

    def ceiling(self, dataset: NeuralDataset) -> np.ndarray:
        """Split-half ceiling of each neuron, (n_neuroids,); NaN without repetitions."""
        from toolkit.metrics import split_half_ceiling

        if dataset.repetitions is None:
            return np.full(len(dataset.neuroid_ids), np.nan)
        key = dataset.responses_digest()
        if self._ceiling is None or self._ceiling[0] != key:
            halves = split_half_ceiling(dataset.repetitions)
            self._ceiling = (key, halves.mean(axis=0))
        return self._ceiling[1]

    def encoder(self, task: Task, dataset: NeuralDataset) -> LayerEncoder:
        """The read-outs of a layer share its Gram matrix and its eigenvectors."""
        from toolkit.encoding import LayerEncoder

        key = (task.inputs[0], task.params["layer"])
        if self._encoder is None or self._encoder[0] != key:
            gram = self._gram(*key)
            self._encoder = (key, LayerEncoder(gram, dataset.responses, n_threads=self.n_cpus))
        return self._encoder[1]

    def _gram(self, extract_id: str, layer: str) -> np.ndarray:
        from toolkit.encoding import gram_matrix
        from toolkit.features.store import FeatureStore

        path = self.run.gram_path(extract_id, layer)
        if path.is_file():
            return np.load(path)
        store = FeatureStore.open(self.run.features_path(extract_id))
        gram = gram_matrix(
            partial(store.read, layer),
            store.column_blocks(layer, _BLOCK_BYTES),
            store.n_stimuli,
            n_threads=self.n_cpus,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, gram)
        return gram
