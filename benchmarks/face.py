"""The face all benchmarks share: ``python -m benchmarks.NAME [--quick] [--json FILE]``.

A benchmark is a function from "quick?" to the :class:`Record` s, and its module ends with
``main(benchmark)``. Every record compares one system with a floor measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal

import psutil
from rich.filesize import decimal
from rich.table import Table

from toolkit.results.provenance import versions
from toolkit.terminal import make_console, run_command

Status = Literal["ok", "out_of_memory", "timeout", "failed", "not_installed"]

_POLL_INTERVAL_S = 0.01
_OUT_OF_MEMORY = re.compile(
    r"MemoryError|out ?of ?memory|unable to allocate|can't allocate memory|std::bad_alloc",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Record:
    """One measurement; None where a quantity does not apply.

    Parameters
    ----------
    benchmark, case, system
        Which claim, on which input, measured on whom (the toolkit, a peer, or the floor).
    seconds
        Wall-clock time.
    peak_memory_bytes
        Peak resident memory of the process and its children.
    images_per_second
        Throughput.
    ratio_to_floor
        ``seconds`` over the floor's ``seconds`` in the same run: 1 is as fast as the floor.
    status
        ``ok``, or why there is no time: ``out_of_memory``, ``timeout``, ``failed``, or
        ``not_installed`` of a peer.
    note
        What a reader must know to judge the number.
    """

    benchmark: str
    case: str
    system: str
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    images_per_second: float | None = None
    ratio_to_floor: float | None = None
    status: Status = "ok"
    note: str = ""


@dataclass(frozen=True)
class Measurement:
    """Wall-clock seconds and peak resident bytes of one measured call."""

    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True)
class ProcessMeasurement(Measurement):
    """A measured child process: how it ended and what it printed."""

    status: Status
    stdout: str
    stderr: str


def measure(function: Callable[[], object]) -> Measurement:
    """Time one call in this process.

    The peak is the largest sum of the resident memory of this process and its children, sampled
    every 10 ms from a thread while the call runs. It includes what was resident before the call
    (use :func:`measure_subprocess` for a clean start), counts a page shared by two processes
    twice, and can miss a shorter spike.
    """
    with _peak_memory(psutil.Process()) as peak:
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
    return Measurement(seconds, peak.n_bytes)


def measure_subprocess(argv: Sequence[str], timeout_s: float) -> ProcessMeasurement:
    """Time a command; running out of time or memory, or failing, is a result and not an exception.

    The peak is sampled as in :func:`measure`, over the child and its descendants only. (The
    kernel's own ``RUSAGE_CHILDREN`` would be exact for one process, but never falls again and
    starts at the size of the parent that forked.)

    Parameters
    ----------
    argv
        The command; it runs in a session of its own, which is killed as a whole at the end.
    timeout_s
        Seconds after which the status is ``timeout``.

    Returns
    -------
    ProcessMeasurement
        The status is ``out_of_memory`` when the command was killed (on Linux, by the kernel's
        out-of-memory killer) or failed with an allocation error on stderr, and ``failed`` for
        any other exit status but 0.

    Raises
    ------
    OSError
        If the command cannot be started.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stdout,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
    ):
        start = time.perf_counter()
        child = subprocess.Popen(argv, stdout=stdout, stderr=stderr, start_new_session=True)
        timed_out = False
        try:
            with _peak_memory(psutil.Process(child.pid)) as peak:
                child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            seconds = time.perf_counter() - start
            _kill_session(child)
        stdout.seek(0)
        stderr.seek(0)
        output, errors = stdout.read(), stderr.read()
    status = "timeout" if timed_out else _exit_status(child.returncode, errors)
    return ProcessMeasurement(seconds, peak.n_bytes, status, output, errors)


def machine_record() -> dict[str, Any]:
    """The machine: cores this process may use, CPU, whole memory, GPU, system, package versions."""
    return {
        "n_cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": _gpu_names(),
        "os": platform.platform(),
        "versions": versions(),
    }


def main(benchmark: Callable[[bool], Iterable[Record]], argv: Sequence[str] | None = None) -> None:
    """Run a benchmark from the command line: print its table and, if asked, write its JSON.

    Parameters
    ----------
    benchmark
        Called with whether ``--quick`` was given; its docstring is the command's help. One that
        yields its records has those measured so far kept when it is stopped.
    argv
        Arguments instead of the command line's.

    Notes
    -----
    The JSON file is one list: every record, then the machine as
    ``{"benchmark": "machine", ...}``.
    """
    parser = argparse.ArgumentParser(description=benchmark.__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the records here")
    arguments = parser.parse_args(argv)
    if arguments.json and not arguments.json.parent.is_dir():
        parser.error(f"--json {arguments.json}: its folder does not exist")

    def measure() -> int:
        keep(benchmark(arguments.quick), arguments.json)
        return 0

    run_command(measure)


def keep(measured: Iterable[Record], path: Path | None = None) -> list[Record]:
    """Take the records of a benchmark as they come; print their table at its end, however it ends.

    Parameters
    ----------
    measured
        The records.
    path
        JSON file that holds, after each record, all so far and the machine.

    Returns
    -------
    list of Record
        All of them.
    """
    records: list[Record] = []
    machine = machine_record()
    try:
        for record in measured:
            records.append(record)
            if path:
                content = [*map(asdict, records), {"benchmark": "machine", **machine}]
                path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    finally:
        _show(records, machine)
    return records


def _show(records: Sequence[Record], machine: dict[str, Any]) -> None:
    console = make_console()
    console.print(_table(records))
    console.print(
        f"{machine['n_cores']} cores of {machine['cpu']}, {decimal(machine['memory_bytes'])}, "
        f"GPU: {machine['gpu'] or 'none'}",
    )


@dataclass
class _Peak:
    n_bytes: int = 0


@contextmanager
def _peak_memory(root: psutil.Process) -> Iterator[_Peak]:
    peak, stopped = _Peak(), Event()

    def sample() -> None:
        peak.n_bytes = max(peak.n_bytes, _resident_bytes(root))

    def sample_until_stopped() -> None:
        while not stopped.wait(_POLL_INTERVAL_S):
            sample()

    sample()
    sampler = Thread(target=sample_until_stopped, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        stopped.set()
        sampler.join()
        sample()


def _resident_bytes(root: psutil.Process) -> int:
    """Resident bytes of a process and its descendants; 0 for those that are gone."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in [root, *root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
    return total


def _kill_session(child: subprocess.Popen[bytes]) -> None:
    """End the child and every process that stayed in its session."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _exit_status(returncode: int, stderr: str) -> Status:
    if returncode == 0:
        return "ok"
    killed = returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    return "out_of_memory" if killed or _OUT_OF_MEMORY.search(stderr) else "failed"


def _cpu_model() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_names() -> str | None:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            command, capture_output=True, encoding="utf-8", timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ", ".join(answer.stdout.splitlines()) or None


def _table(records: Sequence[Record]) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for heading in ("benchmark", "case", "system"):
        table.add_column(heading, overflow="fold")
    for heading in ("seconds", "peak", "images/s", "× floor"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("status", "note"):
        table.add_column(heading, overflow="fold")
    for record in records:
        table.add_row(
            record.benchmark,
            record.case,
            record.system,
            _number(record.seconds),
            "–" if record.peak_memory_bytes is None else decimal(record.peak_memory_bytes),
            _number(record.images_per_second),
            _number(record.ratio_to_floor),
            record.status,
            record.note,
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
