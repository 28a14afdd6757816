"""The real download code against a server on this machine."""

import hashlib
import importlib
import threading
import time
from pathlib import Path

import pytest
import torch
from flaky_server import FlakyServer

from toolkit.models import ModelSpec, WeightsUnavailableError, load_network
from toolkit.models.architecture import torchvision_weights
from toolkit.models.download import download, hash_prefix_of

HUB_ID = "timm/test_resnet.r160_in1k"
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture
def server():
    server = FlakyServer()
    yield server
    server.stop()


@pytest.fixture
def pauses_s(monkeypatch) -> list[float]:
    """What was waited for; nothing is."""
    pauses_s: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses_s.append)
    return pauses_s


@pytest.fixture(scope="module")
def squeezenet_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("made") / "squeezenet.pth"
    spec = ModelSpec("torchvision", "squeezenet1_1", seed=7)
    torch.save(load_network(spec).module.state_dict(), path)
    return path.read_bytes()


@pytest.fixture
def pretrained(server, squeezenet_file, tmp_path, monkeypatch) -> ModelSpec:
    """SqueezeNet whose official address is the local server, with an empty torch cache."""
    digest = hashlib.sha256(squeezenet_file).hexdigest()
    path = f"/models/squeezenet1_1-{digest[:8]}.pth"
    server.files[path] = squeezenet_file
    weights = torchvision_weights("squeezenet1_1").value
    monkeypatch.setattr(weights, "url", server.url + path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return ModelSpec("torchvision", "squeezenet1_1", "pretrained")


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def with_another_last_byte(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def test_good_file_is_fetched_once_and_loaded(pretrained, server, tmp_path):
    expected = load_network(ModelSpec("torchvision", "squeezenet1_1", seed=7)).module.state_dict()
    for _ in range(2):
        loaded = load_network(pretrained).module.state_dict()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert len(server.requests) == 1
    [cached] = files_under(tmp_path)
    assert cached.parent == tmp_path / "torch" / "hub" / "checkpoints"


def test_wrong_hash_is_refused_and_leaves_no_file(pretrained, server, tmp_path):
    [path] = server.files
    server.files[path] = with_another_last_byte(server.files[path])
    with pytest.raises(WeightsUnavailableError, match=f"{hash_prefix_of(path)}: refused"):
        load_network(pretrained)
    assert files_under(tmp_path) == []


@pytest.mark.usefixtures("pauses_s")
def test_broken_transfer_is_an_error_until_the_file_is_whole(pretrained, server, tmp_path):
    [path] = server.files
    server.cut_after[path] = [1000, *[0] * 20]
    with pytest.raises(WeightsUnavailableError, match="could not be fetched"):
        load_network(pretrained)
    assert not list(tmp_path.rglob("*.pth"))
    server.cut_after.clear()
    load_network(pretrained)
    assert [found.read_bytes() for found in files_under(tmp_path)] == [server.files[path]]


def test_damaged_file_in_the_cache_is_fetched_again(pretrained, server, tmp_path):
    load_network(pretrained)
    [cached] = files_under(tmp_path)
    good = cached.read_bytes()
    cached.write_bytes(good[:5000])
    load_network(pretrained)
    assert cached.read_bytes() == good


def test_without_a_server_the_error_says_what_to_do_and_comes_at_once(
    pretrained, server, tmp_path, pauses_s
):
    server.stop()
    with pytest.raises(WeightsUnavailableError) as raised:
        load_network(pretrained)
    assert not pauses_s
    [path] = server.files
    message = str(raised.value)
    assert server.url + path in message
    assert str(tmp_path / "torch/hub/checkpoints" / Path(path).name) in message
    assert "TORCH_HOME" in message
    assert "weights: /path/to/file.pth" in message
    assert files_under(tmp_path) == []


def test_file_put_where_the_error_says_is_used(pretrained, server, squeezenet_file, tmp_path):
    server.stop()
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    [path] = server.files
    (folder / Path(path).name).write_bytes(squeezenet_file)
    load_network(pretrained)


def test_missing_file_on_the_server(server, tmp_path):
    with pytest.raises(WeightsUnavailableError, match="404"):
        download(f"{server.url}/none-00000000.pth", tmp_path / "cache", "00000000")
    assert files_under(tmp_path) == []


def test_many_at_once_all_get_the_file(server, tmp_path):
    content = bytes(range(256)) * 4096
    server.files["/a.bin"] = content
    digest = hashlib.sha256(content).hexdigest()
    found: list[bytes] = []

    def fetch() -> None:
        found.append(download(f"{server.url}/a.bin", tmp_path, digest).read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [content] * 8
    assert files_under(tmp_path) == [tmp_path / "a.bin"]


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("https://download.pytorch.org/models/resnet50-11ad3fa6.pth", "11ad3fa6"),
        ("https://download.pytorch.org/models/a-b/vit_h_14_swag-80465313.pth?x=1", "80465313"),
        ("https://dl.fbaipublicfiles.com/ijepa/IN1K-vit.h.14-300e.pth.tar", ""),
    ],
)
def test_hash_in_a_file_name(url, prefix):
    assert hash_prefix_of(url) == prefix


@pytest.fixture
def hub(server, tmp_path, monkeypatch) -> FlakyServer:
    """Where the hub's client looks for files, and keeps them in an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    safetensors = pytest.importorskip("safetensors.torch")
    state = load_network(ModelSpec("timm", "test_resnet", seed=7)).module.state_dict()
    safetensors.save_file(state, tmp_path / "made.safetensors")
    path = f"/{HUB_ID}/resolve/main/model.safetensors"
    server.files[path] = (tmp_path / "made.safetensors").read_bytes()
    server.etags[path] = hashlib.sha256(server.files[path]).hexdigest()
    server.headers["X-Repo-Commit"] = COMMIT
    with monkeypatch.context() as environment:
        environment.setenv("HF_ENDPOINT", server.url)
        environment.setenv("HF_HOME", str(tmp_path / "hf"))
        environment.delenv("HF_HUB_OFFLINE", raising=False)
        environment.delenv("HF_HUB_CACHE", raising=False)
        importlib.reload(constants)  # The environment is read once.
        yield server
    importlib.reload(constants)


PRETRAINED = ModelSpec("timm", "test_resnet.r160_in1k", "pretrained")


def test_hub_file_is_fetched_once_and_loaded_without_a_network_later(hub, tmp_path, pauses_s):
    expected = load_network(ModelSpec("timm", "test_resnet", seed=7)).module.state_dict()
    for _ in range(2):
        loaded = load_network(PRETRAINED).module.state_dict()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)
        hub.stop()
    assert list((tmp_path / "hf" / "hub").rglob("*.safetensors"))
    assert not pauses_s


def test_hub_file_with_a_wrong_hash_is_refused_and_not_kept(hub, tmp_path):
    [path] = hub.files
    hub.files[path] = with_another_last_byte(hub.files[path])
    with pytest.raises(WeightsUnavailableError, match="refused"):
        load_network(PRETRAINED)
    assert not list((tmp_path / "hf").rglob("*.safetensors"))


def test_without_the_hub_the_error_says_what_to_do_and_comes_at_once(hub, tmp_path, pauses_s):
    hub.stop()
    with pytest.raises(WeightsUnavailableError) as raised:
        load_network(PRETRAINED)
    for part in (
        HUB_ID,
        "model.safetensors",
        "HF_HOME",
        str(tmp_path / "hf" / "hub"),
        "models--timm--test_resnet.r160_in1k",
        "weights: /path/to/model.safetensors",
    ):
        assert part in str(raised.value)
    assert not pauses_s
