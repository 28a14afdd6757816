"""What a local sweep costs beyond the bare science of its tasks, start-up included.

The floor is :mod:`benchmarks.bare_science`, a plain script that makes the same features and
scores in one process; the two run in turn, and the ratio is the median over the pairs.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.face import ProcessMeasurement, Record, main, measure_subprocess

_QUICKSTART = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
_QUICK = (
    "dataset.n_train=200",
    "dataset.n_val=50",
    "models=[{library: pixels}, {library: timm, names: resnet10t}]",
)
_FLOOR = "plain script (floor)"
_TIMEOUT_S = 900.0


def sweep_local(quick: bool) -> list[Record]:
    """Time the quickstart in process and in jobs, against the plain script."""
    overrides = _QUICK if quick else ()
    n_pairs = 1 if quick else 3
    case = f"{_QUICKSTART.stem}{', fewer images and networks' if quick else ''}"
    systems = {
        _FLOOR: lambda folder: _bare(folder, overrides),
        "sweep, in process": lambda folder: _sweep(folder, "inprocess", overrides),
        "sweep, local jobs": lambda folder: _sweep(folder, "local", overrides),
    }
    runs: dict[str, list[ProcessMeasurement]] = {name: [] for name in systems}
    for _ in range(n_pairs):
        for name, run in systems.items():
            with tempfile.TemporaryDirectory() as folder:
                runs[name].append(run(Path(folder)))
    floor = runs[_FLOOR]
    return [_record(case, name, measured, floor) for name, measured in runs.items()]


def _sweep(folder: Path, executor: str, overrides: tuple[str, ...]) -> ProcessMeasurement:
    words = [sys.executable, "-m", "toolkit.sweep", str(_QUICKSTART)]
    words += ["--out", str(folder / "run"), "--executor", executor]
    words += [word for override in overrides for word in ("--set", override)]
    return measure_subprocess(words, _TIMEOUT_S)


def _bare(folder: Path, overrides: tuple[str, ...]) -> ProcessMeasurement:
    words = [sys.executable, "-m", "benchmarks.bare_science", str(_QUICKSTART), str(folder)]
    return measure_subprocess([*words, *overrides], _TIMEOUT_S)


def _record(
    case: str, name: str, measured: list[ProcessMeasurement], floor: list[ProcessMeasurement]
) -> Record:
    failed = next((run for run in measured if run.status != "ok"), None)
    if failed:
        return Record("sweep_local", case, name, status=failed.status, note=failed.stderr[-300:])
    ratios = [run.seconds / base.seconds for run, base in zip(measured, floor, strict=True)]
    return Record(
        benchmark="sweep_local",
        case=case,
        system=name,
        seconds=statistics.median(run.seconds for run in measured),
        peak_memory_bytes=max(run.peak_memory_bytes for run in measured),
        ratio_to_floor=statistics.median(ratios),
        note=f"{len(measured)} run(s), ratios {min(ratios):.2f} to {max(ratios):.2f}",
    )


if __name__ == "__main__":
    main(sweep_local)
