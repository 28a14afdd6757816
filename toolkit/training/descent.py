"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from toolkit.training.recipe import Optimizer, Recipe, Schedule

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "sgd": torch.optim.SGD,
}


def make_optimizer(spec: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of these parameters, as torch has it."""
    options: dict[str, Any] = {"lr": spec.lr, "weight_decay": spec.weight_decay}
    if spec.kind == "sgd":
        options["momentum"] = spec.momentum
    return _OPTIMIZERS[spec.kind](list(parameters), **options)


def make_scheduler(
    recipe: Recipe, optimizer: torch.optim.Optimizer, n_steps_per_epoch: int
) -> LRScheduler:
    """The recipe's schedule; one of kind "onecycle" steps after each batch, others each epoch."""
    schedule = recipe.schedule
    if schedule.kind != "onecycle":
        return LambdaLR(optimizer, partial(lr_factor, schedule, recipe.n_epochs))
    has_momentum = recipe.optimizer.kind != "sgd" or recipe.optimizer.momentum > 0
    return OneCycleLR(
        optimizer,
        max_lr=recipe.optimizer.lr,
        total_steps=recipe.n_epochs * n_steps_per_epoch,
        pct_start=schedule.warmup_epochs / recipe.n_epochs,
        cycle_momentum=has_momentum,
    )


def lr_factor(schedule: Schedule, n_epochs: int, epoch: int) -> float:
    """What the learning rate of an epoch, from 0, is multiplied with; not for "onecycle"."""
    warmup = min(1.0, (epoch + 1) / (schedule.warmup_epochs + 1))
    if schedule.kind == "step":
        return warmup * schedule.factor ** (epoch // schedule.step_epochs)
    if schedule.kind == "cosine":
        return warmup * (1 + math.cos(math.pi * epoch / n_epochs)) / 2
    return warmup
