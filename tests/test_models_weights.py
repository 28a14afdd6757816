import random
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit.models import (
    ModelError,
    ModelSpec,
    WeightsUnavailableError,
    load_network,
    weights_digest,
)

SQUEEZENET = "weights_squeezenet1_1/squeezenet1_1.pth"
MOBILENET = "weights_mobilenet_v2/mobilenet_v2.pth"


def state_of(spec: ModelSpec) -> dict[str, torch.Tensor]:
    return load_network(spec).module.state_dict()


def same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def squeezenet_state() -> dict[str, torch.Tensor]:
    return state_of(ModelSpec("torchvision", "squeezenet1_1", seed=5))


def checkpoint_spec(path: Path, library: str = "torchvision", name: str = "squeezenet1_1"):
    return ModelSpec(library, name, weights=str(path))


@pytest.mark.parametrize(
    "network",
    [("torchvision", "squeezenet1_1"), ("torchvision", "googlenet"), ("timm", "test_vit")],
)
def test_random_weights_are_decided_by_the_seed_alone(network):
    torch.manual_seed(1)
    first = state_of(ModelSpec(*network, seed=3))
    torch.manual_seed(2)
    torch.rand(10)
    assert same_state(first, state_of(ModelSpec(*network, seed=3)))
    assert not same_state(first, state_of(ModelSpec(*network, seed=4)))


def test_random_weights_disturb_no_generator():
    torch_before, python_before = torch.get_rng_state(), random.getstate()
    load_network(ModelSpec("timm", "test_resnet", seed=9))
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert random.getstate() == python_before


def test_network_is_in_evaluation_mode_without_gradients():
    network = load_network(ModelSpec("torchvision", "squeezenet1_1"))
    assert not any(module.training for module in network.module.modules())
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    assert network.preprocessing.input_px == (224, 224)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_inceptions_give_plain_logits(name):
    network = load_network(ModelSpec("torchvision", name))
    side_px = network.preprocessing.input_px[0]
    with torch.inference_mode():
        output = network.module(torch.zeros(2, 3, side_px, side_px))
    assert output.shape == (2, 1000)


def test_squeezenet_gives_its_reference_outputs(shared_data):
    network = load_network(checkpoint_spec(shared_data / SQUEEZENET))
    for index in range(3):
        folder = shared_data / "weights_squeezenet1_1"
        images = torch.from_numpy(np.load(folder / f"reference_input_{index}.npy"))
        expected = np.load(folder / f"reference_output_{index}.npy")
        with torch.inference_mode():
            output = network.module(images).numpy()
        np.testing.assert_allclose(output, expected.reshape(output.shape), rtol=0, atol=2e-4)


def test_mobilenet_checkpoint_loads_exactly(shared_data):
    path = shared_data / MOBILENET
    loaded = state_of(checkpoint_spec(path, name="mobilenet_v2"))
    assert same_state(loaded, dict(torch.load(path, weights_only=True)))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappings_of_a_checkpoint_are_taken_off(tmp_path, squeezenet_state, wrapper, prefix):
    state = {prefix + key: value for key, value in squeezenet_state.items()}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "a.pth")
    assert same_state(state_of(checkpoint_spec(tmp_path / "a.pth")), squeezenet_state)


@pytest.mark.parametrize("network", [("torchvision", "squeezenet1_1"), ("timm", "test_convnext")])
def test_safetensors_are_read(tmp_path, network):
    safetensors = pytest.importorskip("safetensors.torch")
    state = state_of(ModelSpec(*network, seed=5))
    safetensors.save_file(state, tmp_path / "a.safetensors")
    assert same_state(state_of(checkpoint_spec(tmp_path / "a.safetensors", *network)), state)


def test_timm_checkpoint_loads(tmp_path):
    state = state_of(ModelSpec("timm", "test_vit", seed=5))
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert same_state(state_of(checkpoint_spec(tmp_path / "a.pth", "timm", "test_vit")), state)


def test_densenet_files_with_dots_in_their_names_load(tmp_path):
    state = state_of(ModelSpec("torchvision", "densenet121", seed=5))
    legacy = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in state.items()
    }
    assert legacy.keys() != state.keys()
    torch.save(legacy, tmp_path / "a.pth")
    loaded = state_of(checkpoint_spec(tmp_path / "a.pth", name="densenet121"))
    assert same_state(loaded, state)


def test_auxiliary_heads_of_a_file_are_ignored(tmp_path):
    from torchvision.models import googlenet

    full = googlenet(aux_logits=True, init_weights=False).state_dict()
    torch.save(full, tmp_path / "a.pth")
    loaded = state_of(checkpoint_spec(tmp_path / "a.pth", name="googlenet"))
    assert len(loaded) < len(full)
    assert all(torch.equal(loaded[key], full[key]) for key in loaded)


@pytest.mark.parametrize("network", [("torchvision", "squeezenet1_1"), ("timm", "test_resnet")])
class TestMisfits:
    def message(self, path: Path, network) -> str:
        with pytest.raises(ModelError) as raised:
            load_network(checkpoint_spec(path, *network))
        return str(raised.value)

    def test_missing_and_unexpected_keys_are_listed_and_cut(self, tmp_path, network):
        state = {f"x.{key}": value for key, value in state_of(ModelSpec(*network)).items()}
        torch.save(state, tmp_path / "a.pth")
        message = self.message(tmp_path / "a.pth", network)
        assert str(tmp_path / "a.pth") in message
        assert network[1] in message
        assert "Missing key(s)" in message
        assert "Unexpected key(s)" in message
        assert f"and {len(state) - 3} more" in message
        assert len(message) < 1000

    def test_one_missing_key_is_an_error(self, tmp_path, network):
        state = state_of(ModelSpec(*network))
        key = list(state)[3]
        torch.save({k: v for k, v in state.items() if k != key}, tmp_path / "a.pth")
        message = self.message(tmp_path / "a.pth", network)
        assert key in message
        assert "Unexpected" not in message

    def test_shape_mismatches_are_listed_and_cut(self, tmp_path, network):
        state = {k: torch.zeros(2, 3) for k in state_of(ModelSpec(*network))}
        torch.save(state, tmp_path / "a.pth")
        message = self.message(tmp_path / "a.pth", network)
        assert "torch.Size([2, 3])" in message
        assert f"and {len(state) - 3} more size mismatches" in message

    def test_a_file_of_something_else_is_refused(self, tmp_path, network):
        (tmp_path / "a.pth").write_bytes(b"not a checkpoint at all")
        assert "a.pth" in self.message(tmp_path / "a.pth", network)

    def test_code_in_a_pickle_is_never_run(self, tmp_path, network):
        marker = tmp_path / "ran"
        torch.save({"state_dict": Touch(marker)}, tmp_path / "a.pth")
        assert "a.pth" in self.message(tmp_path / "a.pth", network)
        assert not marker.exists()


class Touch:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {}])
def test_a_file_without_a_state_dict_says_so(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="no state dict"):
        load_network(checkpoint_spec(tmp_path / "a.pth"))


@pytest.mark.parametrize("network", [("torchvision", "alexnet"), ("timm", "test_vit")])
def test_a_weights_file_that_is_not_there_is_named(network):
    for ask in (load_network, weights_digest):
        with pytest.raises(
            WeightsUnavailableError, match=r"pretrainde.*\"pretrained\", \"random\""
        ):
            ask(ModelSpec(*network, weights="pretrainde"))


def test_timm_networks_without_weights_say_so():
    for ask in (load_network, weights_digest):
        with pytest.raises(ModelError, match=r"no pretrained weights.*botnet50ts_256"):
            ask(ModelSpec("timm", "botnet50ts_256", "pretrained"))


def test_digests():
    assert weights_digest(ModelSpec("torchvision", "resnet50")) == "random"
    assert weights_digest(ModelSpec("pixels", "pixels", "pretrained")) == "none"
    assert (
        weights_digest(ModelSpec("torchvision", "resnet50", "pretrained"))
        == "pretrained:ResNet50_Weights.IMAGENET1K_V2"
    )
    tagged = weights_digest(ModelSpec("timm", "resnet18", "pretrained"))
    assert tagged == weights_digest(ModelSpec("timm", "resnet18.a1_in1k", "pretrained"))
    assert tagged == "pretrained:resnet18.a1_in1k"
    assert tagged != weights_digest(ModelSpec("timm", "resnet18.tv_in1k", "pretrained"))


def test_digest_of_a_checkpoint_is_of_its_content(tmp_path, squeezenet_state):
    torch.save(squeezenet_state, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes((tmp_path / "a.pth").read_bytes())
    digest = weights_digest(checkpoint_spec(tmp_path / "a.pth"))
    assert len(digest) == 64
    assert digest == weights_digest(checkpoint_spec(tmp_path / "b.pth"))
    torch.save(squeezenet_state["classifier.1.bias"], tmp_path / "b.pth")
    assert digest != weights_digest(checkpoint_spec(tmp_path / "b.pth"))


def test_pixels_load_and_pass_the_image_on():
    network = load_network(ModelSpec("pixels", "pixels"))
    images = torch.rand(2, 3, 224, 224)
    assert torch.equal(network.module(images), images)
