"""Weights are in the cache before jobs are submitted, or nothing is."""

import io
from pathlib import Path

import pytest

from toolkit.cluster.run_folder import RunFolderError
from toolkit.task import Task, TaskKind
from toolkit.terminal import make_console
from toolkit.verbs.prefetching import fetch_weights


def extraction(library: str, model: str, weights: str) -> Task:
    params = {"library": library, "model": model}
    return Task(TaskKind.EXTRACT, params, options={"weights": weights})


def training(model: str) -> Task:
    trunk = {"library": "torchvision", "name": model}
    options = {"weights": "pretrained"}
    return Task(TaskKind.TRAIN, {"network": {"trunk": trunk}}, options=options)


def test_all_that_cannot_be_had_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is a port at which nobody listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    tasks = [extraction("torchvision", "resnet18", "pretrained"), training("alexnet")]
    with pytest.raises(RunFolderError) as caught:
        fetch_weights(tasks, make_console(file=io.StringIO()))
    assert "torchvision resnet18: " in str(caught.value)
    assert "torchvision alexnet: " in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_nothing_is_fetched_for_random_weights() -> None:
    said = io.StringIO()
    tasks = [extraction("timm", "test_vit", "random"), Task(TaskKind.PROBE, {"number": 0})]
    fetch_weights(tasks, make_console(file=said))
    assert said.getvalue() == ""
