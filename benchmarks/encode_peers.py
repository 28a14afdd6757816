"""The systems that :mod:`benchmarks.encode` compares, each run in a process of its own.

``python -m benchmarks.encode_peers SYSTEM FOLDER N_THREADS MEMORY_LIMIT_BYTES`` scores the layer in
FOLDER and prints one JSON object: ``seconds`` of work (interpreter start and imports are left out,
for all alike) and ``mean_ev`` over neurons of the test images; the floor prints its parts.

Every system has the same task: centre the training features, fit ridge with an intercept, with
the penalty of each neuron chosen among ``ALPHAS`` by five-fold cross-validation, and predict the
test images. All but himalaya's two do so on the leading principal components.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import dask
import numpy as np
import scipy.linalg
import zarr
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from toolkit.encoding import LayerEncoder, Readout, gram_matrix
from toolkit.features.store import FeatureStore
from toolkit.metrics import explained_variance

LAYER = "synthetic"
ALPHAS = np.logspace(0, 8, 20)
N_FOLDS = 5
SEED = 0

# As the jobs of a sweep read a layer: one column of chunks at a time.
_BLOCK_BYTES = 2**26

Folds = list[tuple[NDArray[np.intp], NDArray[np.intp]]]


@dataclass(frozen=True)
class Problem:
    """A stored layer and what is to be done with it.

    Attributes
    ----------
    store
        Holds the layer ``LAYER``.
    responses
        (n_stimuli, n_neurons) float64.
    n_train
        The first so many images are for training, the others for testing.
    n_components
        Principal components that are kept.
    n_threads
        Cores that may be used.
    """

    store: FeatureStore
    responses: NDArray[np.float64]
    n_train: int
    n_components: int
    n_threads: int

    @classmethod
    def load(cls, folder: Path, n_threads: int) -> Problem:
        """Read what :func:`benchmarks.encode.write_problem` wrote."""
        return cls(
            store=FeatureStore.open(folder / "features.zarr"),
            responses=np.load(folder / "responses.npy"),
            **json.loads((folder / "problem.json").read_text(encoding="utf-8")),
            n_threads=n_threads,
        )

    @property
    def train(self) -> slice:
        """Rows of the training images."""
        return slice(0, self.n_train)

    @property
    def test(self) -> slice:
        """Rows of the test images."""
        return slice(self.n_train, self.store.n_stimuli)

    @property
    def column_blocks(self) -> list[slice]:
        """Slices of columns for a pass over the layer."""
        return self.store.column_blocks(LAYER, _BLOCK_BYTES)

    def features(self, rows: slice) -> NDArray[np.float32]:
        """All features of some images, in memory."""
        return self.store.array(LAYER)[rows]

    def train_batches(self) -> Iterator[slice]:
        """Halves of the training images, at a border between chunks."""
        n_rows = self.batch_rows
        for start in range(0, self.n_train, n_rows):
            yield slice(start, min(start + n_rows, self.n_train))

    @property
    def batch_rows(self) -> int:
        """Images in the larger half of the training images."""
        block_rows = self.store.block_rows
        return -(-self.n_train // (2 * block_rows)) * block_rows

    def mean_ev(self, predictions: NDArray[np.floating]) -> float:
        """Explained variance of the test images, averaged over neurons."""
        return float(np.nanmean(explained_variance(self.responses[self.test], predictions)))


def toolkit_encoder(problem: Problem) -> dict[str, float]:
    """Our own: one pass for the Gram matrix, and everything else from it."""
    start = time.perf_counter()
    gram = gram_matrix(
        partial(problem.store.read, LAYER),
        problem.column_blocks,
        problem.store.n_stimuli,
        n_threads=problem.n_threads,
    )
    gram_s = time.perf_counter() - start
    encoder = LayerEncoder(gram, problem.responses, n_threads=problem.n_threads)
    readout = Readout("ridge", problem.n_components, tuple(ALPHAS), n_folds=N_FOLDS, seed=SEED)
    images = np.arange(problem.store.n_stimuli)
    scores = encoder.score(readout, [(images[problem.train], images[problem.test])])
    return {"mean_ev": float(np.nanmean(scores.ev)), "gram_s": gram_s}


def floor(problem: Problem) -> dict[str, float]:
    """Reading the layer once, its symmetric products, and one eigendecomposition.

    The products are those of one block's columns, scaled to all columns: one product per core, on
    one BLAS thread each, which was faster than one product on all cores wherever it was measured.
    Products and decomposition are the best of three.
    """
    blocks, n_threads = problem.column_blocks, problem.n_threads

    def read(block: slice) -> None:
        problem.store.read(LAYER, block)

    with ThreadPoolExecutor(n_threads) as pool:
        read_s = _seconds(lambda: list(pool.map(read, blocks)))
        features = problem.store.read(LAYER, blocks[0])
        features = features - features.mean(axis=0)
        with threadpool_limits(1, user_api="blas"):
            products_s = min(
                _seconds(lambda: list(pool.map(lambda _: features @ features.T, range(n_threads))))
                for _ in range(3)
            )
    share = n_threads * features.shape[1] / problem.store.layer(LAYER).n_features
    train = features[problem.train].astype(np.float64)
    gram = train @ train.T
    eigh_s = min(_seconds(lambda: scipy.linalg.eigh(gram, driver="evd")) for _ in range(3))
    parts = {"read_s": read_s, "product_s": products_s / share, "eigh_s": eigh_s}
    return {"seconds": sum(parts.values()), **parts}


def sklearn_pca(problem: Problem) -> dict[str, float]:
    """scikit-learn's PCA by a full SVD: the exact answer."""
    from sklearn.decomposition import PCA

    return _pca_in_memory(problem, PCA(problem.n_components, svd_solver="full", copy=False))


def sklearn_randomized_pca(problem: Problem) -> dict[str, float]:
    """scikit-learn's PCA by randomised SVD."""
    from sklearn.decomposition import PCA

    pca = PCA(problem.n_components, svd_solver="randomized", copy=False, random_state=SEED)
    return _pca_in_memory(problem, pca)


def sklearn_incremental_pca(problem: Problem) -> dict[str, float]:
    """scikit-learn's IncrementalPCA, fitted on the two halves of the training images in turn."""
    from sklearn.decomposition import IncrementalPCA

    pca = IncrementalPCA(problem.n_components, copy=False)
    for rows in problem.train_batches():
        pca.partial_fit(problem.features(rows))
    scores = [pca.transform(problem.features(rows)) for rows in problem.train_batches()]
    return _ridge_on(problem, np.vstack(scores), pca.transform(problem.features(problem.test)))


def dask_ml_incremental_pca(problem: Problem) -> dict[str, float]:
    """dask-ml's IncrementalPCA with its default solver, on the same two halves."""
    import dask.array as da
    from dask_ml.decomposition import IncrementalPCA

    features = da.from_zarr(problem.store.array(LAYER), chunks=(problem.batch_rows, -1))
    train, test = features[problem.train], features[problem.test]
    pca = IncrementalPCA(problem.n_components, batch_size=problem.batch_rows, random_state=SEED)
    pca.fit(train)
    return _ridge_on(problem, *dask.compute(pca.transform(train), pca.transform(test)))


def himalaya_kernel_ridge(problem: Problem) -> dict[str, float]:
    """KernelRidgeCV of himalaya: ridge on all features, through a linear kernel."""
    from himalaya.kernel_ridge import KernelRidgeCV

    model = KernelRidgeCV(alphas=ALPHAS, kernel="linear", fit_intercept=True, cv=_splitter())
    return _himalaya(problem, model)


def himalaya_ridge(problem: Problem) -> dict[str, float]:
    """RidgeCV of himalaya: ridge on all features, by an SVD of the features of each fold.

    One penalty at a time, because its matrix for all penalties would not fit in memory.
    """
    from himalaya.ridge import RidgeCV

    options = {"n_alphas_batch": 1, "warn": False}
    model = RidgeCV(alphas=ALPHAS, fit_intercept=True, cv=_splitter(), solver_params=options)
    return _himalaya(problem, model)


SYSTEMS: dict[str, tuple[Callable[[Problem], dict[str, float]], tuple[str, ...]]] = {
    "floor": (floor, ()),
    "toolkit": (toolkit_encoder, ()),
    "scikit-learn PCA(full)": (sklearn_pca, ("sklearn.decomposition",)),
    "scikit-learn IncrementalPCA": (sklearn_incremental_pca, ("sklearn.decomposition",)),
    "scikit-learn PCA(randomized)": (sklearn_randomized_pca, ("sklearn.decomposition",)),
    "dask-ml IncrementalPCA": (dask_ml_incremental_pca, ("dask.array", "dask_ml.decomposition")),
    "himalaya KernelRidgeCV": (himalaya_kernel_ridge, ("himalaya.kernel_ridge",)),
    "himalaya RidgeCV": (himalaya_ridge, ("himalaya.ridge",)),
}
"""What runs, and the modules it needs, which are imported before the clock starts."""


def run(system: str, problem: Problem) -> dict[str, float]:
    """Run one system with its threads and the fast Zarr pipeline; the result has ``seconds``."""
    function, modules = SYSTEMS[system]
    for module in modules:
        import_module(module)
    with (
        threadpool_limits(problem.n_threads),
        dask.config.set(scheduler="threads", num_workers=problem.n_threads),
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}),
    ):
        start = time.perf_counter()
        result = function(problem)
        return {"seconds": time.perf_counter() - start, **result}


def _pca_in_memory(problem: Problem, pca: Any) -> dict[str, float]:
    train = pca.fit_transform(problem.features(problem.train))
    return _ridge_on(problem, train, pca.transform(problem.features(problem.test)))


def _ridge_on(
    problem: Problem, train: NDArray[np.floating], test: NDArray[np.floating]
) -> dict[str, float]:
    """Score ridge on component scores; for penalties, one SVD per fold serves them all."""
    train, test = train.astype(np.float64), test.astype(np.float64)
    y_train = problem.responses[problem.train]
    errors = np.zeros((len(ALPHAS), y_train.shape[1]))
    for fit, held_out in _splitter().split(train):
        mean, y_mean = train[fit].mean(axis=0), y_train[fit].mean(axis=0)
        u, s, vt = np.linalg.svd(train[fit] - mean, full_matrices=False)
        loadings, scores = u.T @ (y_train[fit] - y_mean), (train[held_out] - mean) @ vt.T
        for row, alpha in enumerate(ALPHAS):
            predictions = scores @ ((s / (s**2 + alpha))[:, None] * loadings) + y_mean
            errors[row] += np.square(y_train[held_out] - predictions).sum(axis=0)
    ridge = Ridge(alpha=ALPHAS[errors.argmin(axis=0)], solver="svd").fit(train, y_train)
    return {"mean_ev": problem.mean_ev(ridge.predict(test))}


def _himalaya(problem: Problem, model: Any) -> dict[str, float]:
    model.fit(problem.features(problem.train), problem.responses[problem.train])
    predictions = model.predict(problem.features(problem.test))
    return {"mean_ev": problem.mean_ev(np.asarray(predictions, dtype=np.float64))}


def _splitter() -> KFold:
    return KFold(N_FOLDS, shuffle=True, random_state=SEED)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main(system: str, folder: str, n_threads: str, memory_limit_bytes: str) -> None:
    """Run one system under a limit on the memory it may allocate."""
    limit = int(memory_limit_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    print(json.dumps(run(system, Problem.load(Path(folder), int(n_threads)))))


if __name__ == "__main__":
    main(*sys.argv[1:])
