"""What README and the documentation tell people to write works."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from benchmarks import face, gpu
from toolkit import sweep, verbs
from toolkit.catalog import Catalog
from toolkit.cluster.profiles import SiteProfile, load_profile
from toolkit.config import load_config
from toolkit.plan import make_plan

ROOT = Path(__file__).resolve().parents[1]
# Its blocks are edits of the code, which test_docs_extending.py makes.
EDITS = "docs/extending.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)\n\1```$", re.MULTILINE | re.DOTALL)

RUN = """\
name: quickstart
dataset: {kind: synthetic, n_train: 40, n_val: 20, n_neuroids: 5, image_px: 32}
models:
  - {library: pixels}
  - {library: timm, names: [test_resnet, test_vit]}
readouts:
  - {kind: ridge, n_components: 10}
  - {kind: ridge}
executor: {kind: inprocess}
"""
# So that configs can be planned whose recordings are not here.
SIZES = {"n_neuroids": 20, "splits": {"train": 2000, "val": 100, "test": 50}}
# What a block leaves out of a whole config.
REST = {
    "name": "of_a_page",
    "dataset": {"kind": "nx414", "path": "absent.h5", "sizes": SIZES},
    "models": {"library": "pixels"},
    "readouts": {"kind": "ridge"},
}


@dataclass(frozen=True)
class Block:
    """A fenced block and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A call of one of the project's modules, and whether a block shows it, or a sentence."""

    place: str
    module: str
    rest: str
    is_whole: bool

    def __str__(self) -> str:
        return f"{self.place} {self.module} {' '.join(self.rest.split())}"

    @property
    def words(self) -> list[str]:
        """What follows the module; comments, other commands and the brackets of usage left out."""
        rest = re.split(r" {3,}| \| | > |&&", re.sub(r"\\\n *", " ", self.rest.strip()))[0]
        return shlex.split(re.sub(r"\.\.\.|[\[\]]", "", rest), comments=True)


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] in languages and page != ROOT / EDITS:
                line = text[: match.start()].count("\n") + 1
                found.append(Block(page, line, match[2], dedent(match[3]) + "\n"))
    return found


def commands() -> Iterator[Command]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"python -m ((?:toolkit|slurm|benchmarks|jobs)[\w.]*)", text):
            before = text[: match.start()]
            is_code = before[before.rfind("\n") :].count("`") % 2 == 1
            last = "`" if is_code else "'" if before.endswith("'") else "\n"
            end = text.index(last, match.end())
            while last == "\n" and text[end - 1] == "\\":
                end = text.index(last, end + 1)
            place = f"{page.relative_to(ROOT)}:{before.count(chr(10)) + 1}"
            yield Command(place, match[1], text[match.end() : end], is_whole=last == "\n")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tiny networks over synthetic neurons."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text(RUN, encoding="utf-8")
    assert sweep.main([str(folder / "config.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_configs_are_planned(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("block.yaml").write_text(block.text, encoding="utf-8")
    values = yaml.safe_load(block.text)
    if set(values) <= set(SiteProfile.model_fields):
        load_profile("block.yaml")
    else:
        plan(values)


def test_the_quickstart_shows_the_config_it_runs() -> None:
    shown = next(block for block in blocks("yaml") if block.page.name == "quickstart.md")
    config = (ROOT / "configs" / "quickstart.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(shown.text) == yaml.safe_load(config)


def plan(values: dict[str, Any]) -> None:
    """Plan ``block.yaml``, completed where it is a part of a config."""
    Path("rest.yaml").write_text(yaml.safe_dump(without_given(REST, values)), encoding="utf-8")
    Path("whole.yaml").write_text("extends: [rest.yaml, block.yaml]\n", encoding="utf-8")
    replaced = []
    if values.get("dataset", {}).get("kind", "synthetic") != "synthetic":
        replaced.append(f"dataset.sizes={SIZES}")
    if isinstance(models := values.get("models"), list):
        here = [one for one in models if not str(one.get("weights")).startswith("run:")]
        replaced.append(f"models={here}")
    config, source = load_config("whole.yaml", replaced)
    assert make_plan(config, source, Catalog(Path("catalog.json"))).tasks


def without_given(rest: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """What a part of a config lacks; a training stands alone."""
    alone = {"models", "readouts"} if "training" in values and "models" not in values else set()
    return {key: rest[key] for key in rest if key not in values and key not in alone}


@pytest.mark.parametrize("page", {block.page.name: block.page for block in blocks("python")})
def test_python_runs(
    page: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    known: dict[str, object] = {}
    for block in blocks("python"):
        if block.page.name == page:
            for run in re.findall(r"runs/\w+", block.text):
                shutil.copytree(finished, run, dirs_exist_ok=True)
            padded = "\n" * block.line + block.text
            exec(compile(padded, str(block.page), "exec"), known)


@pytest.mark.parametrize("command", list(commands()), ids=str)
def test_commands_are_understood(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: argparse.ArgumentParser, message: str) -> None:
        is_mention = not command.is_whole and message.startswith("the following arguments are req")
        if not is_mention:
            pytest.fail(f"{command}: {message}")
        raise SystemExit(0)

    monkeypatch.setattr(argparse.ArgumentParser, "error", refuse)
    words = command.words
    try:
        match command.module.split("."):
            case ["toolkit", "sweep"]:
                for verb in sweep.VERBS:
                    monkeypatch.setattr(verbs, verb, lambda *_: 0)
                assert sweep.main(words) == 0
            case ["toolkit", "data"] | ["slurm", "devcluster"]:
                importlib.import_module(f"{command.module}.__main__")._parser().parse_args(words)
            case ["benchmarks", "gpu"]:
                gpu.parser().parse_args(words)
            case ["benchmarks", _]:
                assert hasattr(importlib.import_module(command.module), "main")
                face.main(lambda quick: [], words)
            case _:
                pytest.fail(f"{command}: there is no such command")
    except SystemExit as stopped:
        assert not stopped.code, command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_are_there(page: Path) -> None:
    """Of the repository's own files; names in capitals stand for others."""
    text = page.read_text(encoding="utf-8")
    folders = "benchmarks|configs|docs|jobs|slurm|tests|toolkit"
    named = set(re.findall(rf"(?<![\w/.~-])(?:{folders})/[\w./-]*[\w/]", text))
    new = set(re.findall(r"New file `(.*?)`", text))
    assert [path for path in sorted(named - new) if not (ROOT / path).exists()] == []
