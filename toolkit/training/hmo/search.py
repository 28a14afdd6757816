"""Growing a network: sample, train briefly, choose, stack, and train the whole."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.data import NeuralDataset
from toolkit.models.network_spec import ModularTrunk, NetworkSpec, SmallModule
from toolkit.models.plain import Plain
from toolkit.training.assignment import Assignment
from toolkit.training.errors import RecipeError
from toolkit.training.hmo.boosting import Choice, choose_best, choose_boosted
from toolkit.training.hmo.space import ModuleSpace, sample_modules
from toolkit.training.images import ImageBank
from toolkit.training.loop import TrainingResult, train
from toolkit.training.prediction import predict
from toolkit.training.preparation import class_names
from toolkit.training.recipe import LabelKind, Recipe
from toolkit.training.trainer import Running

_log = logging.getLogger("toolkit")

_SEED_SELECTION = 3


@dataclass(frozen=True)
class HmoSearch(Plain):
    """How a network of modules is grown.

    Parameters
    ----------
    brief, final
        How each module is trained, and the whole; both classify, by the same labels.
    space
        What a module may be.
    n_modules
        Modules sampled for each stage.
    n_chosen
        Modules kept of them.
    n_stages
        Stages of the deepest stack; there is a stack of each depth, side by side.
    n_features
        Units of the layer above the stacks.
    selection_share
        Share of the training images that modules are compared on, and that they do not see.
    input_px
        Side of the images.
    seed
        Of the sample, the images to compare on, and all weights.

    Raises
    ------
    RecipeError
        If a number is out of range, or a recipe does not classify.
    """

    refusal: ClassVar[type[ValueError]] = RecipeError

    brief: Recipe
    final: Recipe
    space: ModuleSpace = field(default_factory=ModuleSpace)
    n_modules: int = 200
    n_chosen: int = 8
    n_stages: int = 3
    n_features: int = 1250
    selection_share: float = 0.25
    input_px: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n_chosen <= self.n_modules:
            raise RecipeError(
                f"n_chosen is {self.n_chosen} of n_modules: {self.n_modules}; write 1 to "
                f"{self.n_modules}"
            )
        if self.n_stages < 1 or self.n_features < 1:
            raise RecipeError("n_stages and n_features must be 1 or more")
        if not 0 < self.selection_share < 1:
            raise RecipeError(f"selection_share is {self.selection_share}; write e.g. 0.25")
        kinds = self.brief.label_kinds[:1], self.final.label_kinds[:1]
        if kinds[0] != kinds[1] or not kinds[0]:
            raise RecipeError(
                "brief and final must both have the objective object, or both category, as their "
                f"first one on classes; they have {kinds[0]} and {kinds[1]}"
            )

    @property
    def label_kind(self) -> LabelKind:
        """What modules classify."""
        return self.brief.label_kinds[0]


@dataclass(frozen=True)
class HmoData:
    """The images of a search: a data set, its bank, and which of them are trained and tested on."""

    dataset: NeuralDataset
    bank: ImageBank
    train: NDArray[np.integer]
    test: NDArray[np.integer]


@dataclass(frozen=True)
class Member:
    """A module that was briefly trained.

    Parameters
    ----------
    module
        What it is.
    weights
        Its weights and buffers, by their names within it.
    is_right
        (n_images,) bool: which of the images to compare on it classified correctly.
    """

    module: SmallModule
    weights: Mapping[str, torch.Tensor]
    is_right: NDArray[np.bool_]


@dataclass(frozen=True)
class HmoResult:
    """A grown network, and how it compares.

    Parameters
    ----------
    best_module, unboosted, boosted
        The trained networks: of the one best module, of the modules that were best each by itself,
        of those that boosting chose.
    accuracy
        Share of test images that each of them, by these names, classifies correctly.
    choices
        Of boosting, one per stage.
    """

    best_module: TrainingResult
    unboosted: TrainingResult
    boosted: TrainingResult
    accuracy: dict[str, float]
    choices: tuple[Choice, ...]


def grow(
    search: HmoSearch, data: HmoData, folder: Path, running: Running | None = None
) -> HmoResult:
    """Run the whole search; called again after an interruption, it goes on where it was.

    Parameters
    ----------
    search
        How.
    data
        On what.
    folder
        Each training has a folder of its own in it.
    running
        As for :func:`toolkit.training.train`.

    Raises
    ------
    As :func:`toolkit.training.train`.
    """
    boosted, choices = _stages(search, data, folder, running, "boosted")
    unboosted, _ = _stages(search, data, folder, running, "unboosted")
    best = (unboosted[0][:1],)
    accuracy, results = {}, {}
    for name, stages in (("best_module", best), ("unboosted", unboosted), ("boosted", boosted)):
        results[name] = train(assemble(search, data, stages), folder / name, running)
        accuracy[name] = float(is_right_on(search, data, results[name], data.test).mean())
        _log.info("%s: accuracy %.4f", name, accuracy[name])
    return HmoResult(**results, accuracy=accuracy, choices=choices)


def train_member(
    search: HmoSearch,
    data: HmoData,
    earlier: Sequence[Sequence[Member]],
    module: SmallModule,
    folder: Path,
    running: Running | None = None,
) -> Member:
    """Train one module briefly, on top of the stages before it, which stay as they are.

    Parameters
    ----------
    search, data, running
        As in :func:`grow`.
    earlier
        Members of the stages before.
    module
        The module.
    folder
        The training has a folder in it, named after what decides its result.
    """
    fitted, compared = selection(search, data)
    depth = len(earlier)
    stack = (*(tuple(m.module for m in stage) for stage in earlier), (module,))
    trunk = ModularTrunk((stack,), input_px=search.input_px)
    assignment = Assignment(
        spec=NetworkSpec(trunk, n_trained_stages=1, seed=search.seed),
        recipe=search.brief,
        dataset=data.dataset,
        rows=fitted,
        bank=data.bank,
        initial=_weights_at(0, earlier),
    )
    identity = json.dumps(assignment.identity(), sort_keys=True)
    name = f"module-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    result = train(assignment, folder / name, running)
    prefix = f"trunk.stacks.0.{depth}.0."
    state = result.trained.network.state_dict()
    return Member(
        module=module,
        weights={n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)},
        is_right=is_right_on(search, data, result, compared),
    )


def selection(search: HmoSearch, data: HmoData) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Training images that modules are trained on, and those that they are compared on."""
    n_compared = max(1, round(search.selection_share * len(data.train)))
    rng = np.random.default_rng([search.seed, _SEED_SELECTION])
    shuffled = rng.permutation(data.train)
    return np.sort(shuffled[n_compared:]), np.sort(shuffled[:n_compared])


def is_right_on(
    search: HmoSearch, data: HmoData, result: TrainingResult, rows: NDArray[np.integer]
) -> NDArray[np.bool_]:
    """Which of these images a trained network classifies correctly, (len(rows),) bool."""
    kind = search.label_kind
    logits = predict(result.trained, data.bank, rows).logits[kind]
    number = {name: index for index, name in enumerate(result.trained.classes[kind])}
    dataset = data.dataset
    names = dataset.object_names if kind == "object" else dataset.category_names
    assert names is not None
    return logits.argmax(axis=1) == np.array([number[names[row]] for row in rows])


def chosen(
    search: HmoSearch, data: HmoData, members: Sequence[Member], by: str
) -> tuple[tuple[Member, ...], Choice]:
    """The members that a stage keeps, in the order of their choice.

    Parameters
    ----------
    search, data
        As in :func:`grow`.
    members
        All that were trained for the stage, in the order in which they were sampled.
    by
        "boosted": those that complement each other; "unboosted": the best, each by itself.
    """
    n_classes = len(class_names(data.dataset, search.label_kind))
    choose = (
        partial(choose_boosted, n_chosen=search.n_chosen, n_classes=n_classes)
        if by == "boosted"
        else partial(choose_best, n_chosen=search.n_chosen)
    )
    choice: Choice = choose(np.stack([member.is_right for member in members]))
    return tuple(members[index] for index in choice.modules), choice


def _stages(
    search: HmoSearch, data: HmoData, folder: Path, running: Running | None, by: str
) -> tuple[tuple[tuple[Member, ...], ...], tuple[Choice, ...]]:
    """Members of each stage, in the order of their choice; each stage is sampled anew."""
    stages: list[tuple[Member, ...]] = []
    choices = []
    for depth in range(search.n_stages):
        modules = sample_modules(search.space, search.n_modules, search.seed + depth)
        members = [train_member(search, data, stages, m, folder, running) for m in modules]
        stage, choice = chosen(search, data, members, by)
        stages.append(stage)
        choices.append(choice)
    return tuple(stages), tuple(choices)


def assemble(search: HmoSearch, data: HmoData, stages: Sequence[Sequence[Member]]) -> Assignment:
    """Stacks of each depth side by side, starting from the weights of their members."""
    modules = tuple(tuple(member.module for member in stage) for stage in stages)
    trunk = ModularTrunk(
        tuple(modules[:depth] for depth in range(1, len(stages) + 1)),
        n_features=search.n_features,
        input_px=search.input_px,
    )
    initial: dict[str, torch.Tensor] = {}
    for depth in range(1, len(stages) + 1):
        initial |= _weights_at(depth - 1, stages[:depth])
    return Assignment(
        spec=NetworkSpec(trunk, seed=search.seed),
        recipe=search.final,
        dataset=data.dataset,
        rows=data.train,
        bank=data.bank,
        initial=initial,
    )


def _weights_at(stack: int, stages: Sequence[Sequence[Member]]) -> dict[str, torch.Tensor]:
    return {
        f"trunk.stacks.{stack}.{depth}.{index}.{name}": value
        for depth, stage in enumerate(stages)
        for index, member in enumerate(stage)
        for name, value in member.weights.items()
    }
