"""Features of all layers against the bare forward pass of their network.

Synthetic JPEG images of 256 px go through networks with random weights, whose speed is that of
trained ones. Each system of :mod:`benchmarks.extract_systems` runs in a process of its own, in turn
with the limit, the bare forward pass over batches that are ready; ratios are taken in a round. With
``THINGSVISION_PYTHON`` set to a Python that has THINGSvision, that peer runs too.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.extract_systems import FORMS, LIMIT, NETWORKS, SYSTEMS
from benchmarks.face import ProcessMeasurement, Record, main, measure_subprocess

_TIMEOUT_S = 600.0
_ESSENTIAL = ("bare forward loop", *tuple(FORMS)[:3], "hook script to .npy")
_THINGSVISION = {"THINGSvision, in memory": "memory", "THINGSvision to .pt": "disk"}
_IMAGE_PX = 256
_N_MEMORY_IMAGES = (200, 2000)


@dataclass(frozen=True)
class Case:
    """A network, how many images it sees, how often, and which systems run."""

    network: str
    n_images: int
    n_rounds: int
    systems: Sequence[str]

    def __str__(self) -> str:
        return f"{self.network}, {len(NETWORKS[self.network])} layers"


def extract(quick: bool) -> Iterator[Record]:
    """Time the extraction of layers' features against the bare forward pass and against peers."""
    everything = [name for name in SYSTEMS if name != LIMIT] + thingsvision_systems()
    cases = [Case("resnet50", 160, 2, everything)]
    cases += [Case(name, 96, 1, _ESSENTIAL) for name in NETWORKS if name != "resnet50"]
    if quick:
        cases = [Case("resnet50", 96, 1, _ESSENTIAL)]
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name) / "images", max(case.n_images for case in cases))
        for case in cases:
            yield from compare(case, Path(name))
    if not quick:
        yield from memory()


def compare(case: Case, folder: Path) -> list[Record]:
    """Every system in turn; the limit before every third one and at the end of a round."""
    limits: list[ProcessMeasurement] = []
    runs: dict[str, list[ProcessMeasurement]] = {system: [] for system in case.systems}
    ratios: dict[str, list[float]] = {system: [] for system in case.systems}
    for _ in range(case.n_rounds):
        in_round = []
        for number, system in enumerate(case.systems):
            if number % 3 == 0:
                in_round.append(run(LIMIT, case, folder))
            runs[system].append(run(system, case, folder))
        in_round.append(run(LIMIT, case, folder))
        limit_s = statistics.median(map(_seconds, in_round))
        for system in case.systems:
            ratios[system].append(_seconds(runs[system][-1]) / limit_s)
        limits += in_round
    records = [_record(str(case), LIMIT, limits, [1.0])]
    return records + [_record(str(case), name, runs[name], ratios[name]) for name in case.systems]


def memory() -> Iterator[Record]:
    """Peak memory of the toolkit at few and many images, and of a script that keeps all."""
    systems = (next(iter(FORMS)), "hook script, in memory")
    for n_images in _N_MEMORY_IMAGES:
        with tempfile.TemporaryDirectory() as name:
            write_images(Path(name) / "images", n_images)
            for system in systems:
                measured = run(system, Case("resnet50", n_images, 1, systems), Path(name))
                case = f"memory: resnet50, {n_images} images"
                yield _record(case, system, [measured], [])


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


def run(system: str, case: Case, folder: Path) -> ProcessMeasurement:
    """Run one system in a process of its own, and remove what it wrote."""
    n_threads = str(len(os.sched_getaffinity(0)))
    words = [sys.executable, "-m", "benchmarks.extract_systems", system]
    arguments = [case.network, str(case.n_images), str(folder), n_threads]
    if system in _THINGSVISION:
        script = Path(__file__).with_name("extract_thingsvision.py")
        words = [os.environ["THINGSVISION_PYTHON"], str(script)]
        arguments += [_THINGSVISION[system], *NETWORKS[case.network]]
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
        note = f"{statistics.median(reached):.2f} of the limit"
        if len(reached) > 1:
            note += f" ({reached[0]:.2f} to {reached[-1]:.2f} in {len(reached)} pairs)"
    ratio = statistics.median(ratios) if ratios else None
    rate = _n_timed(runs[0]) / seconds
    return Record("extract", case, system, seconds, peak_bytes, rate, ratio, note=note)


if __name__ == "__main__":
    main(extract)
