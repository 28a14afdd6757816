"""What consecutive tasks of one job share: data set, one layer's Gram matrix, provenance."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toolkit
from toolkit.atomic import atomic_path
from toolkit.cluster.run_folder import RunFolder
from toolkit.results.provenance import git_sha, versions
from toolkit.task import Task, json_digest

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from numpy.typing import NDArray

    from toolkit.data import NeuralDataset
    from toolkit.encoding import LayerEncoder
    from toolkit.encoding.compute import Compute
    from toolkit.encoding.statistics import LayerStatistics
    from toolkit.features.creation import Content
    from toolkit.features.store import FeatureStore

_log = logging.getLogger("toolkit")

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
        self._dataset: tuple[str, NeuralDataset] | None = None
        self._encoder: tuple[tuple[str, str, str], LayerEncoder] | None = None
        self._statistics: tuple[tuple[str, str], LayerStatistics] | None = None
        self._ceilings: tuple[tuple[str | bytes, ...], np.ndarray] | None = None
        self._workers: str | None = None
        self._open = ExitStack()

    def close(self) -> None:
        """End what the session has started."""
        self._open.close()
        self._workers = None

    @cached_property
    def git_sha(self) -> str:
        """Commit of the code."""
        return git_sha(Path(toolkit.__file__).parent)

    @cached_property
    def versions(self) -> dict[str, str]:
        """Of the packages that decide results."""
        return versions()

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

    def ceilings(
        self, dataset: NeuralDataset, tests: Sequence[NDArray[np.integer]] | None
    ) -> np.ndarray:
        """Split-half ceilings, (n_halvings, n_neuroids); NaN without repetitions.

        Parameters
        ----------
        dataset
            Whose.
        tests
            Sets of images, each of which is halved anew; None for all images at once.
        """
        import numpy as np

        from toolkit.metrics import MetricError, split_half_ceiling

        sets = [np.arange(len(dataset.stimuli))] if tests is None else tests
        key: tuple[str | bytes, ...] = (
            dataset.responses_digest(),
            *(np.asarray(rows).tobytes() for rows in sets),
        )
        if self._ceilings is None or self._ceilings[0] != key:
            none = np.full((1, len(dataset.neuroid_ids)), np.nan)

            def halved(rows: NDArray[np.integer]) -> NDArray[np.float64]:
                if dataset.repetitions is None:
                    return none
                try:
                    return split_half_ceiling(dataset.repetitions[rows])
                except MetricError:  # fewer than two presentations of these images
                    return none

            self._ceilings = (key, np.concatenate([halved(rows) for rows in sets]))
        return self._ceilings[1]

    def encoder(self, task: Task, dataset: NeuralDataset) -> LayerEncoder:
        """The read-outs of a layer to the same neurons share its Gram matrix and eigenvectors."""
        from toolkit.encoding import LayerEncoder

        key = (*_layer_of(task), dataset.responses_digest())
        if self._encoder is None or self._encoder[0] != key:
            gram = self.statistics(task).gram
            self._encoder = (key, LayerEncoder(gram, dataset.responses, n_threads=self.n_cpus))
        return self._encoder[1]

    def statistics(self, task: Task) -> LayerStatistics:
        """The Gram matrix of a layer and the sums of its rows, from one pass over its features."""
        key = _layer_of(task)
        if self._statistics is None or self._statistics[0] != key:
            self._statistics = (key, self._read_statistics(task))
        return self._statistics[1]

    def features(self, task: Task) -> zarr.Array:
        """The stored features of an encode task's layer, (n_stimuli, n_features)."""
        store, layer = self.store(task), task.params["layer"]
        store.require_blocks(layer)
        return store.array(layer)

    def store(self, task: Task) -> FeatureStore:
        """The store of an encode task's features.

        Raises
        ------
        FeatureError
            If it was created for something else.
        DamagedStoreError
            If it is absent, or is not as it was planned.
        """
        from toolkit.features.creation import differences
        from toolkit.features.errors import DamagedStoreError, FeatureError
        from toolkit.features.store import FeatureStore

        path = self.run.features_path(_layer_of(task)[0])
        store = FeatureStore.open(path)
        stimulus_ids = self.dataset(task.options["dataset"]).stimuli.ids
        (extraction,) = self.run.find_tasks(task.inputs[:1])
        content = stored_content(extraction, store.stimulus_ids)
        found = differences(store.content, content)
        if store.provenance != content.provenance:
            raise FeatureError(
                f"the feature store {path} was created for something else: {'; '.join(found)}; "
                "move or remove it"
            )
        if found or store.n_stimuli != len(stimulus_ids):
            raise DamagedStoreError(
                f"the feature store {path} is damaged "
                f"({'; '.join(found) or f'it has {store.n_stimuli} stimuli'}); a run extracts it "
                "again by itself"
            )
        return store

    @contextmanager
    def compute(self, task: Task) -> Iterator[Compute]:
        """Where the Dask work of an encode task is done.

        Workers on a cluster are started once and stay for the session's other tasks.
        """
        from jobs.workers import open_workers
        from toolkit.encoding.compute import open_compute

        if self._workers is None:
            self._workers = self._open.enter_context(open_workers(self.run, task, self.n_cpus))
        memory_bytes = int(task.options["memory_gb"] * 1e9)
        with open_compute(self._workers, n_cores=self.n_cpus, memory_bytes=memory_bytes) as compute:
            yield compute

    def _read_statistics(self, task: Task) -> LayerStatistics:
        from toolkit.encoding.errors import DamagedGramError
        from toolkit.plan import form_of

        (extraction,) = self.run.find_tasks(task.inputs[:1])
        is_all_there_is = form_of(extraction).kind == "gram"
        n_stimuli = len(self.dataset(task.options["dataset"]).stimuli)
        try:
            return self.kept_statistics(*_layer_of(task), n_stimuli)
        except FileNotFoundError:
            if is_all_there_is:
                path = self.run.gram_path(*_layer_of(task))
                raise DamagedGramError(f"there is no Gram matrix at {path}") from None
        except DamagedGramError as error:
            if is_all_there_is:
                raise
            _log.warning("%s; it is computed again from the features", error)
        statistics = self._compute_statistics(task)
        self.publish_statistics(*_layer_of(task), statistics)
        return statistics

    def kept_statistics(self, features_id: str, layer: str, n_stimuli: int) -> LayerStatistics:
        """What :meth:`publish_statistics` has kept.

        Raises
        ------
        FileNotFoundError
            If nothing is kept.
        DamagedGramError
            If what is kept is damaged, or is not of this layer and number of images.
        """
        from toolkit.encoding.statistics import load_statistics

        path = self.run.gram_path(features_id, layer)
        return load_statistics(path, features_id=features_id, layer=layer, n_stimuli=n_stimuli)

    def publish_statistics(self, features_id: str, layer: str, statistics: LayerStatistics) -> None:
        """Keep a layer's Gram matrix and the sums of its rows for the run's other jobs."""
        from toolkit.encoding.statistics import save_statistics

        path = self.run.gram_path(features_id, layer)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            save_statistics(temporary, statistics, features_id=features_id, layer=layer)

    def _compute_statistics(self, task: Task) -> LayerStatistics:
        from toolkit.encoding.gram import layer_statistics

        store, layer = self.store(task), task.params["layer"]
        if task.options["workers"] != "threads":
            from toolkit.encoding.compute import stored_statistics

            with self.compute(task) as compute:
                return stored_statistics(store.path, layer, compute)
        return layer_statistics(
            partial(store.read, layer),
            store.column_blocks(layer, _BLOCK_BYTES),
            store.n_stimuli,
            n_threads=self.n_cpus,
        )


def stored_content(extraction: Task, stimulus_ids: Sequence[str]) -> Content:
    """What the store of an extract task, and of the other parts of its images, is created for."""
    from toolkit.features.creation import Content, stored
    from toolkit.plan import form_of, layers_of

    form = form_of(extraction)
    params = {key: value for key, value in extraction.params.items() if key != "part"}
    return Content(
        layers=stored(form.of_layer(layer) for layer in layers_of(extraction)),
        stimulus_ids=tuple(stimulus_ids),
        provenance=json.loads(json.dumps(params)),
        dtype=form.stored_dtype,
        shuffle=form.shuffle,
    )


def _layer_of(task: Task) -> tuple[str, str]:
    from toolkit.plan import features_id

    return features_id(task), task.params["layer"]
