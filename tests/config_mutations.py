"""Configs with something wrong, by the thousand, and whether the command says what in few words.

    PYTHONPATH=tests python -m config_mutations --n 5000             through ``plan``
    PYTHONPATH=tests python -m config_mutations --n 200 --verb run   through ``run``

A mutant is a valid config, of ``configs/`` or small ones of our own, with one to three changes that
its seed decides: to its values, to its text, or by ``--set`` and the other words of the command. Of
every one: the exit status is one that the command documents, no exception leaves it, what it says
is short, and after ``plan`` or a refusal nothing is there that was not there before. Of those that
``plan`` refuses, every twentieth is given to ``run``.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import io
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from toolkit import catalog, sweep

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
LIMIT = 1000

SMALL = """\
name: small
seed: 3
dataset:
  kind: synthetic
  n_train: 12
  n_val: 6
  n_neuroids: 3
  n_repetitions: 2
  image_px: 32
models:
  - library: pixels
    features: {keep: projection, n_dims: 8, seed: 1}
readouts:
  - {kind: ridge, n_components: 3, alphas: [0.1, 10], folds: 3}
  - {kind: linear, name: least}
statistics: {bootstrap: 10, permutations: 10}
resources: {encode: {cpus: 1, memory_gb: 2, timeout_min: 1h}}
executor: {kind: inprocess, max_parallel: 1}
"""
FOLDS = """\
name: folds
dataset:
  - {kind: synthetic, name: synthetic-a, n_train: 12, n_val: 6, n_neuroids: 3, image_px: 32}
  - {kind: synthetic, name: synthetic-b, n_train: 12, n_val: 6, n_neuroids: 4, image_px: 32}
protocol: {kind: kfold, n_splits: 3, seed: 0}
models: &models
  - {library: pixels, features: [{keep: full, dtype: float16}]}
readouts:
  - &one {kind: rdm, distance: euclidean}
  - {<<: *one, distance: cosine, comparison: pearson}
  - {kind: pls, n_components: 2}
exclude: [{dataset: synthetic-b, readout: pls2}]
executor: {kind: inprocess}
"""
TRAINED = """\
name: trained
dataset: {kind: synthetic, n_train: 12, n_val: 6, n_neuroids: 3, image_px: 32}
training:
  tiny:
    network: {library: shallow, channels: [2], kernel_px: 3, input_px: 16}
    decoder: {dropout: 0.1}
    objectives: [mse, {mse: 1, correlation: 0.5}]
    recipe: {n_epochs: 1, batch_size: 6, optimizer: {kind: adam, lr: 1e-3}}
    search: {over: {optimizer.lr: [1e-3, 1e-2]}}
executor: {kind: inprocess}
"""
NETWORKS = """\
name: networks
dataset: {kind: synthetic, n_train: 12, n_val: 6, n_neuroids: 3, image_px: 32}
models:
  - {library: torchvision, names: squeezenet1_1, seeds: [0, 1], layers: [features.3]}
readouts: {kind: ridge, alphas: {min: 0.1, max: 10, n: 3}}
extraction: {batch_size: 4, device: cpu}
executor: {kind: inprocess}
"""
OWN = {"small": SMALL, "folds": FOLDS, "trained": TRAINED, "networks": NETWORKS}
# Those whose patterns stand for every network there is take minutes to plan.
_LARGE = {"all_models"}

WORDS = (
    "no", "on", "YES", "true", "~", "null", "", " ", "auto", "all", "none", "0", "-1", "012", "1e3",
    "1e-400", "1e999", ".nan", "-.inf", "3.7", "5.0", "4:00", "4:00:00", "1-00:00:00", "90min",
    "2024-13-45", "2024-01-01", "0x1F", "1_000", "9" * 30, "9" * 5000, "99999999", "'5'", "=", "<<",
    "x" * 5000, "a b", "../x", "/", "~nobody/x", "$HOME", "%j", "[/red]", "gesicht_ä", "画像",
    "a\\b", "*", "[a", "[]", "{}", "[[[]]]", "[1, a, null]", "{a: 1}", "{kind: ridge}", "trained:x",
    "run:/nowhere", "trained:", "random", "&x 3", "*x", "!!int x", "!!python/name:os.x", "!a 1",
    '"\\e[31m"', '"\\0"', '"\\ud800"', '"a\\nb"', "--help", "kfold", "ridge", "timm", "slurm",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 3.5, 1e-300, 1e300, 10**6, 10**9, 2**31, 2**63, 10**18, -9999,
    "", " ", "auto", "no", "x" * 5000, "gesicht_ä", "\u202e", "a\nb", "../../x", "5", [], {}, [[]],
    [None], {"": None}, {"kind": None}, {"kind": "ridge"}, [1, "a"], ["a"] * 300, [{}] * 200, "*",
    "trained:tiny", "run:nowhere", "random", "synthetic", "train", "val", "all", "none",
)  # fmt: skip
KEYS = (
    "kind",
    "name",
    "Name",
    "",
    " ",
    "no",
    "5",
    "<<",
    "extends",
    "x" * 3000,
    "a.b",
    "ä",
    "n_train",
)
DAMAGE = (
    "\t", "\x07", "\u0085", "\ufeff", "'", '"', "{", "]", ":", "- ", "\n", "#", "*x", "&x ", "\r",
    "? ", "| ", "---\n", "...\n", "%YAML 3\n", "<<: *x\n", "\x1b[31m", "\ud800", "!!x ",
)  # fmt: skip


@dataclass
class Mutant:
    """A config file and the words of a command on it."""

    base: str
    raw: bytes
    words: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int | None
    said: str
    faults: tuple[str, ...]


@functools.cache
def bases() -> dict[str, str]:
    """Valid configs by their names, small ones of our own first."""
    paths = sorted(CONFIGS.glob("*.yaml")) + sorted((CONFIGS / "reports").glob("*.yaml"))
    return OWN | {
        path.relative_to(CONFIGS).with_suffix("").as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path.stem not in _LARGE
    }


def mutants(n: int, seed: int, names: tuple[str, ...] = ()) -> Iterator[Mutant]:
    """So many mutants; the i-th is decided by the seed and i."""
    known = {name: text for name, text in bases().items() if not names or name in names}
    for i in range(n):
        rng = random.Random(f"{seed}-{i}")
        name = rng.choice(list(known)) if rng.random() < 0.5 else rng.choice(list(OWN))
        yield _mutant(name, bases()[name], rng)


def _mutant(name: str, text: str, rng: random.Random) -> Mutant:
    mutant = Mutant(name, b"")
    values = yaml.safe_load(text)
    if "extends" in values:
        values["extends"] = str(CONFIGS / "reports" / Path(values["extends"]).name)
    kinds = rng.choices(("tree", "text", "words"), (5, 3, 2), k=rng.choice((1, 1, 2, 3)))
    for kind in kinds:
        if kind == "tree":
            mutant.changes.append(_change_tree(values, rng))
    text = yaml.safe_dump(values, sort_keys=False, width=10_000, allow_unicode=True)
    for kind in kinds:
        if kind == "text":
            change, text = _change_text(text, rng)
            mutant.changes.append(change)
        elif kind == "words":
            change, words = _more_words(values, rng)
            mutant.words += words
            mutant.changes.append(change)
    mutant.raw = _encoded(text, rng)
    return mutant


def _holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every mapping or list, with a key or index of it."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _holders(value[key])


@functools.cache
def _written_at(key: str) -> list[Any]:
    """What valid configs have at a key of this name."""
    return [
        holder[name]
        for text in bases().values()
        for holder, name in _holders(yaml.safe_load(text))
        if name == key
    ]


def _change_tree(values: dict[str, Any], rng: random.Random) -> str:
    holder, key = rng.choice(list(_holders(values)) or [(values, "name")])
    value = holder[key] if not isinstance(holder, dict) else holder.get(key)
    match rng.randrange(14):
        case 0:
            del holder[key]
            return "deleted"
        case 1 if isinstance(holder, dict):
            holder[_misspelt(str(key), rng)] = holder.pop(key)
            return "renamed"
        case 2 if isinstance(holder, dict):
            holder[rng.choice(KEYS)] = copy.deepcopy(rng.choice((value, rng.choice(VALUES))))
            return "added"
        case 3:
            other, name = rng.choice(list(_holders(values)))
            holder[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(value)
            return "swapped"
        case 4:
            holder[key] = [copy.deepcopy(value)] * rng.choice((1, 2, 200))
            return "listed"
        case 5:
            holder[key] = {rng.choice(KEYS): copy.deepcopy(value)}
            return "wrapped"
        case 6:
            for _ in range(rng.choice((5, 60, 2000))):
                value = [value]
            holder[key] = "DEEP" if len(str(key)) and _depth(value) > 50 else value
            return "nested"
        case 7 if isinstance(value, int | float):
            holder[key] = rng.choice(
                (-value, value * 10**6, value + 0.5, 0, 1, 2, 10**9, str(value))
            )
            return "scaled"
        case 10 | 11 | 12 | 13 if written := _written_at(str(key)):
            holder[key] = copy.deepcopy(rng.choice(written))
            return "borrowed"
        case 9 if isinstance(value, int | float) and not isinstance(value, bool):
            holder[key] = type(value)(value * rng.choice((2, 3, 0.5))) or value
            return "scaled"
        case 8 if isinstance(value, str):
            holder[key] = _misspelt(value, rng)
            return "misspelt"
    holder[key] = copy.deepcopy(rng.choice(VALUES))
    return "retyped"


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list) and len(value) == 1:
        value, depth = value[0], depth + 1
    return depth


def _misspelt(word: str, rng: random.Random) -> str:
    i = rng.randrange(len(word) + 1)
    return rng.choice(
        (
            word[:i] + word[i + 1 :],
            word[:i] + rng.choice("xä_ .:/[") + word[i:],
            word.upper(),
            word * 40,
        )
    )


def _change_text(text: str, rng: random.Random) -> tuple[str, str]:
    lines = text.split("\n")
    i = rng.randrange(len(lines))
    at = rng.randrange(len(text) + 1)
    match rng.randrange(8):
        case 0:
            return "cut", text[:at]
        case 1:
            return "line lost", "\n".join(lines[:i] + lines[i + 1 :])
        case 2:
            return "line twice", "\n".join([*lines[:i], lines[i], *lines[i:]])
        case 3:
            lines[i] = rng.choice((" ", "   ", "\t", "")) + (lines[i].lstrip() or "x")
            return "indented", "\n".join(lines)
        case 4:
            lines[i] = lines[i].partition(":")[0] + ": " + rng.choice(WORDS)
            return "word", "\n".join(lines)
        case 5:
            return "anchors", _with_anchors(rng) + text
        case 6:
            deep = rng.choice(("[" * 3000, "{a: " * 500, "- " * 400, "[" * 60 + "]" * 60))
            return "deep", f"{text}\nseed: {deep}\n"
    return "damaged", text[:at] + rng.choice(DAMAGE) + text[at + rng.randrange(3) :]


def _with_anchors(rng: random.Random) -> str:
    return rng.choice(
        (
            "name: &x [*x]\n",
            "seed: *nothing\n",
            "statistics: &s {bootstrap: 3}\npca: *s\n",
            "dask: &s {n_nodes: 1}\nstatistics: {<<: *s, bootstrap: 2}\n",
            "pca: &s {solver: gram, <<: {solver: auto}}\n",
            "pca: {<<: 3}\n",
            "exclude: &e [*e, {layer: x}]\n",
            "a0: &a0 [x, x]\n"
            + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 25)),
            "extends: [quickstart.yaml]\n",
            "extends: {a: 1}\n",
            "extends: .\n",
            f"extends: {'x' * 3000}\n",
            "extends: mutant.yaml\n",
        )
    )


def _more_words(values: dict[str, Any], rng: random.Random) -> tuple[str, list[str]]:
    if rng.random() < 0.1:
        return "profile", ["--profile", rng.choice((*WORDS, "cpu", "gpu", "cqu", "x.yaml"))]
    if rng.random() < 0.1:
        return "executor", [
            "--executor",
            rng.choice(("slurm", "inprocess", "local", "nonsense", "")),
        ]
    path: list[Any] = []
    value: Any = values
    while isinstance(value, dict | list) and value and (not path or rng.random() < 0.7):
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        path.append(key)
        value = value[key]
    dotted = ".".join(map(str, path))
    key = rng.choice(
        (dotted, dotted, dotted, dotted + ".x", dotted + "..", "." + dotted, "", "models.99.names",
         "models.-1", "²", dotted.replace("0", "7"), "x" * 3000, dotted[:-1], "extends")
    )  # fmt: skip
    equals = "" if rng.random() < 0.05 else "="
    return "set", ["--set", f"{key}{equals}{rng.choice(WORDS)}"]


def _encoded(text: str, rng: random.Random) -> bytes:
    text = text.replace("DEEP", "[" * 2000 + "]" * 2000)
    if rng.random() < 0.03:
        return rng.choice(
            (b"", b"\0" * 9, b"\x89PNG\r\n", b"\xff\xfe", text.encode("latin-1", "replace"))
        )
    encoding = "utf-16" if rng.random() < 0.02 else "utf-8-sig" if rng.random() < 0.02 else "utf-8"
    return text.encode(encoding, "surrogatepass")


@contextlib.contextmanager
def answers_kept() -> Iterator[None]:
    """What libraries answer about networks is asked once, not once a command."""
    answers: dict[str, Any] = {}
    with mock.patch.object(catalog, "_read_answers", lambda _path: answers):
        yield


def outcome_of(mutant: Mutant, folder: Path, verb: str = "plan", limit_s: int = 0) -> Outcome:
    """Give a mutant to the command, in this process and in a folder that is empty but for it."""
    path, run = folder / "mutant.yaml", folder / "run"
    path.write_bytes(mutant.raw)
    before = _listing(folder)
    words = [verb, str(path), "--out", str(run), *mutant.words]
    if verb == "run" and "--executor" not in words:
        words += ["--executor", "inprocess"]
    output, faults, status = io.StringIO(), [], None
    here = Path.cwd()
    started = time.monotonic()
    try:
        with (
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
            _within(limit_s, KeyboardInterrupt if verb == "run" else TimeoutError),
        ):
            status = sweep.main(words)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        output.write(traceback.format_exc())
        faults.append(f"{type(error).__name__} leaves the command")
    said = output.getvalue()
    if status not in ((0, 2) if verb == "plan" else (0, 1, 2)) and not faults:
        faults.append(f"exit status {status}")
    if "Traceback" in said and not faults:
        faults.append("a traceback is shown")
    if status == 2 and len(_message(said)) > LIMIT:
        faults.append(f"a message of {len(said)} characters")
    if status == 2 and not said.strip():
        faults.append("refused without a word")
    if (verb == "plan" or status == 2) and _listing(folder) != before:
        faults.append("something is left behind")
    if Path.cwd() != here:
        os.chdir(here)
        faults.append("the working folder is another")
    if verb == "plan" and limit_s and time.monotonic() - started > limit_s / 2:
        faults.append("it takes long")
    return Outcome(status, said, tuple(faults))


def _is_planned(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        return outcome_of(mutant, Path(folder)).status == 0


def _message(said: str) -> str:
    """Without the usage that argparse puts before what is wrong."""
    return said[said.find("error: ") :] if said.startswith("usage: ") else said


def _listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@contextlib.contextmanager
def _within(limit_s: int, error: type[BaseException]) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise error("it does not end")

    if limit_s:
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(limit_s)
    try:
        yield
    finally:
        if limit_s:
            signal.alarm(0)


def main() -> int:
    """Run mutants, show what is at fault and a table of what came out; 1 where any is."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=1000, help="mutants (1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verb", choices=("plan", "run"), default="plan")
    parser.add_argument(
        "--limit-s",
        type=int,
        default=60,
        help="of one command (60); a run is then stopped as by Ctrl-C",
    )
    parser.add_argument("--show", type=int, default=20, help="faults to show in full (20)")
    parser.add_argument("--keep", type=Path, help="folder for the configs at fault")
    options = parser.parse_args()
    statuses: Counter[tuple[str, int | None]] = Counter()
    faults: Counter[str] = Counter()
    longest = 0
    names = ("small", "folds", "trained", "networks") if options.verb == "run" else ()
    with answers_kept():
        n = 0
        for i, mutant in enumerate(mutants(sys.maxsize, options.seed, names)):
            if n == options.n:
                break
            if options.verb == "run" and i % 20 and not _is_planned(mutant):
                continue
            n += 1
            with tempfile.TemporaryDirectory() as folder:
                outcome = outcome_of(mutant, Path(folder), options.verb, options.limit_s)
            longest = max(longest, len(outcome.said) if outcome.status == 2 else 0)
            for change in mutant.changes:
                statuses[change, outcome.status] += 1
            for fault in outcome.faults:
                faults[fault] += 1
                if sum(faults.values()) <= options.show:
                    print(
                        f"--- {i} of {mutant.base}: {fault}; {mutant.changes} {mutant.words}"[:1500]
                    )
                    print(outcome.said[-2500:], flush=True)
                if options.keep:
                    options.keep.mkdir(exist_ok=True)
                    (options.keep / f"{i}.yaml").write_bytes(mutant.raw)
    shown = sorted({status for _, status in statuses}, key=str)
    print(f"{'change':12}" + "".join(f"{status!s:>8}" for status in shown))
    for change in sorted({change for change, _ in statuses}):
        print(f"{change:12}" + "".join(f"{statuses[change, status]:8}" for status in shown))
    print(
        f"{options.n} commands, {sum(faults.values())} faults, longest refusal {longest} characters"
    )
    for fault, n in faults.most_common():
        print(f"{n:6} {fault}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
