"""What a config asks to be trained that cannot be: recipes, networks, labels, memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolkit.catalog import Catalog
from toolkit.config import (
    HmoNetwork,
    SweepConfig,
    TrainingConfig,
)
from toolkit.models import ModelError
from toolkit.models.network_spec import DecoderSpec
from toolkit.models.plain import Plain
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.searches import trials_of, with_choices
from toolkit.plan.variants import Variant, by_name, hmo_search, recipe_of
from toolkit.training import Recipe, RecipeError
from toolkit.training.hmo.space import ModuleSpace
from toolkit.yaml_source import ConfigError, KeyPath, Source, nearest

# How pydantic begins to say it.
_UNKNOWN, _MISSING = "Unexpected keyword", ("Field required", "Missing required")
_OWN_KEYS = {"objectives": "objectives", "seed": "seeds"}


def recipe_problems(
    config: SweepConfig, training: TrainingConfig, source: Source, at: KeyPath
) -> Iterator[str]:
    """Problems of the recipes of an entry, and of its trials."""
    for key, instead in _OWN_KEYS.items():
        if key in training.recipe:
            yield source.problem((*at, "recipe", key), f"write it as '{instead}' beside recipe")
            return
    if isinstance(training.network, HmoNetwork):
        for objectives in training.objectives:
            plain = hmo_search(training.network, training.recipe, by_name(objectives), 0)
            yield from _hmo_problems(plain, source, at)
        return
    for objectives in training.objectives:
        recipe = recipe_of(training.recipe, by_name(objectives), 0)
        yield from problems_of(Recipe, recipe, source, (*at, "recipe"))
    if training.search is None:
        return
    if not training.recipe.get("validation_share", Recipe.validation_share):
        yield source.problem(
            (*at, "search"), "trials are compared on validation images: write a validation_share"
        )
    for choices in trials_of(training.search, config.seed):
        try:
            given, decoder = with_choices(training.recipe, training.decoder, choices)
            Recipe.from_plain(recipe_of(given, by_name(training.objectives[0]), 0))
            DecoderSpec.from_plain(decoder)
        except (RecipeError, ModelError) as error:
            text = ", ".join(f"{key}: {value}" for key, value in choices.items())
            yield source.problem((*at, "search", "over"), f"trial {text}: {error}")
            return


def problems_of(kind: type[Plain], given: dict[str, Any], source: Source, at: KeyPath) -> list[str]:
    """Problems of values that are to make a recipe, a decoder or a network."""
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


def _hmo_problems(plain: dict[str, Any], source: Source, at: KeyPath) -> Iterator[str]:
    for key, path in (("final", (*at, "recipe")), ("brief", (*at, "network", "brief"))):
        problems = problems_of(Recipe, plain[key], source, path)
        yield from problems
        if problems:
            return
    problems = problems_of(ModuleSpace, plain["space"], source, (*at, "network", "space"))
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


def refuse_missing_stages(variant: Variant, source: Source, catalog: Catalog) -> None:
    """Look whether a network can be built, and has the stages that are to be trained.

    Raises
    ------
    ConfigError
        If not.
    """
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
