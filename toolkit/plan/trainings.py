"""From the training entries of a config to networks, and to ways to train them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolkit.catalog import Catalog
from toolkit.config import (
    HmoNetwork,
    ShallowNetwork,
    SweepConfig,
    TrainingConfig,
    ZooNetwork,
    are_trained_here,
)
from toolkit.models import ModelError, WeightsUnavailableError
from toolkit.models.network_spec import DecoderSpec, ShallowTrunk, ZooTrunk
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.exclusions import Exclusions
from toolkit.plan.training_refusals import problems_of, recipe_problems, refuse_missing_stages
from toolkit.plan.variants import Variant, by_name
from toolkit.yaml_source import ConfigError, KeyPath, Source, gathered_in


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
    problems = list(recipe_problems(config, training, source, at))
    if isinstance(training.network, ZooNetwork | ShallowNetwork):
        problems += problems_of(DecoderSpec, training.decoder, source, (*at, "decoder"))
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    networks = list(_networks(training, source, catalog, at))
    crossed = itertools.product(networks, training.trained, training.objectives)
    variants = [
        Variant(name, training, **vars(network), trained=trained, objectives=by_name(objectives))
        for network, trained, objectives in crossed
    ]
    for variant in variants:
        with gathered_in(problems):
            refuse_missing_stages(variant, source, catalog)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return variants


def is_excluded(exclusions: Exclusions, dataset: PlannedDataset, variant: Variant) -> bool:
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
    return exclusions.leave_out(values)


@dataclass(frozen=True)
class _Network:
    """Names of a network in the results, and its trunk as JSON values."""

    library: str
    model: str
    weights: str
    trunk: dict[str, Any]


def _networks(
    training: TrainingConfig, source: Source, catalog: Catalog, at: KeyPath
) -> Iterator[_Network]:
    network, place = training.network, (*at, "network")
    if isinstance(network, HmoNetwork):
        trunk = {"kind": "modular", "input_px": network.input_px}
        yield _Network("hmo", network.name, "random", trunk)
    elif isinstance(network, ShallowNetwork):
        yield from _shallow_networks(network, source, place)
    else:
        yield from _zoo_networks(network, source, catalog, place)


def _shallow_networks(network: ShallowNetwork, source: Source, at: KeyPath) -> Iterator[_Network]:
    given = network.model_dump(mode="json", exclude={"library", "name", "weights"})
    problems = problems_of(ShallowTrunk, given, source, at)
    problems += [
        source.problem(
            source.existing((*at, "weights", k)), f"a shallow network has no weights {weights!r}"
        )
        for k, weights in enumerate(network.weights)
        if weights != "random" and not are_trained_here(weights)
    ]
    if problems:
        raise ConfigError(problems)
    for weights in network.weights:
        trunk = ShallowTrunk.from_plain(given).to_plain()
        yield _Network("shallow", network.name, weights, trunk)


def _zoo_networks(
    network: ZooNetwork, source: Source, catalog: Catalog, at: KeyPath
) -> Iterator[_Network]:
    names: list[str] = []
    problems: list[str] = []
    for j, pattern in enumerate(network.names):
        try:
            names += catalog.names(network.library, pattern)
        except ModelError as error:
            problems.append(source.problem(source.existing((*at, "names", j)), str(error)))
    digests: dict[tuple[str, str], str] = {}
    for name, weights in itertools.product(names, network.weights):
        with gathered_in(problems):
            digests[name, weights] = _digest(network, name, weights, source, catalog, at)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    crossed = itertools.product(digests.items(), network.layers, network.n_blocks)
    for ((name, weights), digest), layer, n_blocks in crossed:
        given = {
            "library": network.library,
            "name": name,
            "weights": digest,
            "layer": layer,
            "n_blocks": n_blocks,
            "input_px": network.input_px,
        }
        if problems := problems_of(ZooTrunk, given, source, at):
            raise ConfigError(problems)
        yield _Network(network.library, name, weights, ZooTrunk.from_plain(given).to_plain())


def _digest(
    network: ZooNetwork, name: str, weights: str, source: Source, catalog: Catalog, at: KeyPath
) -> str:
    """What decides the weights; those of a training are added to random ones when it runs."""
    if are_trained_here(weights):
        return "random"
    try:
        return catalog.weights_digest(network.library, name, weights)
    except (ModelError, WeightsUnavailableError) as error:
        place = source.existing((*at, "weights", network.weights.index(weights)))
        raise source.error(place, str(error)) from error
