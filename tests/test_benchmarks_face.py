import json
import mmap
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.face import (
    Record,
    machine_record,
    main,
    measure,
    measure_subprocess,
)

MEBIBYTE = 2**20
RECORD_FIELDS = [
    "benchmark",
    "case",
    "system",
    "seconds",
    "peak_memory_bytes",
    "images_per_second",
    "ratio_to_floor",
    "status",
    "note",
]


def python(code: str, timeout_s: float = 60):
    return measure_subprocess([sys.executable, "-c", code], timeout_s)


def synthetic_benchmark(quick: bool) -> list[Record]:
    """A synthetic claim."""
    case = "quick" if quick else "full"
    return [
        Record("synthetic", case, "floor", 2.0, 10 * MEBIBYTE, 64.0, 1.0),
        Record("synthetic", case, "peer [bold]", status="out_of_memory", note="16 GiB — ü"),
    ]


def test_record_fields_are_the_agreed_ones() -> None:
    assert [field.name for field in fields(Record)] == RECORD_FIELDS


def test_measure_times_the_call_and_sees_its_memory() -> None:
    def allocate() -> None:
        # From the system and back, whatever the allocator of this process keeps.
        with mmap.mmap(-1, 200 * MEBIBYTE) as block:
            np.frombuffer(block, np.uint8).fill(1)
            time.sleep(0.2)

    before = psutil.Process().memory_info().rss
    measured = measure(allocate)
    assert 0.2 <= measured.seconds < 10
    assert measured.peak_memory_bytes >= before + 190 * MEBIBYTE


def test_measure_lets_an_error_through() -> None:
    with pytest.raises(ZeroDivisionError):
        measure(lambda: 1 / 0)


def test_subprocess_peak_covers_the_tree_but_not_this_process() -> None:
    """A child and its own child, each with 150 MiB, while this process holds 600 MiB."""
    ballast = np.ones(600 * MEBIBYTE, dtype=np.uint8)
    hold = "import time; block = bytearray(b'1') * (150 * 2**20); time.sleep(0.5)"
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}"
    measured = python(code + "; p.wait()")
    del ballast
    assert measured.status == "ok"
    assert 300 * MEBIBYTE <= measured.peak_memory_bytes < 500 * MEBIBYTE


def test_subprocess_output_and_seconds() -> None:
    measured = python("import sys, time; time.sleep(.3); print('ü'); print('e', file=sys.stderr)")
    assert (measured.status, measured.stdout, measured.stderr) == ("ok", "ü\n", "e\n")
    assert 0.3 <= measured.seconds < 20


def test_subprocess_may_print_more_than_a_pipe_holds() -> None:
    assert len(python("print('x' * 10_000_000)").stdout) == 10_000_001


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", "failed"),
        ("raise ValueError('wrong')", "failed"),
        ("raise MemoryError", "out_of_memory"),
        ("import numpy; numpy.ones(2**45)", "out_of_memory"),
        ("import torch; torch.empty(2**50)", "out_of_memory"),
        ("import os; os.kill(os.getpid(), 9)", "out_of_memory"),
        ("raise SystemExit(137)", "out_of_memory"),
        ("import os; os.kill(os.getpid(), 15)", "failed"),
    ],
)
def test_how_a_subprocess_ended(code: str, status: str) -> None:
    assert python(code).status == status


def test_timeout_is_a_result_and_ends_the_whole_tree() -> None:
    sleeper = "import time; time.sleep(600)"
    code = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {sleeper!r}])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    measured = python(code, timeout_s=3)
    assert measured.status == "timeout"
    assert 3 <= measured.seconds < 20
    grandchild = int(measured.stdout)
    deadline = time.monotonic() + 10
    while is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(grandchild)


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_command_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-command"):
        measure_subprocess(["no-such-command"], 1)


def test_machine_record_describes_this_machine() -> None:
    machine = machine_record()
    assert machine["n_cores"] == len(os.sched_getaffinity(0))
    assert machine["memory_bytes"] == psutil.virtual_memory().total
    assert machine["cpu"]
    assert machine["versions"]["numpy"] == np.__version__
    json.dumps(machine)


@pytest.mark.parametrize("quick", [True, False])
def test_main_prints_the_table_and_writes_the_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: bool
) -> None:
    file = tmp_path / "records.json"
    main(synthetic_benchmark, ["--json", str(file), *["--quick"] * quick])

    content = json.loads(file.read_text())
    assert len(content) == 3
    assert list(content[0]) == RECORD_FIELDS
    assert content[0]["case"] == ("quick" if quick else "full")
    assert content[1]["seconds"] is None
    assert content[1]["note"] == "16 GiB — ü"
    assert content[2]["benchmark"] == "machine"
    assert content[2]["versions"]["numpy"] == np.__version__
    printed = capsys.readouterr().out
    for shown in ("floor", "[bold]", "10.5 MB"):
        assert shown in printed


def test_an_impossible_json_path_is_refused_before_the_benchmark_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []
    with pytest.raises(SystemExit):
        main(lambda quick: ran.append(quick) or [], ["--json", str(tmp_path / "no" / "x.json")])
    assert not ran
    assert "folder does not exist" in capsys.readouterr().err


def test_the_face_does_not_import_torch() -> None:
    code = "import sys, benchmarks.face as f; f.machine_record(); print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "False"
