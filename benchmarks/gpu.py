"""What the toolkit does on a GPU: ``python -m benchmarks.gpu [--minutes 8] [--json FILE]``.

The most important first, each part in a process of its own within its share of the time; a row is
printed, and written to FILE, as soon as it is known. Synthetic images and neurons, random weights.
Without a CUDA device the same parts run small on the CPU, and the rows say so. ``docs/gpu.md`` says
how to run this on a machine without a network.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.face import Record, keep, measure_subprocess

ROOT = Path(__file__).resolve().parents[1]
# Of the whole time, what a part may take at the most; what one leaves over the next ones have.
PARTS = {"tests": 0.25, "quickstart": 0.25, "extract": 0.45, "train": 1.0}
# Scores on the GPU may differ from the CPU's by the rounding of float32 sums, no more.
R_TOLERANCE = 5e-3


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts, or, inside its process, the one that is named."""
    options = parser().parse_args(argv)
    if options.inside:
        for record in MEASURED[options.part]():
            print(json.dumps(asdict(record)), flush=True)
        return 0
    chosen = [options.part] if options.part else list(PARTS)
    records = keep(_all(chosen, options.minutes * 60), options.json)
    return 0 if all(record.status in ("ok", "not_installed") for record in records) else 1


def parser() -> argparse.ArgumentParser:
    """What the command line understands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the records here")
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def _all(parts: Sequence[str], total_s: float) -> Iterator[Record]:
    end_s = time.monotonic() + total_s
    for part in parts:
        left_s = end_s - time.monotonic()
        limit_s = left_s if part == parts[-1] else min(left_s, PARTS[part] * total_s)
        if limit_s <= 0:
            yield Record(part, "", "toolkit", status="timeout", note="no time was left for it")
            continue
        words = [sys.executable, "-m", "benchmarks.gpu", "--part", part, "--inside"]
        done = measure_subprocess(words, limit_s)
        for record in _printed(done.stdout):
            print(f"{record.benchmark}: {record.case}, {record.system}: {record.note}", flush=True)
            yield record
        if done.status != "ok":
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            note = f"ended within {limit_s:.0f} s" if done.status == "timeout" else last
            yield Record(part, "", "toolkit", done.seconds, status=done.status, note=note)


def _printed(output: str) -> Iterator[Record]:
    """The records that a part printed; a last line that was cut short is none."""
    for line in output.splitlines():
        try:
            yield Record(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            continue


def device() -> str:
    """``cuda`` or ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tests() -> Iterator[Record]:
    """The tests that need a CUDA device; without one, how many there are."""
    words = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-m", "cuda", str(ROOT / "tests")]
    done = measure_subprocess(words, 600)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    yield Record("tests", device(), "pytest -m cuda", done.seconds, status=done.status, note=last)


def quickstart() -> Iterator[Record]:
    """The quickstart's scores on the device against those on the CPU."""
    import numpy as np

    from toolkit.results import load

    where, keys = device(), ["model", "layer", "readout"]
    small = [] if where == "cuda" else ["dataset.n_train=120", "dataset.n_val=40"]
    found, seconds = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in dict.fromkeys((where, "cpu")):
            changes = [*small, f"extraction.device={name}", "executor.kind=inprocess"]
            words = [sys.executable, "-m", "toolkit.sweep", str(ROOT / "configs/quickstart.yaml")]
            words += ["--out", f"{folder}/{name}"]
            words += [word for change in changes for word in ("--set", change)]
            done = measure_subprocess(words, 600)
            if done.status != "ok":
                last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
                yield Record("quickstart", name, "toolkit", status=done.status, note=str(last))
                return
            seconds[name] = done.seconds
            found[name] = load(f"{folder}/{name}").results.set_index(keys)
    ours, cpu = found[where]["r_mean"], found["cpu"]["r_mean"]
    apart = float(np.abs(ours - cpu.loc[ours.index]).max())
    note = f"{len(ours)} scores, r_mean differs by {apart:.1e} at most (tolerance {R_TOLERANCE})"
    agrees = apart <= R_TOLERANCE and len(ours) == len(cpu)
    yield Record(
        "quickstart",
        f"{where} against cpu" + ("" if where == "cuda" else ": no CUDA device, the same twice"),
        "toolkit",
        seconds[where],
        ratio_to_floor=seconds[where] / seconds["cpu"],
        status="ok" if agrees else "failed",
        note=note,
    )


def extract() -> Iterator[Record]:
    """The cases of :mod:`benchmarks.extract`: ResNet-50 whole, the others in their essentials."""
    from benchmarks.extract import Case, compare, write_images

    on_gpu = device() == "cuda"
    n_images = 1152 if on_gpu else 64
    essential = ("bare forward loop", "toolkit, Gram only", "toolkit, full float16")
    more = ("toolkit, full float32", "toolkit, averaged", "hook script to .npy")
    cases = [Case("resnet50", n_images, 1, essential)]
    if on_gpu:
        cases += [Case("vit_b_16", n_images, 1, essential), Case("resnet50", n_images, 1, more)]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", n_images)
        for case in cases:
            for record in compare(case, Path(folder)):
                yield _where(record)


def train() -> Iterator[Record]:
    """The cases of :mod:`benchmarks.train` on the device."""
    import torch

    from benchmarks.train import cases, compare

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    on_gpu = device() == "cuda"
    for case in cases(quick=not on_gpu):
        yield from map(_where, compare(case, n_rounds=2))


def _where(record: Record) -> Record:
    note = "" if device() == "cuda" else "on the CPU, small: no CUDA device; "
    return replace(record, note=note + record.note)


MEASURED = {"tests": tests, "quickstart": quickstart, "extract": extract, "train": train}


if __name__ == "__main__":
    sys.exit(main())
