import numpy as np
import pytest
import torch

from toolkit.models import ModelError
from toolkit.models.decoders import (
    DecoderTooLargeError,
    build_decoder,
    decoder_bytes,
    require_room,
)
from toolkit.models.network_spec import DecoderSpec

MAPS = (5, 4, 6)


def maps(n=3):
    return torch.randn(n, *MAPS, generator=torch.Generator().manual_seed(0))


def test_a_plain_decoder_is_a_linear_regression_on_all_features():
    decoder = build_decoder(DecoderSpec(), MAPS, 2)
    linear = decoder[-1]
    expected = maps().flatten(1).numpy() @ linear.weight.detach().numpy().T
    expected += linear.bias.detach().numpy()
    assert np.allclose(decoder(maps()).detach(), expected, atol=1e-5)


@pytest.mark.parametrize("pool_px", [1, 2])
def test_pooling_averages_blocks_of_positions(pool_px):
    decoder = build_decoder(DecoderSpec(pool_px=pool_px), MAPS, 2)
    blocks = maps().reshape(3, 5, pool_px, 4 // pool_px, pool_px, 6 // pool_px).mean(dim=(3, 5))
    expected = decoder[-1](blocks.flatten(1))
    assert torch.allclose(decoder(maps()), expected, atol=1e-6)


def test_a_factorised_decoder_is_a_mask_times_channel_weights():
    decoder = build_decoder(DecoderSpec("factorised"), MAPS, 7)
    mask, weights, bias = (p.detach().double().numpy() for p in decoder.parameters())
    expected = np.einsum("bcs,ns,nc->bn", maps().flatten(2).double().numpy(), mask, weights) + bias
    assert np.allclose(decoder(maps()).detach(), expected, atol=1e-5)
    assert sum(p.numel() for p in decoder.parameters()) == 7 * (4 * 6 + 5 + 1)


def test_maps_with_channels_last_are_read_as_maps():
    last = torch.randn(2, 4, 4, 5)
    for spec in (DecoderSpec(pool_px=1), DecoderSpec("factorised")):
        torch.manual_seed(0)
        of_last = build_decoder(spec, (4, 4, 5), 3)
        torch.manual_seed(0)
        of_first = build_decoder(spec, (5, 4, 4), 3)
        expected = of_first(last.permute(0, 3, 1, 2))
        assert torch.allclose(of_last(last), expected, atol=1e-6)


def test_hidden_layers_have_relu_and_dropout():
    decoder = build_decoder(DecoderSpec(hidden=(11, 13), dropout=0.4), (8,), 2)
    kinds = [type(part).__name__ for part in decoder]
    assert kinds == ["Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Linear"]
    assert [part.out_features for part in decoder if hasattr(part, "out_features")] == [11, 13, 2]
    assert {part.p for part in decoder if hasattr(part, "p")} == {0.4}


@pytest.mark.parametrize("spec", [DecoderSpec("factorised"), DecoderSpec(pool_px=1)])
def test_space_needs_maps(spec):
    with pytest.raises(ModelError, match="needs maps"):
        build_decoder(spec, (512,), 3)


@pytest.mark.parametrize(
    "spec", [DecoderSpec(), DecoderSpec(hidden=(9, 8)), DecoderSpec("factorised")]
)
def test_bytes_are_those_of_the_weights(spec):
    decoder = build_decoder(spec, MAPS, 3)
    assert decoder_bytes(spec, MAPS, 3) == sum(4 * p.numel() for p in decoder.parameters())


def test_a_decoder_of_terabytes_is_refused_before_it_is_allocated():
    spec = DecoderSpec(hidden=(7000, 7000))
    shape = (512, 224, 224)
    weights_bytes = 4 * (512 * 224**2 * 7000 + 7000 + 7000**2 + 7000 + 7000 * 168 + 168)
    with pytest.raises(DecoderTooLargeError) as caught:
        require_room(spec, shape, 168, memory_bytes=10**9, n_copies=5)
    for part in (f"{weights_bytes:,}", f"{5 * weights_bytes:,}", "1,000,000,000", "pool_px"):
        assert part in str(caught.value)
    require_room(spec, shape, 168, memory_bytes=5 * weights_bytes, n_copies=5)


def test_a_decoder_without_end_is_refused():
    with pytest.raises(ModelError, match="cannot be built"):
        decoder_bytes(DecoderSpec("dense", pool_px=99_999_999), (128, 4, 4), 168)
