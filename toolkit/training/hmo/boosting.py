"""Choosing modules that are right where those chosen before are wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Choice:
    """Modules in the order in which they were chosen.

    Parameters
    ----------
    modules
        Their numbers.
    errors
        Share of the images' weights on which each was wrong when it was chosen.
    """

    modules: tuple[int, ...]
    errors: tuple[float, ...]


def choose_boosted(is_right: NDArray[np.bool_], n_chosen: int, n_classes: int) -> Choice:
    """Greedy boosting: each choice errs least on images weighted by the errors of those before.

    The weights are those of multi-class AdaBoost: Zhu et al. 2009, Multi-class AdaBoost, algorithm
    2 (SAMME). A module is chosen once. A module that is no better than chance leaves the weights as
    they are.

    Parameters
    ----------
    is_right
        (n_modules, n_images): whether each module classified each image correctly.
    n_chosen
        Modules to choose, at most as many as there are.
    n_classes
        Classes of the task.
    """
    n_modules, n_images = is_right.shape
    weights = np.full(n_images, 1 / n_images)
    modules: list[int] = []
    errors: list[float] = []
    for _ in range(min(n_chosen, n_modules)):
        weighted_errors = ~is_right @ weights
        weighted_errors[modules] = np.inf
        chosen = int(weighted_errors.argmin())
        error = float(weighted_errors[chosen])
        modules.append(chosen)
        errors.append(error)
        # A module that is never wrong counts as if it were on half an image.
        bounded = np.clip(error, 0.5 / n_images, 1 - 0.5 / n_images)
        importance = np.log((1 - bounded) / bounded) + np.log(n_classes - 1)
        weights = weights * np.exp(max(importance, 0.0) * ~is_right[chosen])
        weights /= weights.sum()
    return Choice(tuple(modules), tuple(errors))


def choose_best(is_right: NDArray[np.bool_], n_chosen: int) -> Choice:
    """The modules that err least, each by itself; parameters as in :func:`choose_boosted`."""
    errors = 1 - is_right.mean(axis=1)
    order = np.argsort(errors, kind="stable")[:n_chosen]
    return Choice(tuple(map(int, order)), tuple(map(float, errors[order])))
