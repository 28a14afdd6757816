"""Features of all layers against the bare forward pass of their network.

Synthetic JPEG images of 256 px go through networks with random weights, whose speed is that of
trained ones. Each system of :mod:`benchmarks.extract_systems` runs in a process of its own, in turn
with the bare forward pass over batches that are ready; ratios are taken within such pairs. With
``THINGSVISION_PYTHON`` set to a Python that has THINGSvision, that peer runs too.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.extract_systems import FORMS, NETWORKS, SYSTEMS
from benchmarks.face import ProcessMeasurement, Record, main, measure_subprocess

_LIMIT = "bare forward"
_TIMEOUT_S = 600.0
_IN_MEMORY = ("hook script, in memory", "THINGSvision, in memory")
_THINGSVISION = {"THINGSvision, in memory": "memory", "THINGSvision to .pt": "disk"}
_IMAGE_PX = 256
_N_MEMORY_IMAGES = (200, 2000)


def extract(quick: bool) -> list[Record]:
    """Time the extraction of layers' features against the bare forward pass and against peers."""
    n_images = 96 if quick else 288
    networks = ("resnet50",) if quick else tuple(NETWORKS)
    records = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", n_images)
        for network in networks:
            n_pairs = 1 if quick else {"resnet50": 3}.get(network, 1)
            records += compare(network, n_images, folder, n_pairs)
    return records if quick else records + memory()


def compare(network: str, n_images: int, folder: Path, n_pairs: int) -> list[Record]:
    """Every system in turn with the bare forward pass."""
    case = f"{network}, {len(NETWORKS[network])} layers"
    limits: list[float] = []
    records = []
    for system in [name for name in SYSTEMS if name != _LIMIT] + thingsvision_systems():
        ratios, runs = [], []
        for _ in range(n_pairs):
            limit = run(_LIMIT, network, n_images, folder)
            runs.append(run(system, network, n_images, folder))
            limits.append(_seconds(limit))
            ratios.append(_seconds(runs[-1]) / limits[-1])
        records.append(_record(case, system, runs, ratios))
    rate = _n_timed(limit) / statistics.median(limits)
    limit_record = Record(
        "extract", case, _LIMIT, statistics.median(limits), limit.peak_memory_bytes, rate, 1.0
    )
    return [limit_record, *records]


def memory() -> list[Record]:
    """Peak memory of the toolkit at few and many images, and of a script that keeps all."""
    systems = (next(iter(FORMS)), "hook script, in memory")
    records = []
    for n_images in _N_MEMORY_IMAGES:
        with tempfile.TemporaryDirectory() as name:
            write_images(Path(name) / "images", n_images)
            for system in systems:
                measured = run(system, "resnet50", n_images, Path(name))
                case = f"memory: resnet50, {n_images} images"
                records.append(_record(case, system, [measured], []))
    return records


def write_images(folder: Path, n_images: int) -> None:
    """Write smooth random pictures (synthetic) as JPEG files of about 10 kB."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(n_images):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8))
        picture = coarse.resize((_IMAGE_PX, _IMAGE_PX), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:05d}.jpg", quality=90)


def thingsvision_systems() -> list[str]:
    """The peer's names, if a Python that has it is given."""
    return list(_THINGSVISION) if os.environ.get("THINGSVISION_PYTHON") else []


def run(system: str, network: str, n_images: int, folder: Path) -> ProcessMeasurement:
    """Run one system in a process of its own, and remove what it wrote."""
    n_threads = str(len(os.sched_getaffinity(0)))
    words = [sys.executable, "-m", "benchmarks.extract_systems", system]
    arguments = [network, str(n_images), str(folder), n_threads]
    if system in _THINGSVISION:
        script = Path(__file__).with_name("extract_thingsvision.py")
        words = [os.environ["THINGSVISION_PYTHON"], str(script)]
        arguments += [_THINGSVISION[system], *NETWORKS[network]]
    try:
        return measure_subprocess([*words, *arguments], _TIMEOUT_S)
    finally:
        for left in ("out", "thingsvision-images"):
            shutil.rmtree(folder / left, ignore_errors=True)


def _seconds(measured: ProcessMeasurement) -> float:
    if measured.status != "ok":
        return float("nan")
    return json.loads(measured.stdout.splitlines()[-1])["seconds"]


def _n_timed(measured: ProcessMeasurement) -> int:
    return json.loads(measured.stdout.splitlines()[-1])["n_images"]


def _record(
    case: str, system: str, runs: Sequence[ProcessMeasurement], ratios: Sequence[float]
) -> Record:
    peak_bytes = max(one.peak_memory_bytes for one in runs)
    failed = next((one for one in runs if one.status != "ok"), None)
    if failed:
        return Record(
            "extract",
            case,
            system,
            peak_memory_bytes=peak_bytes,
            status=failed.status,
            note=failed.stderr.strip()[-200:],
        )
    seconds = statistics.median(map(_seconds, runs))
    note = ""
    if ratios:
        reached = sorted(1 / ratio for ratio in ratios)
        note = f"{statistics.median(reached):.2f} of the bare forward rate"
        if len(reached) > 1:
            note += f" ({reached[0]:.2f} to {reached[-1]:.2f} in {len(reached)} pairs)"
    ratio = statistics.median(ratios) if ratios else None
    rate = _n_timed(runs[0]) / seconds
    return Record("extract", case, system, seconds, peak_bytes, rate, ratio, note=note)


if __name__ == "__main__":
    main(extract)
