import numpy as np
import pytest
import torch

from toolkit.models.modular import ModularNetwork
from toolkit.models.network_spec import ModularTrunk, ShallowTrunk, SmallModule
from toolkit.models.shallow import SHALLOW, ShallowCNN, SoftPool2d

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SHALLOW)
def test_every_shallow_network_gives_maps_halved_by_each_block(name):
    spec = SHALLOW[name]
    side = 32 >> len(spec.channels)
    assert ShallowCNN(spec)(IMAGES).shape == (2, spec.channels[-1], side, side)


def test_blocks_hold_what_the_specification_says():
    spec = ShallowTrunk((4, 8), kernel_px=5, pooling="average", normalised=True, dropout=0.3)
    for block in ShallowCNN(spec):
        kinds = [type(part).__name__ for part in block]
        assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "AvgPool2d", "Dropout2d"]
        assert block[0].kernel_size == (5, 5)
    assert len(ShallowCNN(ShallowTrunk((4,), pooling="none"))[0]) == 2
    assert ShallowCNN(ShallowTrunk((4,), pooling="none"))(IMAGES).shape == (2, 4, 32, 32)


def test_soft_pooling_is_the_average_weighted_by_the_softmax():
    maps = 20 * torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(1))
    windows = maps.double().numpy().reshape(2, 3, 2, 2, 3, 2).transpose(0, 1, 2, 4, 3, 5)
    windows = windows.reshape(2, 3, 2, 3, 4)
    weights = np.exp(windows - windows.max(axis=-1, keepdims=True))
    expected = (weights * windows).sum(axis=-1) / weights.sum(axis=-1)
    near_the_largest = windows.max(axis=-1) > windows.max() - 30
    found = SoftPool2d()(maps).numpy()
    assert np.allclose(found[near_the_largest], expected[near_the_largest], rtol=1e-4, atol=1e-4)
    assert np.isfinite(found).all()


def test_stages_and_stacks_are_concatenated_and_topped():
    small = SmallModule((4,), (3,), "max", normalised=False)
    wide = SmallModule((6, 5), (3, 7), "soft", normalised=True)
    spec = ModularTrunk((((small, wide),), ((wide,), (small, small, wide))), n_features=50)
    network = ModularNetwork(spec).eval()
    assert network.top[0].in_features == 4 * ((4 + 5) + (4 + 4 + 5))
    assert network(IMAGES).shape == (2, 50)
    assert (network(IMAGES) >= 0).all()
    first, second = network.stacks
    expected = torch.cat([module(IMAGES) for module in first[0]], dim=1)
    assert torch.equal(first(IMAGES), expected)
    assert second(IMAGES).shape == (2, 13, 8, 8)


def test_stages_deeper_than_the_image_is_large_still_run():
    module = SmallModule((4, 4), (3, 3), "average", normalised=True)
    stack = ((module,),) * 7
    assert ModularNetwork(ModularTrunk((stack,)))(IMAGES).shape == (2, 16)
