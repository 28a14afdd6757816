import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import pearsonr

from toolkit.models.trainable import Outputs
from toolkit.training import Objective
from toolkit.training.objectives import (
    Targets,
    correlation,
    loss_terms,
    mse,
    poisson,
    total_loss,
)


def arrays(seed, missing=0.3, n=12, m=5):
    rng = np.random.default_rng(seed)
    measured = rng.gamma(2, 3, (n, m)).astype(np.float32)
    predicted = (measured + rng.gamma(2, 2, (n, m))).astype(np.float32)
    measured[rng.random((n, m)) < missing] = np.nan
    return predicted, measured


def tensors(*values):
    return [torch.from_numpy(value) for value in values]


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
class TestAgainstPlainDefinitions:
    def test_mse(self, seed, missing):
        predicted, measured = arrays(seed, missing)
        scale = np.linspace(1, 3, 5).astype(np.float32)
        expected = np.nanmean(np.square((measured - predicted) / scale))
        assert mse(*tensors(predicted, measured, scale)).item() == pytest.approx(expected, 1e-5)

    def test_poisson(self, seed, missing):
        predicted, measured = arrays(seed, missing)
        expected = np.nanmean(predicted - measured * np.log(predicted + 1e-8))
        assert poisson(*tensors(predicted, measured)).item() == pytest.approx(expected, 1e-5)

    def test_correlation(self, seed, missing):
        predicted, measured = arrays(seed, missing)
        present = ~np.isnan(measured)
        r = [
            pearsonr(measured[rows, neuron], predicted[rows, neuron]).statistic
            for neuron, rows in enumerate(present.T)
        ]
        found = correlation(*tensors(predicted, measured)).item()
        assert found == pytest.approx(1 - np.mean(r), abs=1e-5)


@pytest.mark.parametrize("loss", [mse, poisson, correlation])
def test_missing_responses_give_no_gradient(loss):
    predicted, measured = tensors(*arrays(0))
    predicted.requires_grad_(True)
    loss(predicted, measured).backward()
    assert torch.isfinite(predicted.grad).all()
    assert (predicted.grad[measured.isnan()] == 0).all()
    assert (predicted.grad[~measured.isnan()] != 0).all()


@pytest.mark.parametrize("loss", [mse, poisson, correlation])
def test_nothing_measured_is_no_loss(loss):
    predicted = torch.rand(4, 3, requires_grad=True)
    value = loss(predicted, torch.full((4, 3), torch.nan))
    value.backward()
    assert value.item() == 0
    assert (predicted.grad == 0).all()


def test_neurons_without_a_correlation_are_left_out():
    predicted, measured = tensors(*arrays(1, missing=0))
    expected = correlation(predicted[:, :3], measured[:, :3])
    measured[:, 3] = 4.0
    measured[1:, 4] = torch.nan
    assert correlation(predicted, measured) == pytest.approx(expected.item(), abs=1e-6)


def test_constant_predictions_have_finite_gradients():
    predicted = torch.ones(6, 2, requires_grad=True)
    correlation(predicted, torch.randn(6, 2)).backward()
    assert torch.isfinite(predicted.grad).all()


@settings(deadline=None)
@given(st.floats(0.1, 10), st.floats(-5, 5), st.integers(0, 100))
def test_correlation_does_not_see_scale_and_offset(scale, offset, seed):
    predicted, measured = tensors(*arrays(seed))
    moved = scale * predicted + offset
    assert correlation(moved, measured).item() == pytest.approx(
        correlation(predicted, measured).item(), abs=1e-3
    )


def problem():
    predicted, measured = tensors(*arrays(2))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 4, generator=generator, requires_grad=True)
    labels = torch.randint(4, (12,), generator=generator)
    outputs = Outputs(predicted.requires_grad_(True), {"object": logits})
    return outputs, Targets(measured, {"object": labels}, torch.ones(5))


def test_cross_entropy():
    outputs, targets = problem()
    terms = loss_terms([Objective("object")], outputs, targets)
    log_p = log_softmax(outputs.logits["object"].detach().double().numpy(), axis=1)
    expected = -log_p[np.arange(12), targets.labels["object"].numpy()].mean()
    assert terms["object"].item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    outputs, targets = problem()
    objectives = [Objective("mse", 0.3), Objective("object", 1.0), Objective("correlation", 2.0)]
    terms = loss_terms(objectives, outputs, targets)
    expected = 0.3 * terms["mse"] + terms["object"] + 2 * terms["correlation"]
    assert total_loss(objectives, terms).item() == pytest.approx(expected.item(), rel=1e-6)


def test_weight_zero_is_logged_and_leaves_no_gradient():
    outputs, targets = problem()
    objectives = [Objective("mse"), Objective("object", 0.0)]
    terms = loss_terms(objectives, outputs, targets)
    assert terms["object"] > 0
    total_loss(objectives, terms).backward()
    assert outputs.logits["object"].grad is None
