"""``python -m toolkit.sweep`` as people give it, in processes of their own that start at once.

Most of a small sweep's time goes into imports. A server imports libraries and toolkit once, and
every command is a fork of it. Other Pythons that need these libraries are forks of it, too:
``python``, ``SERVER.Process``.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch",
        "torchvision",
        "timm",
        "pandas",
        "pyarrow.parquet",
        "zarr",
        "distributed",
        "sklearn.cross_decomposition",
        "sklearn.model_selection",
        "submitit",
        "zarrs",
        "jobs.encode",
        "jobs.extract",
        "jobs.run",
        "toolkit.data",
        "toolkit.encoding",
        "toolkit.features.extract",
        "toolkit.features.store",
        "toolkit.models",
        "toolkit.plan",
        "toolkit.results",
        "toolkit.verbs.running",
    ]
)


class Command:
    """A running ``python WORDS``; what it has of :class:`subprocess.Popen` is like there."""

    def __init__(self, words: list[str], cwd: Path, environment: dict[str, str]) -> None:
        descriptor, self._output = tempfile.mkstemp()
        os.close(descriptor)
        self._process = SERVER.Process(
            target=_become, args=(words, self._output, str(cwd), environment)
        )
        self._process.start()
        atexit.register(self.kill)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.pid is not None and self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("python", timeout or 0.0, self.output())
        return self.output(), None

    def output(self) -> str:
        """What it has printed so far."""
        return Path(self._output).read_text(encoding="utf-8")


def start(*words: str | Path, cwd: Path = ROOT, **environment: str) -> Command:
    """``python -m toolkit.sweep WORDS``, in a wide terminal."""
    return _start("-m", "toolkit.sweep", *words, cwd=cwd, COLUMNS="200", **environment)


def sweep(*words: str | Path, expect: int = 0, cwd: Path = ROOT, **environment: str) -> str:
    """Run the command to its end, and give what it said."""
    return _output(start(*words, cwd=cwd, **environment), expect)


def python(*words: str | Path, expect: int = 0, cwd: Path = ROOT, **environment: str) -> str:
    """The same of ``python WORDS``, the first of which is ``-c``, ``-m`` or a script."""
    return _output(_start(*words, cwd=cwd, **environment), expect)


def _start(*words: str | Path, cwd: Path, **environment: str) -> Command:
    return Command(list(map(str, words)), cwd, {**os.environ, **environment})


def _output(process: Command, expect: int) -> str:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == expect, output
    return output


def _become(words: list[str], output: str, cwd: str, environment: dict[str, str]) -> None:
    import torch
    from threadpoolctl import threadpool_limits

    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
        stream.reconfigure(encoding="utf-8", line_buffering=True)  # type: ignore[union-attr]
    os.chdir(cwd)
    if Path(cwd, "toolkit").is_dir() and not ROOT.samefile(cwd):  # another checkout has its own
        for name in [m for m in sys.modules if m.partition(".")[0] in ("toolkit", "jobs")]:
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)
    if n_threads := environment.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(n_threads))
        threadpool_limits(int(n_threads))
    sys.path.insert(0, cwd)
    kind, *sys.argv = words if words[0] in ("-c", "-m") else ("", *words)
    if kind == "-m":
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        exec(sys.argv[0], {"__name__": "__main__"})
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
