"""From stored features to scores: PCA(1000) → ridge per neuron, by the toolkit and by its peers.

Synthetic layers as wide as those of ResNet-50 lie in a feature store in a temporary folder (about
9 GB for the widest). Each system of :mod:`benchmarks.encode_peers` scores them in a process of its
own, limited in time and in the memory it may allocate; the floor is one reading of the layer, its
symmetric products and one eigendecomposition, all measured in the same run.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.encode_peers import LAYER, SYSTEMS
from benchmarks.face import ProcessMeasurement, Record, Status, main, measure_subprocess
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo

N_NEURONS = 168
_N_LATENTS = 256
_N_READ_FEATURES = 4096
_SEED = 0

_FLOOR, _TOOLKIT = "floor", "toolkit"
_EXACT = "scikit-learn PCA(full)"
_PEERS = tuple(name for name in SYSTEMS if name not in (_FLOOR, _TOOLKIT))
_MEMORY_SHARE = 0.85


@dataclass(frozen=True)
class Size:
    """How large a problem is.

    Attributes
    ----------
    n_features
        p, width of the layer.
    n_train, n_test
        Images.
    n_components
        Principal components that are kept.
    """

    n_features: int
    n_train: int = 2592
    n_test: int = 288
    n_components: int = 1000

    def __str__(self) -> str:
        return f"p = {self.n_features:,}, n = {self.n_train:,} + {self.n_test}"


@dataclass(frozen=True)
class Budget:
    """What every system may use, and how often the toolkit and the floor are run in turn."""

    n_threads: int
    memory_bytes: int
    peer_timeout_s: float
    n_pairs: int


@dataclass(frozen=True)
class Run:
    """How one system fared.

    Attributes
    ----------
    measured
        Its process.
    result
        What the process printed; empty if it did not finish.
    other_cores
        Cores that other work on the machine kept busy meanwhile. Linear algebra on several threads
        slows down out of proportion where they must share cores.
    """

    measured: ProcessMeasurement
    result: dict[str, float]
    other_cores: float

    @property
    def seconds(self) -> float:
        """Seconds of work; NaN if it did not finish."""
        return self.result.get("seconds", math.nan)


def encode(quick: bool) -> list[Record]:
    """Time PCA and ridge on wide synthetic layers, against peers and the floor."""
    n_threads = len(os.sched_getaffinity(0))
    budget = Budget(
        n_threads=n_threads,
        memory_bytes=int(_MEMORY_SHARE * psutil.virtual_memory().available),
        peer_timeout_s=20.0 if quick else 120.0,
        n_pairs=1 if quick else 2,
    )
    if quick:
        return compare([Size(12_544, n_train=512, n_test=64, n_components=200)], budget)
    comparison = compare([Size(50_176), Size(200_704), Size(802_816)], budget)
    return comparison + scaling(Size(100_352, n_train=1280, n_test=160), budget)


def compare(sizes: Iterable[Size], budget: Budget) -> list[Record]:
    """Run all systems at each size; a peer that ran out at one size is not run at the next."""
    records: list[Record] = []
    given_up: dict[str, Record] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_problem(folder, size)
            pairs = [
                (run_system(_FLOOR, folder, budget), run_system(_TOOLKIT, folder, budget))
                for _ in range(budget.n_pairs)
            ]
            peers = {
                peer: run_system(peer, folder, budget, budget.peer_timeout_s)
                for peer in _PEERS
                if peer not in given_up
            }
        floors, toolkit = [floor for floor, _ in pairs], [run for _, run in pairs]
        exact_ev = peers[_EXACT].result.get("mean_ev") if _EXACT in peers else None
        records.append(_floor_record(size, floors))
        records.append(_toolkit_record(size, toolkit, floors, exact_ev))
        for peer in _PEERS:
            record = given_up.get(peer) or _peer_record(
                size, peer, peers[peer], toolkit, floors, budget
            )
            if peer in given_up:
                record = replace(record, case=str(size), note=f"not run: see {record.case}")
            elif record.status != "ok":
                given_up[peer] = record
            records.append(record)
    return records


def scaling(base: Size, budget: Budget) -> list[Record]:
    """Time the toolkit on half the cores; then twice the features, the images, the cores."""
    n_threads = max(1, budget.n_threads // 2)
    half = replace(budget, n_threads=n_threads)
    wider = replace(base, n_features=2 * base.n_features)
    longer = replace(base, n_train=2 * base.n_train, n_test=2 * base.n_test)
    steps = {
        "base": (base, half),
        "p × 2": (wider, half),
        "n × 2": (longer, half),
        "workers × 2": (base, replace(half, n_threads=2 * n_threads)),
    }
    seconds: dict[str, float] = {}
    records = []
    for step, (size, step_budget) in steps.items():
        with tempfile.TemporaryDirectory() as name:
            write_problem(Path(name), size)
            runs = [run_system(_TOOLKIT, Path(name), step_budget) for _ in range(budget.n_pairs)]
        seconds[step] = _median_s(runs)
        record = _toolkit_record(size, runs)
        record = replace(
            record,
            benchmark="encode_scaling",
            case=f"{step}: {size}, {step_budget.n_threads} threads",
            note=f"{seconds[step] / seconds['base']:.2f} × the time of base; {record.note}",
        )
        records.append(record)
    return records


def write_problem(folder: Path, size: Size) -> None:
    """Write a synthetic layer and synthetic neurons for :meth:`Problem.load` to read.

    Features are max(0, Σ_k z_k w_k), of latents z_k with variance 1/k over images and a constant,
    and random w: non-negative, about half zeros, of a common mean, with principal variances
    falling about as 1/k, and of full rank. Neurons are linear in some of the features, plus noise
    of the same variance.
    """
    rng = np.random.default_rng(_SEED)
    n_stimuli = size.n_train + size.n_test
    latents = rng.standard_normal((n_stimuli, _N_LATENTS), dtype=np.float32)
    latents /= np.sqrt(np.arange(1, _N_LATENTS + 1, dtype=np.float32))
    latents[:, 0] = 1
    weights = rng.standard_normal((_N_LATENTS, size.n_features), dtype=np.float32)
    store = FeatureStore.create(
        folder / "features.zarr",
        layers=[LayerInfo(LAYER, (size.n_features,), 0)],
        stimulus_ids=[f"image{index}" for index in range(n_stimuli)],
        provenance={"source": "synthetic"},
    )
    store.require_space(store.missing_blocks())
    for block in range(store.n_blocks):
        features = latents[store.rows(block)] @ weights
        store.write_block(block, {LAYER: np.maximum(features, 0, out=features)})

    read = store.read(LAYER, slice(0, min(_N_READ_FEATURES, size.n_features)))
    signal = (read - read.mean(axis=0)) @ rng.standard_normal((read.shape[1], N_NEURONS))
    signal /= signal.std(axis=0)
    np.save(folder / "responses.npy", signal + rng.standard_normal(signal.shape))
    problem = {"n_train": size.n_train, "n_components": size.n_components}
    (folder / "problem.json").write_text(json.dumps(problem), encoding="utf-8")


def run_system(system: str, folder: Path, budget: Budget, timeout_s: float = 900.0) -> Run:
    """Run one system of :mod:`benchmarks.encode_peers` in a process of its own."""
    arguments = [system, str(folder), str(budget.n_threads), str(budget.memory_bytes)]
    words = [sys.executable, "-m", "benchmarks.encode_peers", *arguments]
    busy_s, own_s, start = _busy_s(), _children_s(), time.perf_counter()
    measured = measure_subprocess(words, timeout_s)
    others_s = _busy_s() - busy_s - (_children_s() - own_s)
    other_cores = max(0.0, others_s / (time.perf_counter() - start))
    finished = measured.status == "ok"
    result = json.loads(measured.stdout.splitlines()[-1]) if finished else {}
    return Run(measured, result, other_cores)


def _floor_record(size: Size, floors: Sequence[Run]) -> Record:
    parts = {
        name: statistics.median(run.result.get(f"{name}_s", math.nan) for run in floors)
        for name in ("read", "product", "eigh")
    }
    note = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items()) + _others(floors)
    return replace(_record(size, _FLOOR, floors), ratio_to_floor=1.0, note=note)


def _toolkit_record(
    size: Size,
    runs: Sequence[Run],
    floors: Sequence[Run] = (),
    exact_ev: float | None = None,
) -> Record:
    record = _record(size, _TOOLKIT, runs, floors)
    if record.status != "ok":
        return record
    mean_ev = runs[0].result["mean_ev"]
    gram_s = statistics.median(run.result["gram_s"] for run in runs)
    note = f"mean EV {mean_ev:.5f}; Gram matrix {gram_s:.2f} s of it"
    if exact_ev is not None:
        note += f"; {abs(mean_ev - exact_ev):.0e} from the mean EV of {_EXACT}"
    return replace(record, note=note + _others(runs))


def _peer_record(
    size: Size,
    peer: str,
    run: Run,
    toolkit: Sequence[Run],
    floors: Sequence[Run],
    budget: Budget,
) -> Record:
    record = _record(size, peer, [run], floors)
    if record.status == "ok":
        faster = f"the toolkit is {run.seconds / _median_s(toolkit):.1f} × faster"
        note = f"mean EV {run.result['mean_ev']:.5f}; {faster}"
        return replace(record, note=note + _others([run]))
    notes: dict[Status, str] = {
        "timeout": f"not done after {budget.peer_timeout_s:g} s: the toolkit is more than "
        f"{budget.peer_timeout_s / _median_s(toolkit):.1f} × faster",
        "out_of_memory": f"allocations are limited to {budget.memory_bytes / 1e9:.1f} GB",
    }
    return replace(record, note=notes.get(record.status, record.note) + _others([run]))


def _record(size: Size, system: str, runs: Sequence[Run], floors: Sequence[Run] = ()) -> Record:
    failed = next((run.measured for run in runs if run.measured.status != "ok"), None)
    peak_bytes = max(run.measured.peak_memory_bytes for run in runs)
    record = Record("encode", str(size), system, peak_memory_bytes=peak_bytes)
    if failed:
        return replace(record, status=failed.status, note=failed.stderr[-300:])
    return replace(
        record,
        seconds=_median_s(runs),
        ratio_to_floor=_ratio(runs, floors) if floors else None,
    )


def _ratio(runs: Sequence[Run], floors: Sequence[Run]) -> float:
    """Median ratio over pairs that ran in turn, or else to the median floor."""
    if len(runs) == len(floors):
        pairs = zip(runs, floors, strict=True)
        return statistics.median(run.seconds / floor.seconds for run, floor in pairs)
    return _median_s(runs) / _median_s(floors)


def _busy_s() -> float:
    """CPU seconds of all processes since the machine started."""
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq


def _children_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _others(runs: Sequence[Run]) -> str:
    return f"; others on {statistics.median(run.other_cores for run in runs):.1f} cores"


def _median_s(runs: Sequence[Run]) -> float:
    return statistics.median(run.seconds for run in runs)


if __name__ == "__main__":
    main(encode)
