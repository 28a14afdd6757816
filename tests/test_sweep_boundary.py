"""What the command says of errors that are nobody's config: of the disk, and its own."""

from pathlib import Path

import pytest
from config_mutations import SMALL

from toolkit import sweep, verbs
from toolkit.cluster.run_folder import RunFolder


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
