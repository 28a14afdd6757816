"""Foreign text is printed whole, does nothing to the terminal, and passes through any encoding."""

import argparse
import ast
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from toolkit import verbs
from toolkit.cluster.display import following
from toolkit.cluster.run_folder import RunFolder
from toolkit.sweep import main
from toolkit.task import Task, TaskState
from toolkit.terminal import make_console, one_line, visible
from toolkit.verbs.loading import load_sweep

ROOT = Path(__file__).resolve().parents[1]
MESSAGE = "[enforce fail at /pytorch/a/b.cc:575] [bold] [/x] :smile: x.size() == y.size()"
DATASET, READOUT = "[red]x synthetic", "ridge [/dim]"
CONFIG = f"""\
name: brackets
dataset:
  kind: synthetic
  name: "{DATASET}"
  n_train: 20
  n_val: 10
  n_neuroids: 3
  image_px: 16
models: {{library: pixels}}
readouts: {{kind: ridge, name: "{READOUT}", n_components: 5}}
executor: {{kind: inprocess}}
resources: {{extract: {{cpus: 1}}, encode: {{cpus: 1}}}}
"""
HOSTILE = "\x1b[2J\x1b]0;owned\x07 a\x9b31mb \u202ecba\u2066 c\rd \x00\x7f\x85\u2028\ud83d"
FORBIDDEN = {*map(chr, range(32)), *map(chr, range(127, 160))} - {"\n"} | set("\u202e\u2066\u2028")


def planned(folder: Path) -> RunFolder:
    """A run folder in which nothing has run."""
    config = folder / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    options = argparse.Namespace(
        config=str(config), out=folder / "run[v2] [", overrides=[], executor=None, profile=None
    )
    sweep = load_sweep(options)
    sweep.folder.create()
    sweep.folder.write_plan(sweep.plan.tasks, sweep.settings())
    return sweep.folder


def fail(run: RunFolder, task: Task, message: str) -> None:
    attempt = replace(run.start_attempt(task.id), state=TaskState.FAILED)
    run.record(replace(attempt, error_class="unknown", error_message=message))
    run.log_path(task.id).write_text(f"start\n{message}\n", "utf-8", "surrogatepass")


def test_brackets_are_text_in_every_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    run = planned(tmp_path)
    fail(run, run.tasks()[0], MESSAGE)

    def said(*words: str | Path, expect: int = 0) -> str:
        assert main([str(word) for word in words]) == expect
        return capsys.readouterr().out

    plan = said("plan", tmp_path / "config.yaml", "--out", run.path)
    assert f"{DATASET}: 30 stimuli" in plan
    status = said("status", run.path, expect=1)
    assert str(run.path) in status
    assert READOUT in status
    assert status.count(MESSAGE) == 2  # of the extraction, and of the read-out that waits for it
    assert MESSAGE in said("logs", run.path, expect=0)
    assert MESSAGE in said("collect", run.path, expect=1)
    retried = said("retry", run.path)
    assert DATASET in retried
    assert READOUT in retried
    assert str(run.path) in retried
    (page,) = said("report", run.path).splitlines()
    assert READOUT in Path(page).read_text(encoding="utf-8")


@pytest.mark.parametrize("width", [60, 300])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_foreign_reaches_the_terminal(
    tmp_path: Path, width: int, is_terminal: bool
) -> None:
    run = planned(tmp_path)
    first, *_ = run.tasks()
    long = replace(first, columns={**first.columns, "model": f"{'m' * 300}{HOSTILE[:-1]}"})
    run.write_plan([long, *run.tasks()[1:]], run.read_summary())
    printed = StringIO()
    console = make_console(
        file=printed,
        width=width,
        force_terminal=is_terminal,
        color_system=None,
        legacy_windows=False,
    )
    with following(run, run.tasks(), console):
        fail(run, first, HOSTILE)
    followed = printed.getvalue()
    printed.seek(0)
    printed.truncate()
    for verb in (verbs.status, verbs.logs, verbs.collect):
        verb(argparse.Namespace(run=run.path, watch=False, task=None, n_lines=40), console)
    text = printed.getvalue() + (followed if not is_terminal else "")
    assert FORBIDDEN.isdisjoint(text)
    assert "\\x1b[2J\\x1b]0;owned\\x07" in "".join(text.split())
    assert "\\ud83d" in text.encode("utf-8").decode("utf-8")
    assert max(map(len, printed.getvalue().splitlines())) <= max(width, 800)


def test_what_is_seen_of_a_text() -> None:
    assert visible("Größe 10 µm\tβ\nü 图像 🙂") == "Größe 10 µm\tβ\nü 图像 🙂"
    assert visible("a\x1b\r\xa0b") == "a\\x1b\\r\\xa0b"
    assert one_line("a\tb\nc") == "a\\tb\\nc"


def test_a_log_breaks_its_lines_where_its_writer_did(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = planned(tmp_path)
    log = run.log_path(run.tasks()[0].id)
    log.write_bytes(b"0 %\r50 %\r100 %\r\nform\x0cfeed\x1ewhole\nlast\n")
    assert main(["logs", str(run.path), "-n", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-5:] == ["0 %", "50 %", "100 %", "form\\x0cfeed\\x1ewhole", "last"]


ENVIRONMENTS = {
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "strict": {"PYTHONIOENCODING": "utf-8:strict"},
}
COMMANDS = {
    "status": "import toolkit.sweep as m; f = lambda: m.main(['status', argv[1]])",
    "collect": "import toolkit.sweep as m; f = lambda: m.main(['collect', argv[1]])",
    "print": "f = lambda: print('4711° ± 2 × r² – 图像 \\ud83d', argv[1])",
}


def finished_command(words: list[str], environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    done = subprocess.run(words, env={**variables, **environment}, capture_output=True, cwd=ROOT)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_every_encoding_prints(tmp_path: Path, environment: dict[str, str]) -> None:
    run = planned(tmp_path)
    fail(run, run.tasks()[0], "4711° × → … Größe 图像 \udcff")
    code = "\n".join(
        [
            "from sys import argv, exit",
            "from toolkit.terminal import run_command",
            *(f"{command}; run_command(f)" for command in COMMANDS.values()),
        ]
    )
    script = tmp_path / "commands.py"
    script.write_text(code, encoding="utf-8")
    words = [sys.executable, str(script), str(run.path)]
    status, out, err = finished_command(words, {**environment, "PYTHONPATH": str(ROOT)})
    assert (status, err) == (0, b"")
    shown = out.decode(environment.get("PYTHONIOENCODING", "ascii").partition(":")[0])
    assert shown.count("4711") == 5  # for two tasks in `status` and in `collect`, and the last
    plain = {"ascii": "4711 deg +- 2 x r^2 - \\u56fe\\u50cf \\ud83d", "latin-1": "4711° ± 2 × r²"}
    assert plain.get(environment.get("PYTHONIOENCODING", "ascii"), "图像 \\ud83d") in shown


@pytest.mark.parametrize("command", ["toolkit.sweep logs -n 99999", "toolkit.data list"])
def test_a_reader_may_leave_early(tmp_path: Path, command: str) -> None:
    module, *rest = command.split()
    words = [sys.executable, "-u", "-m", module, *rest]
    if "logs" in command:
        run = planned(tmp_path)
        run.log_path(run.tasks()[0].id).write_text("a line\n" * 50_000, encoding="utf-8")
        words.insert(5, str(run.path))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


def calls(tree: ast.AST, of: Callable[[str], bool]) -> list[ast.Call]:
    names = ((node, node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return [node for node, func in names if of(getattr(func, "id", getattr(func, "attr", "")))]


def test_every_console_is_made_in_one_place() -> None:
    """And nothing else of Rich reads markup."""
    files = [p for room in ("toolkit", "jobs", "slurm", "benchmarks", "docs", "tests")
             for p in (ROOT / room).rglob("*.py")]  # fmt: skip
    for file in files:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        assert not calls(tree, "Console".__eq__), file
        assert "rich.markup" not in text or file == Path(__file__), file
        assert "from_markup" not in text or file == Path(__file__), file
        for column in calls(tree, "TextColumn".__eq__):
            assert "markup=False" in ast.unparse(column), file
