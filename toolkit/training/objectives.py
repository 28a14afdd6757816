r"""What training makes small; missing responses, NaN, count for nothing.

With measured responses :math:`y_{ij}` of images :math:`i` and neurons :math:`j`, predictions
:math:`p_{ij}` and the set :math:`M` of the pairs that were measured:

mse
    :math:`|M|^{-1} \sum_M ((y_{ij} - p_{ij}) / s_j)^2`, with :math:`s_j` the neuron's scale.
poisson
    :math:`|M|^{-1} \sum_M p_{ij} - y_{ij} \log(p_{ij} + 10^{-8})`: the negative log-likelihood
    of counts :math:`y` at rates :math:`p`, without the term that no weight changes.
correlation
    :math:`1 - \bar r`, the mean over neurons of Pearson's r over the images of the batch that
    were measured. Neurons with fewer than two of them, or a constant response, have none.
object, category
    Cross-entropy of the classes, averaged over images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from toolkit.models.trainable import Outputs
from toolkit.training.recipe import Objective

_RATE_EPS = 1e-8
# Least variance of predictions, as a share of the responses': keeps gradients finite where
# predictions are constant.
_LEAST_VARIANCE = 1e-8


@dataclass(frozen=True)
class Targets:
    """What outputs are compared with, for n images on one device.

    Parameters
    ----------
    responses
        (n, n_neurons) float32, NaN where missing; None if no objective is on neurons.
    labels
        Kind of label → (n,) int64.
    scale
        (n_neurons,) float32: what a squared error is measured in.
    """

    responses: torch.Tensor | None
    labels: Mapping[str, torch.Tensor]
    scale: torch.Tensor

    def at(self, rows: torch.Tensor) -> Targets:
        """Those of some of the images."""
        return Targets(
            None if self.responses is None else self.responses[rows],
            {kind: labels[rows] for kind, labels in self.labels.items()},
            self.scale,
        )

    def to(self, device: torch.device) -> Targets:
        """The same on a device."""
        return Targets(
            None if self.responses is None else self.responses.to(device),
            {kind: labels.to(device) for kind, labels in self.labels.items()},
            self.scale.to(device),
        )


def loss_terms(
    objectives: Iterable[Objective], outputs: Outputs, targets: Targets
) -> dict[str, torch.Tensor]:
    """Value of each objective, not yet weighted; one of weight 0 leaves no trace for gradients."""
    terms: dict[str, torch.Tensor] = {}
    for objective in objectives:
        with torch.set_grad_enabled(torch.is_grad_enabled() and objective.weight > 0):
            terms[objective.kind] = _term(objective.kind, outputs, targets)
    return terms


def total_loss(objectives: Iterable[Objective], terms: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The weighted sum; objectives of weight 0 are no part of it."""
    weighted = [
        terms[objective.kind] * objective.weight for objective in objectives if objective.weight
    ]
    return torch.stack(weighted).sum()


def mse(
    predicted: torch.Tensor, measured: torch.Tensor, scale: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Mean squared error over the responses that were measured, in squared units of ``scale``."""
    present = ~measured.isnan()
    errors = torch.where(present, predicted - measured, 0) / scale
    return _mean(errors.square(), present)


def poisson(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """Mean Poisson loss over the responses that were measured; predictions are positive."""
    present = ~measured.isnan()
    log_rates = (predicted + _RATE_EPS).log()
    return _mean(predicted - measured.nan_to_num() * log_rates, present)


def correlation(predicted: torch.Tensor, measured: torch.Tensor) -> torch.Tensor:
    """One minus the mean over neurons of Pearson's r; 0 if no neuron has one."""
    present = ~measured.isnan()
    n_present = present.sum(dim=0)
    y = _centred(measured, present, n_present)
    p = _centred(predicted, present, n_present)
    variation = y.square().sum(dim=0)
    is_defined = (n_present > 1) & (variation > 0)
    variation = torch.where(is_defined, variation, 1)
    predicted_variation = p.square().sum(dim=0) + _LEAST_VARIANCE * variation
    r = (y * p).sum(dim=0) / (variation * predicted_variation).sqrt()
    return _mean(1 - r, is_defined)


_NEURAL: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "poisson": poisson,
    "correlation": correlation,
}


def _term(kind: str, outputs: Outputs, targets: Targets) -> torch.Tensor:
    if kind in outputs.logits:
        return functional.cross_entropy(outputs.logits[kind], targets.labels[kind])
    assert outputs.responses is not None and targets.responses is not None
    if kind == "mse":
        return mse(outputs.responses, targets.responses, targets.scale)
    return _NEURAL[kind](outputs.responses, targets.responses)


def _mean(values: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Mean of those present; 0 if none is."""
    return torch.where(present, values, 0).sum() / present.sum().clamp(min=1)


def _centred(values: torch.Tensor, present: torch.Tensor, n_present: torch.Tensor) -> torch.Tensor:
    mean = torch.where(present, values, 0).sum(dim=0) / n_present.clamp(min=1)
    return torch.where(present, values - mean, 0)
