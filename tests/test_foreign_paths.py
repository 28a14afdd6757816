"""Folders, names and profiles with characters that mean more to a shell, Slurm or submitit."""

import argparse
import json
from pathlib import Path

import pytest
from commands import sweep
from slurm_arrays import REQUEST
from slurm_sweeps import wait_until

from slurm.devcluster import DevCluster
from toolkit.cluster.dispatch import SlurmSettings, advance
from toolkit.cluster.keeper import log_path, submit_keeper
from toolkit.cluster.profiles import StageProfile, load_profile, scratch_lines, submitit_parameters
from toolkit.cluster.run_folder import RunFolder, RunFolderError
from toolkit.config import load_config
from toolkit.models import LayerInfo
from toolkit.sweep import main
from toolkit.task import Task, TaskKind
from toolkit.yaml_source import ConfigError

CONFIG = """\
name: synthetic-paths
dataset: {kind: synthetic, n_train: 20, n_val: 10, n_neuroids: 3, image_px: 16}
models: {library: pixels}
readouts: {kind: ridge, n_components: 5}
resources: {extract: {cpus: 1}, encode: {cpus: 1}}
"""
USABLE = "run $(touch owned) `touch owned` 'it''s' \"x\" a=b, ü ß; [v2] #1 & {n} ~ !! -x"
UNUSABLE = ["lr%j", "50 %", "a\\b", "12:30", "a\nb", "a\x1b[2Jb", "a\u202eb", "a\x00b", "x" * 256]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_folder_that_jobs_cannot_be_given_is_refused(
    config: Path, name: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(config.parent.iterdir())
    assert main([verb, str(config), "--out", str(config.parent / name)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "choose another --out" in said.err
    assert len(said.err) < 1000
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err
    assert sorted(config.parent.iterdir()) == before


@pytest.mark.parametrize(
    "name", ["../../x", "/etc", ".", "..", "", ".hidden", "-x", "a b", "a\nb", "a/b", "x" * 201]
)
def test_a_name_stays_in_the_folder_of_runs(config: Path, name: str) -> None:
    text = CONFIG.replace("synthetic-paths", json.dumps(name))
    config.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config.yaml:1: name: "):
        load_config(config)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("kind: synthetic,", r'kind: synthetic, name: "synthetic\x1b[2J",', "dataset.name"),
        ("kind: ridge,", r'kind: ridge, name: "a\u202eb",', "readouts.name"),
        ("library: pixels", r'library: pixels, names: ["a\nb"]', r"models.names\[?\.?0\]?"),
        ("library: pixels", r'"libr\0ary": pixels', "models"),
        ("kind: ridge,", r'kind: ridge, name: "\ud83d",', "readouts.name"),
    ],
)
def test_words_of_a_config_are_readable(config: Path, old: str, new: str, key: str) -> None:
    config.write_text(CONFIG.replace(old, new), encoding="utf-8")
    with pytest.raises(
        ConfigError, match=rf"config.yaml:\d: ({key}: .*|not valid YAML: the )character"
    ):
        load_config(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, "x\n#SBATCH --uid=0") for key in ("partition", "account", "qos", "constraint")),
        *((key, "x\nrm -r y") for key in ("container", "scratch")),
        ("gres", "gpu:{n}\nx"),
        ("exclude", ["node\nx"]),
        ("scratch", '/tmp"; touch owned; "'),
        ("scratch", "/tmp/$(touch owned)"),
        ("scratch", "/tmp/`touch owned`"),
        ("partition", ""),
    ],
)
def test_a_profile_adds_no_lines_to_jobs(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(json.dumps({"encode": {key: value}}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"site.yaml:1: encode\.{key}"):
        load_profile(str(path))


def test_what_a_profile_may_hold() -> None:
    stage = StageProfile(gres="gpu:a100:{n},{x}", scratch="/scratch/$USER/${X}'s folder")
    assert 'TMPDIR="/scratch/$USER/${X}\'s folder/toolkit-7"' in scratch_lines(stage, "7")[0]
    profile = load_profile("devcluster").model_copy(update={"extract": stage})
    request = argparse.Namespace(**{**vars(REQUEST), "n_gpus": 2})
    parameters = submitit_parameters(profile, TaskKind.EXTRACT, request)  # type: ignore[arg-type]
    assert parameters["gres"] == "gpu:a100:2,{x}"


def test_a_run_in_processes_of_this_machine_leaves_nothing_behind(
    config: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / USABLE
    assert str(folder) in sweep(config, "--out", folder, "--executor", "local", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "runs"]
    assert [path.name for path in folder.parent.iterdir()] == [USABLE]


@pytest.mark.slow
def test_slurm_runs_in_any_folder_that_is_not_refused(
    slurm_cluster: DevCluster, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / USABLE)
    run.check_path()
    run.create()
    probes = [Task(TaskKind.PROBE, {"number": i}, label=f"probe {i}") for i in range(2)]
    requests = dict.fromkeys(TaskKind, REQUEST)
    profile = load_profile("devcluster").model_copy(update={"keeper_interval_s": 1})
    settings = SlurmSettings(profile, requests, None, "")
    run.write_plan(probes, {"name": "probes", "slurm": settings.to_dict()})
    assert advance(run, settings).n_submitted == 2
    submit_keeper(run, settings)
    wait_until(lambda: len(run.done_ids()) == 2, timeout_s=60)
    wait_until(log_path(run).is_file, timeout_s=60)
    assert [path.name for path in tmp_path.iterdir()] == [USABLE]
    assert not list(tmp_path.rglob("owned"))
    logs = {path.name for path in run.jobs_folder.glob("*_log.out")}
    assert len(logs) == 2


def test_a_folder_moved_to_an_unusable_name_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(tmp_path / "lr%j")
    run.create()
    run.write_plan([], {"name": "moved"})
    assert main(["status", str(run.path)]) == 0
    assert main(["retry", str(run.path)]) == 2
    assert "character %" in capsys.readouterr().err
    with pytest.raises(RunFolderError):
        run.check_path()


def test_a_layer_whose_name_is_that_of_no_file_is_refused_in_the_plan(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Modules in an ``nn.ModuleDict`` may have any name without a dot."""
    layers = [LayerInfo("parts.a/b", (4, 2, 2), 0), LayerInfo("parts.plain [v2]", (5,), 1)]
    monkeypatch.setattr("toolkit.catalog.models.trace_layers", lambda _: layers)
    models = "models: {library: timm, names: test_resnet, weights: random, layers: all}"
    text = CONFIG.replace("models: {library: pixels}", models)
    config.write_text(text, encoding="utf-8")
    assert main(["plan", str(config), "--out", str(config.parent / "run")]) == 2
    said = capsys.readouterr().err
    assert "config.yaml:3: models" in said
    assert "layer 'parts.a/b'" in said
    config.write_text(text.replace("layers: all", 'layers: ["parts.plain [[]v2]"]'), "utf-8")
    assert main(["plan", str(config), "--out", str(config.parent / "run")]) == 0
