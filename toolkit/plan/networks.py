"""From names and patterns in a config to networks, their layers, and what is kept of those."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from toolkit.catalog import Catalog, CatalogModel
from toolkit.config import (
    FeaturesConfig,
    FixedProtocol,
    HmoNetwork,
    ModelConfig,
    SweepConfig,
    are_trained_here,
)
from toolkit.features.forms import FeatureForm, johnson_lindenstrauss_dims
from toolkit.features.layout import why_unstorable
from toolkit.models import CheckpointError, LayerError, ModelError, WeightsUnavailableError
from toolkit.models.network_spec import ModularTrunk, SmallModule
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.train_tasks import PlannedTraining, weights_file
from toolkit.yaml_source import ConfigError, KeyPath, Source, gathered_in


@dataclass(frozen=True)
class TrainedSource:
    """Where a network trained by a sweep comes from.

    Parameters
    ----------
    where
        ``trained:`` and the id of a task of this sweep, or the path of its file.
    inputs
        The task, if it is of this sweep.
    dataset
        The only data set whose images it is for; None for any.
    columns
        What identifies the training in the tables.
    images
        Content of the images that it was trained on, or will be.
    at
        Where the config names it.
    """

    where: str
    inputs: tuple[str, ...]
    dataset: PlannedDataset | None
    columns: dict[str, Any]
    images: frozenset[str]
    at: KeyPath

    def has_seen(self, dataset: PlannedDataset) -> bool:
        """Whether it was trained on any image of the data set."""
        return self.dataset == dataset or not self.images.isdisjoint(dataset.images)


@dataclass(frozen=True)
class PlannedNetwork:
    """One network with one choice of weights and seed, or one trained by a sweep."""

    library: str
    weights: str
    seed: int
    resolved: CatalogModel
    features: tuple[FeaturesConfig, ...]
    trained: TrainedSource | None = None

    def is_for(self, dataset: PlannedDataset) -> bool:
        """Whether its features are to be taken of this data set's images."""
        return self.trained is None or self.trained.dataset in (None, dataset)


def places_of_names(config: SweepConfig) -> Iterator[tuple[int, int]]:
    """Where the names of networks stand: index of the entry, index of the name in it."""
    for i, model in enumerate(config.models):
        for j in range(len(model.names)):
            yield i, j


def plan_networks(
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    trainings: Sequence[PlannedTraining],
    index: int,
    name_index: int,
) -> list[PlannedNetwork]:
    """Every network that ``config.models[index].names[name_index]`` stands for.

    Raises
    ------
    ConfigError
        With every problem: no network, weights or layer is found, or a layer has not what is to be
        kept of it.
    """
    model = config.models[index]
    found: list[PlannedNetwork] = []
    problems: list[str] = []
    for k, weights, seeds in _weights_and_seeds(model, config.seed):
        at = source.existing(("models", index, "weights", k))
        with gathered_in(problems):
            if are_trained_here(weights):
                own = _trained(config, source, catalog, trainings, model, name_index, weights, at)
            else:
                own = _resolved(config, source, catalog, index, name_index, weights, seeds, at)
            _refuse_impossible_layers(source, index, own)
            found += own
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return found


def _resolved(
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    index: int,
    name_index: int,
    weights: str,
    seeds: Sequence[int],
    at: KeyPath,
) -> list[PlannedNetwork]:
    model = config.models[index]
    try:
        resolved = catalog.resolve(model.library, model.names[name_index], weights, model.layers)
    except (WeightsUnavailableError, CheckpointError) as error:
        raise source.error(at, str(error)) from error
    except LayerError as error:
        raise source.error(source.existing(("models", index, "layers")), str(error)) from error
    except ModelError as error:
        at = source.existing(("models", index, "names", name_index))
        raise source.error(at, str(error)) from error
    features = model.features or config.features
    return [
        PlannedNetwork(model.library, weights, seed, one, features)
        for seed, one in itertools.product(seeds, resolved)
    ]


def _trained(
    config: SweepConfig,
    source: Source,
    catalog: Catalog,
    trainings: Sequence[PlannedTraining],
    model: ModelConfig,
    name_index: int,
    weights: str,
    at: KeyPath,
) -> list[PlannedNetwork]:
    pattern = model.names[name_index]
    try:
        if weights.startswith("run:"):
            return [_of_another_sweep(config, catalog, model, pattern, weights, at)]
        found = _of_this_sweep(trainings, model, pattern, weights.removeprefix("trained:"))
        if not found and _is_refused(config, trainings, weights.removeprefix("trained:")):
            return []
        if not found:
            names = dict.fromkeys(one.variant.name for one in trainings)
            raise source.error(
                at,
                f"no training gives {model.library} network {pattern!r} with weights {weights}; "
                f"trainings: {', '.join(names) or 'none'}",
            )
        if not isinstance(config.protocol, FixedProtocol):
            raise source.error(
                at,
                f"{weights} has seen images that the protocol {config.protocol.kind} tests; "
                "write protocol: {kind: fixed}",
            )
        return [_as_network(config, catalog, model, weights, one, found, at) for one in found]
    except (ModelError, WeightsUnavailableError) as error:
        raise source.error(at, str(error)) from error


def _is_refused(config: SweepConfig, trainings: Sequence[PlannedTraining], name: str) -> bool:
    """Whether a training is in the config but not in the plan: what is wrong with it is said."""
    planned = {one.variant.name for one in trainings}
    return name not in planned and name in config.training


def _of_this_sweep(
    trainings: Sequence[PlannedTraining], model: ModelConfig, pattern: str, name: str
) -> list[PlannedTraining]:
    return [
        one
        for one in trainings
        if one.variant.name == name
        and model.library in ("trained", one.variant.library)
        and fnmatchcase(one.variant.model, pattern)
    ]


def _as_network(
    config: SweepConfig,
    catalog: Catalog,
    model: ModelConfig,
    weights: str,
    one: PlannedTraining,
    all_found: Sequence[PlannedTraining],
    at: KeyPath,
) -> PlannedNetwork:
    variant, where = one.variant, f"trained:{one.task.id}"
    trunk, layers = variant.trunk, model.layers
    if isinstance(variant.training.network, HmoNetwork):
        # Which modules it has is known when it is grown; its features are those of the top layer.
        trunk, layers = _stand_in(variant.training.network), ("top",)
        if model.layers not in ("auto", layers):
            raise LayerError("a grown network has the one layer 'top' for features")
    like = [
        other.task.label
        for other in all_found
        if (other.variant.model, other.dataset, other.seed, other.fold)
        == (variant.model, one.dataset, one.seed, one.fold)
    ]
    suffix = f" {variant.readout} {variant.layer} {variant.objective}" if len(like) > 1 else ""
    resolved = catalog.trained(trunk, where, variant.model, layers)
    columns = {
        "training": variant.name,
        "objective": variant.objective,
        "fold": one.fold,
    }
    return PlannedNetwork(
        library=variant.library,
        weights=weights + suffix.replace("  ", " "),
        seed=one.seed,
        resolved=resolved,
        features=model.features or config.features,
        trained=TrainedSource(where, (one.task.id,), one.dataset, columns, one.images, at),
    )


def _stand_in(network: HmoNetwork) -> dict[str, Any]:
    module = SmallModule((1,), (1,), "max", normalised=False)
    return ModularTrunk((((module,),),), network.n_features, network.input_px).to_plain()


def _of_another_sweep(
    config: SweepConfig,
    catalog: Catalog,
    model: ModelConfig,
    pattern: str,
    weights: str,
    at: KeyPath,
) -> PlannedNetwork:
    path = weights_file(weights)
    file = catalog.trained_file(path)
    trunk = file.trunk
    library, name = trunk.get("library", trunk["kind"]), trunk.get("name", trunk["kind"])
    if model.library not in ("trained", library) or not fnmatchcase(name, pattern):
        raise ModelError(f"{path} holds {library} network {name!r}, not {pattern!r}")
    return PlannedNetwork(
        library=library,
        weights=weights,
        seed=0,
        resolved=catalog.trained(trunk, file.digest, name, model.layers),
        features=model.features or config.features,
        trained=TrainedSource(str(path), (), None, {}, frozenset(file.images), at),
    )


def _refuse_impossible_layers(source: Source, index: int, networks: list[PlannedNetwork]) -> None:
    for network in networks:
        for layer in network.resolved.layers:
            if why := why_unstorable(layer.name):
                raise source.error(
                    source.existing(("models", index, "layers")),
                    f"{network.resolved.name}: the features of layer {layer.name[:60]!r} cannot "
                    f"be kept: {why}; choose other layers, or give the module another name",
                )
        for features, layer in itertools.product(network.features, network.resolved.layers):
            try:
                FeatureForm(features.keep, n_dims=1).of_layer(layer)
            except LayerError as error:
                at = source.existing(("models", index, "features"))
                raise source.error(at, f"{network.resolved.name}: {error}") from error


def planned_form(features: FeaturesConfig, dataset: PlannedDataset) -> FeatureForm:
    """What is kept of each layer; a projection's dimensions may depend on the data set."""
    if features.keep != "projection":
        return FeatureForm(features.keep, features.dtype)
    n_dims = features.n_dims or johnson_lindenstrauss_dims(dataset.n_stimuli, features.eps)
    return FeatureForm(features.keep, features.dtype, n_dims, features.seed)


def _weights_and_seeds(
    model: ModelConfig, default_seed: int
) -> Iterator[tuple[int, str, Sequence[int]]]:
    """Only random weights come in seeds; pixels have no weights at all."""
    if model.library == "pixels":
        yield 0, "random", (0,)
        return
    for k, weights in enumerate(model.weights):
        yield k, weights, (model.seeds or (default_seed,)) if weights == "random" else (0,)
