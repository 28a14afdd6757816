"""From the training entries of a config to networks and recipes; what cannot work is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.catalog import Catalog
from toolkit.config import (
    ExcludeRule,
    HmoNetwork,
    ShallowNetwork,
    SweepConfig,
    TrainingConfig,
    ZooNetwork,
    are_trained_here,
)
from toolkit.models import ModelError, WeightsUnavailableError
from toolkit.models.network_spec import DecoderSpec, ShallowTrunk, ZooTrunk
from toolkit.models.plain import Plain
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.searches import trials_of, with_choices
from toolkit.training import Recipe, RecipeError
from toolkit.training.hmo.space import ModuleSpace
from toolkit.yaml_source import ConfigError, KeyPath, Source, nearest

_MODES = {"all": "finetune", "none": "frozen"}
_NOT_OF_THE_SEARCH = {"library", "name", "brief", "modules_per_task"}
# How pydantic begins to say it.
_UNKNOWN, _MISSING = "Unexpected keyword", ("Field required", "Missing required")
_OWN_KEYS = {"objectives": "objectives", "seed": "seeds"}


@dataclass(frozen=True)
class Variant:
    """One network, and one way to train it, of a training entry.

    Parameters
    ----------
    name, training
        The entry.
    library, model, weights
        Names in the results; ``weights`` as the config has it.
    trunk
        :data:`toolkit.models.network_spec.TrunkSpec` as JSON values, its weights by what decides
        them.
    trained
        all, none, or so many last stages.
    objectives
        Kind → weight.
    """

    name: str
    training: TrainingConfig
    library: str
    model: str
    weights: str
    trunk: dict[str, Any]
    trained: str | int
    objectives: dict[str, float]

    @property
    def at(self) -> KeyPath:
        """Where the entry stands in the config."""
        return "training", self.name

    @property
    def readout(self) -> str:
        """What the result tables call the way it is trained."""
        return _MODES.get(str(self.trained), f"last{self.trained}")

    @property
    def layer(self) -> str:
        """Where the network was cut; empty if it was not."""
        n_blocks = self.trunk.get("n_blocks")
        return f"block{n_blocks}" if n_blocks else self.trunk.get("layer") or ""

    @property
    def objective(self) -> str:
        """Its objectives as a text: ``object:0.3+mse:1``."""
        return "+".join(f"{kind}:{weight:g}" for kind, weight in self.objectives.items())

    def label(self, readout: str) -> str:
        """What a person reads."""
        parts = (self.name, self.model, self.layer, self.weights, readout)
        return " ".join(part for part in (*parts, self.objective) if part)

    def network(self, seed: int) -> dict[str, Any]:
        """:class:`toolkit.models.network_spec.NetworkSpec` as JSON values."""
        n_stages = {"all": None, "none": 0}.get(str(self.trained), self.trained)
        decoder = DecoderSpec.from_plain(self.training.decoder).to_plain()
        return {
            "trunk": self.trunk,
            "decoder": decoder,
            "n_trained_stages": n_stages,
            "n_logits": self.training.n_logits,
            "seed": seed,
        }

    def recipe(self, seed: int) -> dict[str, Any]:
        """:class:`toolkit.training.Recipe` as JSON values."""
        return recipe_of(self.training.recipe, self.objectives, seed)


def recipe_of(
    given: dict[str, Any], objectives: dict[str, float], seed: int, **more: Any
) -> dict[str, Any]:
    """A recipe of a config as a whole one, in JSON values."""
    terms = [{"kind": kind, "weight": weight} for kind, weight in objectives.items()]
    return {**given, "objectives": terms, "seed": seed, **more}


def _by_name(objectives: Mapping[Any, float]) -> dict[str, float]:
    return {str(kind): weight for kind, weight in objectives.items()}


def plan_variants(
    config: SweepConfig, source: Source, catalog: Catalog, name: str
) -> list[Variant]:
    """Every network and way to train it that ``config.training[name]`` stands for.

    Raises
    ------
    ConfigError
        With every problem that does not depend on the data: unknown networks and keys, recipes
        that cannot be followed, cuts and stages that are not there.
    """
    training, at = config.training[name], ("training", name)
    problems = list(_recipe_problems(config, training, source, at))
    if isinstance(training.network, ZooNetwork | ShallowNetwork):
        problems += _problems(DecoderSpec, training.decoder, source, (*at, "decoder"))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    networks = list(_networks(training, source, catalog, at))
    crossed = itertools.product(networks, training.trained, training.objectives)
    variants = [
        Variant(name, training, library, model, weights, trunk, trained, _by_name(objectives))
        for (library, model, weights, trunk), trained, objectives in crossed
    ]
    for variant in variants:
        _refuse_missing_stages(variant, source, catalog)
    return variants


def refuse_unfitting(
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    variant: Variant,
    dataset: PlannedDataset,
) -> None:
    """Look whether a data set can be trained on.

    Raises
    ------
    ConfigError
        If it lacks labels or has more classes than logits, the share of the validation images
        gives none, a fold is not there, or a decoder needs more memory than a job has.
    """
    problems = [
        *_label_problems(source, variant, dataset),
        *_share_problems(config, source, variant, dataset),
        *_fold_problems(source, variant, dataset),
        *_split_problems(source, variant, dataset),
        *_memory_problems(config, source, catalog, variant, dataset),
    ]
    if problems:
        raise ConfigError(problems)


def is_excluded(rules: Sequence[ExcludeRule], dataset: PlannedDataset, variant: Variant) -> bool:
    """Whether the config leaves this training on this data set out."""
    values = {
        "dataset": dataset.name,
        "library": variant.library,
        "model": variant.model,
        "weights": variant.weights,
        "layer": variant.layer,
        "features": "",
        "readout": variant.readout,
    }
    return any(rule.matches(values) for rule in rules)


def _networks(
    training: TrainingConfig, source: Source, catalog: Catalog, at: KeyPath
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Library, model, weights and trunk of each."""
    network = training.network
    if isinstance(network, HmoNetwork):
        yield "hmo", network.name, "random", {"kind": "modular", "input_px": network.input_px}
        return
    if isinstance(network, ShallowNetwork):
        given = network.model_dump(mode="json", exclude={"library", "name", "weights"})
        if problems := _problems(ShallowTrunk, given, source, (*at, "network")):
            raise ConfigError(problems)
        for weights in network.weights:
            if weights != "random" and not are_trained_here(weights):
                place = source.existing((*at, "network", "weights"))
                raise source.error(place, f"a shallow network has no weights {weights!r}")
            trunk = ShallowTrunk.from_plain(given).to_plain()
            yield "shallow", network.name, weights, trunk
        return
    for j, pattern in enumerate(network.names):
        try:
            names = catalog.names(network.library, pattern)
        except ModelError as error:
            place = source.existing((*at, "network", "names", j))
            raise source.error(place, str(error)) from error
        crossed = itertools.product(names, network.weights, network.layers, network.n_blocks)
        for name, weights, layer, n_blocks in crossed:
            digest = _digest(network, name, weights, source, catalog, at)
            trunk_at = (*at, "network")
            given = {
                "library": network.library,
                "name": name,
                "weights": digest,
                "layer": layer,
                "n_blocks": n_blocks,
                "input_px": network.input_px,
            }
            if problems := _problems(ZooTrunk, given, source, trunk_at):
                raise ConfigError(problems)
            trunk = ZooTrunk.from_plain(given).to_plain()
            yield network.library, name, weights, trunk


def _digest(
    network: ZooNetwork, name: str, weights: str, source: Source, catalog: Catalog, at: KeyPath
) -> str:
    """What decides the weights; those of a training are added to random ones when it runs."""
    if are_trained_here(weights):
        return "random"
    try:
        return catalog.weights_digest(network.library, name, weights)
    except (ModelError, WeightsUnavailableError) as error:
        place = source.existing((*at, "network", "weights", network.weights.index(weights)))
        raise source.error(place, str(error)) from error


def _problems(kind: type[Plain], given: dict[str, Any], source: Source, at: KeyPath) -> list[str]:
    found = []
    for path, text in kind.problems(given):
        where = (*at, *path)
        if text.startswith(_UNKNOWN):
            found.append(source.problem(where, _unknown_key(kind, path)))
        elif text.startswith(_MISSING):
            found.append(source.problem(where, "this key is required"))
        else:
            found.append(source.problem(source.existing(where), text))
    return found


def _unknown_key(kind: type[Plain], path: tuple[int | str, ...]) -> str:
    if len(path) > 1:
        return "unknown key"
    near = nearest(str(path[0]), kind.keys(), n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(kind.keys())}"


def _recipe_problems(
    config: SweepConfig, training: TrainingConfig, source: Source, at: KeyPath
) -> Iterator[str]:
    for key, instead in _OWN_KEYS.items():
        if key in training.recipe:
            yield source.problem((*at, "recipe", key), f"write it as '{instead}' beside recipe")
            return
    if isinstance(training.network, HmoNetwork):
        for objectives in training.objectives:
            plain = hmo_search(training.network, training.recipe, _by_name(objectives), 0)
            yield from _hmo_problems(plain, source, at)
        return
    for objectives in training.objectives:
        recipe = recipe_of(training.recipe, _by_name(objectives), 0)
        yield from _problems(Recipe, recipe, source, (*at, "recipe"))
    if training.search is None:
        return
    if not training.recipe.get("validation_share", Recipe.validation_share):
        yield source.problem(
            (*at, "search"), "trials are compared on validation images: write a validation_share"
        )
    for choices in trials_of(training.search, config.seed):
        try:
            given, decoder = with_choices(training.recipe, training.decoder, choices)
            Recipe.from_plain(recipe_of(given, _by_name(training.objectives[0]), 0))
            DecoderSpec.from_plain(decoder)
        except (RecipeError, ModelError) as error:
            text = ", ".join(f"{key}: {value}" for key, value in choices.items())
            yield source.problem((*at, "search", "over"), f"trial {text}: {error}")
            return


def _hmo_problems(plain: dict[str, Any], source: Source, at: KeyPath) -> Iterator[str]:
    for key, path in (("final", (*at, "recipe")), ("brief", (*at, "network", "brief"))):
        problems = _problems(Recipe, plain[key], source, path)
        yield from problems
        if problems:
            return
    problems = _problems(ModuleSpace, plain["space"], source, (*at, "network", "space"))
    yield from problems
    size = 0 if problems else ModuleSpace.from_plain(plain["space"]).size
    if size and plain["n_modules"] > size:
        yield source.problem(
            source.existing((*at, "network", "n_modules")),
            f"{plain['n_modules']} different modules are wanted, but the space has {size}",
        )
    if plain["n_chosen"] > plain["n_modules"]:
        yield source.problem(
            source.existing((*at, "network", "n_chosen")),
            f"{plain['n_chosen']} of {plain['n_modules']} modules; write at most as many",
        )
    if not Recipe.from_plain(plain["final"]).label_kinds:
        yield source.problem(
            source.existing((*at, "objectives")),
            "modules are compared by their classification: write object or category",
        )


def hmo_search(
    network: HmoNetwork, recipe: dict[str, Any], objectives: dict[str, float], seed: int
) -> dict[str, Any]:
    """:class:`toolkit.training.hmo.search.HmoSearch` as JSON values."""
    numbers = network.model_dump(mode="json", exclude=_NOT_OF_THE_SEARCH)
    return {
        **numbers,
        "brief": recipe_of(network.brief, objectives, seed),
        "final": recipe_of(recipe, objectives, seed),
        "seed": seed,
    }


def _refuse_missing_stages(variant: Variant, source: Source, catalog: Catalog) -> None:
    if variant.library == "hmo":
        return
    try:
        n_stages = catalog.trunk(variant.trunk).n_stages
    except ModelError as error:
        raise source.error((*variant.at, "network"), f"{variant.model}: {error}") from error
    if isinstance(variant.trained, int) and variant.trained > n_stages:
        raise source.error(
            source.existing((*variant.at, "trained")),
            f"the last {variant.trained} stages of {variant.model}, which has {n_stages} with "
            "weights; write all to train all of it",
        )


def _label_problems(source: Source, variant: Variant, dataset: PlannedDataset) -> Iterator[str]:
    training, at = variant.training, source.existing((*variant.at, "objectives"))
    for kind in variant.objectives:
        if kind not in ("object", "category") or dataset.n_classes is None:
            continue
        n_classes = dataset.n_classes.get(kind, 0)
        if not n_classes:
            yield source.problem(
                at, f"data set '{dataset.name}' has no {kind} names, which objective {kind} needs"
            )
        elif n_classes < 2:
            yield source.problem(at, f"all images of '{dataset.name}' have the same {kind}")
        elif training.n_logits is not None and n_classes > training.n_logits:
            yield source.problem(
                (*variant.at, "n_logits"),
                f"'{dataset.name}' has {n_classes} classes of {kind}, more than "
                f"{training.n_logits} logits; write at least {n_classes}, or leave it out",
            )


def _share_problems(
    config: SweepConfig, source: Source, variant: Variant, dataset: PlannedDataset
) -> Iterator[str]:
    recipe = Recipe.from_plain(variant.recipe(config.seed))
    try:
        recipe.n_validation(dataset.n_train)
    except RecipeError as error:
        at = source.existing((*variant.at, "recipe", "validation_share"))
        yield source.problem(at, str(error))


def _fold_problems(source: Source, variant: Variant, dataset: PlannedDataset) -> Iterator[str]:
    folds, at = variant.training.folds, source.existing((*variant.at, "folds"))
    if dataset.n_splits is None:
        if folds == "all":
            yield source.problem(at, f"how many there are needs the files of '{dataset.name}'")
        return
    for fold in () if folds == "all" else folds:
        if not 0 <= fold < dataset.n_splits:
            yield source.problem(
                at, f"fold {fold}, but the protocol has {dataset.n_splits}, counted from 0"
            )


def _split_problems(source: Source, variant: Variant, dataset: PlannedDataset) -> Iterator[str]:
    names = dataset.split_names
    for j, split in enumerate(variant.training.predict):
        if names is not None and split not in names:
            yield source.problem(
                source.existing((*variant.at, "predict", j)),
                f"'{dataset.name}' has no split '{split}'; it has {', '.join(names) or 'none'}",
            )


def _memory_problems(
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    variant: Variant,
    dataset: PlannedDataset,
) -> Iterator[str]:
    recipe = Recipe.from_plain(variant.recipe(config.seed))
    if variant.library == "hmo" or not recipe.neural_kinds:
        return
    shape = catalog.trunk(variant.trunk).shape
    decoder = DecoderSpec.from_plain(variant.training.decoder).to_plain()
    at = source.existing((*variant.at, "decoder"))
    try:
        weights_bytes = catalog.decoder_bytes(decoder, shape, dataset.n_neuroids)
    except ModelError as error:
        yield source.problem(at, f"{variant.model}: {error}")
        return
    needed = weights_bytes * recipe.optimizer.numbers_per_weight
    memory_gb = config.resources.train.memory_gb
    if needed > memory_gb * 1e9:
        yield source.problem(
            at,
            f"from the {' x '.join(map(str, shape))} features of {variant.model} to "
            f"{dataset.n_neuroids} neurons it takes {needed / 1e9:.1f} GB while it is trained "
            f"({recipe.optimizer.numbers_per_weight} numbers per weight), more than "
            f"resources.train.memory_gb: {memory_gb:g}; write pool_px, fewer units in hidden, or "
            "kind: factorised",
        )
