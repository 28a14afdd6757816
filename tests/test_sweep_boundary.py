"""What the command says of errors that are nobody's config: of the disk, and its own."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from config_mutations import SMALL

from toolkit import sweep, verbs
from toolkit.cluster.failures import ERROR_CLASSES, FailureClass
from toolkit.cluster.run_folder import RunFolder
from toolkit.data.__main__ import main as data_main


def test_a_disk_that_fails_is_named_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(SMALL)
    run = RunFolder(tmp_path / "run")
    run.create()
    run.catalog_path.mkdir()
    status = sweep.main(["run", str(tmp_path / "c.yaml"), "--out", str(run.path)])
    said = capsys.readouterr().err
    assert status == 1, said
    assert "Is a directory" in said
    assert len(said.splitlines()) == 1


def test_a_fault_of_the_toolkit_says_that_it_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbs, "plan", lambda *_: {}["absent"])
    assert sweep.main(["plan", "c.yaml"]) == 1
    said = capsys.readouterr().err
    assert "KeyError: 'absent'" in said
    assert said.splitlines()[-1].startswith("This is a fault of the toolkit, not of your config")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--class", "out_of_memry"], "nearest: out_of_memory, cuda_out_of_memory"),
        (["--class", "xyz"], "nearest: out_of_memory, "),
        (["--class", "bad_modle"], "nearest: bad_model"),
        (["--error", "("], "not a regular expression"),
    ],
)
def test_a_choice_that_no_failure_can_match_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    run = RunFolder(tmp_path)
    run.create()
    run.write_plan([], {})
    assert sweep.main(["retry", str(run.path), *words]) == 2
    assert said in capsys.readouterr().err


def test_every_class_that_an_error_names_can_be_chosen() -> None:
    root = Path(__file__).resolve().parents[1]
    sources = (path for room in ("toolkit", "jobs") for path in (root / room).rglob("*.py"))
    own = {
        name
        for path in sources
        for name in re.findall(r'error_class = "(\w+)"', path.read_text(encoding="utf-8"))
    }
    assert len(own) > 30
    assert own <= {*FailureClass, *ERROR_CLASSES}


@pytest.mark.parametrize(
    "words",
    [
        ["run", "c.yaml", "--out", ""],
        ["plan", "c.yaml", "--out", " "],
        ["plan", "c.yaml", "--profile", ""],
        ["plan", ""],
        ["cancel", ""],
        ["retry", "run", "--class", ""],
        ["retry", "run", "--error", ""],
        ["report", "run", ""],
        ["report", "run", "--out", ""],
    ],
)
def test_a_word_that_is_empty_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        sweep.main(words)
    assert caught.value.code == 2
    assert "it is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["fetch", "nx414", "--to", ""],
        ["fetch", "nx414", "--from", ""],
        ["describe", ""],
        ["describe", "nx414", "--html", ""],
    ],
)
def test_a_word_that_is_empty_is_refused_of_data_too(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        data_main(words)
    assert caught.value.code == 2
    assert "it is empty" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_command_without_output_ends_as_it_does_with_one(closed: str) -> None:
    code = "import sys; from toolkit.terminal import run_command as r; "
    code += "sys.exit(r(lambda: print('said') or sys.stderr.write('warned\\n')))"
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} {closed}"
    ended = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert ended.returncode == len("warned\n")
    assert "Traceback" not in ended.stderr
