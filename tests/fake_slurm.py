"""Stand-ins for Slurm's programs, which say what a test tells them to and count how often."""

import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "data" / "slurm"


class FakeSlurm:
    """Programs in a folder that comes first in PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answers(
        self,
        program: str,
        text: str = "",
        *,
        from_file: str = "",
        fails: str = "",
        sleeps_s: int = 0,
    ) -> None:
        """What a program prints from now on, or how it fails."""
        said = (RECORDED / from_file).read_text() if from_file else text
        last = f"echo {shlex.quote(fails)} >&2; exit 1" if fails else ""
        self._write(program, f"sleep {sleeps_s}; printf %s {shlex.quote(said)}; {last}")

    def answers_by_word(self, program: str, answers: Mapping[str, str]) -> None:
        """What it prints where one of its arguments is a word."""
        cases = "".join(
            f'case " $* " in *" {word} "*) printf %s {shlex.quote(text)};; esac; '
            for word, text in answers.items()
        )
        self._write(program, cases)

    def calls(self, program: str) -> list[str]:
        """The arguments of each call."""
        log = self.folder / f"{program}.calls"
        return log.read_text().splitlines() if log.exists() else []

    def _write(self, program: str, body: str) -> None:
        path = self.folder / program
        log = shlex.quote(str(self.folder / f"{program}.calls"))
        path.write_text(f'#!/bin/sh\necho "$@" >> {log}\n{body}\n')
        path.chmod(0o755)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Programs of Slurm that only this test's process finds."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return FakeSlurm(folder)
