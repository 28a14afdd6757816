"""Trials of a search, and the rungs of successive halving, as values known beforehand."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np

from toolkit.config import Range, SearchConfig

_SIGNIFICANT_DIGITS = 4
_DECODER = "decoder."
# Draws per trial after which a space is taken to have no more different ones.
_MOST_DRAWS = 50


def trials_of(search: SearchConfig, default_seed: int) -> list[dict[str, Any]]:
    """Different choices, in an order that the config decides: path of a field → value.

    A random search over lists gives fewer than were asked for where there are fewer.
    """
    if search.kind == "grid":
        return [
            dict(zip(search.over, values, strict=True))
            for values in itertools.product(*search.over.values())
        ]
    rng = np.random.default_rng(default_seed if search.seed is None else search.seed)
    n_trials = search.n_trials or 0
    found: list[dict[str, Any]] = []
    for _ in range(_MOST_DRAWS * n_trials):
        drawn = {path: _draw(choices, rng) for path, choices in search.over.items()}
        if drawn not in found:
            found.append(drawn)
        if len(found) == n_trials:
            break
    return found


def _draw(choices: Range | tuple[Any, ...], rng: np.random.Generator) -> Any:
    if not isinstance(choices, Range):
        return choices[rng.integers(len(choices))]
    if choices.log:
        value = math.exp(rng.uniform(math.log(choices.min), math.log(choices.max)))
    else:
        value = rng.uniform(choices.min, choices.max)
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}")


def with_choices(
    recipe: dict[str, Any], decoder: dict[str, Any], choices: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A recipe and a decoder with a trial's values in the place of their own."""
    changed = copy.deepcopy({"recipe": recipe, "decoder": decoder})
    for path, value in choices.items():
        is_decoder = path.startswith(_DECODER)
        *parents, last = path.removeprefix(_DECODER).split(".")
        place = changed["decoder" if is_decoder else "recipe"]
        for part in parents:
            if not isinstance(place.get(part), dict):
                place[part] = {}
            place = place[part]
        place[last] = value
    return changed["recipe"], changed["decoder"]


def rungs_of(search: SearchConfig, n_trials: int, n_epochs: int) -> list[tuple[int, int]]:
    """Number of trials and of epochs, from the start, of each rung; the last has all epochs.

    Li et al. 2018, Hyperband: A novel bandit-based approach to hyperparameter optimization,
    algorithm 1, one bracket: rung r keeps one of ``eta`` of the trials before it, for ``eta`` times
    as many epochs.
    """
    if search.halving is None:
        return [(n_trials, n_epochs)]
    eta, epochs = search.halving.eta, search.halving.first_epochs
    rungs = [(n_trials, min(epochs, n_epochs))]
    while rungs[-1][1] < n_epochs:
        n_left = math.ceil(n_trials / eta ** len(rungs))
        is_last = n_left == 1
        wanted = epochs * eta ** len(rungs)
        rungs.append((n_left, n_epochs if is_last else min(wanted, n_epochs)))
    return rungs
