"""From a config to tasks with dependencies; everything that can be refused is refused here."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any

from toolkit.catalog import Catalog, CatalogModel
from toolkit.config import (
    DatasetConfig,
    ExcludeRule,
    FeaturesConfig,
    FixedProtocol,
    KFoldProtocol,
    ModelConfig,
    ReadoutConfig,
    StratifiedProtocol,
    SweepConfig,
)
from toolkit.features import layout
from toolkit.features.forms import FeatureForm, johnson_lindenstrauss_dims
from toolkit.models import LayerError, LayerInfo, ModelError, WeightsUnavailableError
from toolkit.task import Task, TaskKind, json_digest
from toolkit.yaml_source import ConfigError, KeyPath, Source

if TYPE_CHECKING:
    from toolkit.data import NeuralDataset


@dataclass(frozen=True)
class PlannedDataset:
    """A data set as far as planning needs it.

    Parameters
    ----------
    name, region
        Names in the results.
    loader
        Keyword arguments of :func:`toolkit.data.load`.
    n_stimuli, n_train, n_neuroids
        Sizes; ``n_train`` is the smallest training set of the protocol.
    stimuli_digest, responses_digest
        Content hashes; ``None`` where the files are not on this machine.
    leaking_ids
        Ids of images that are shown both in training and, as an identical copy, in a test.
    """

    name: str
    region: str
    loader: dict[str, Any]
    n_stimuli: int
    n_train: int
    n_neuroids: int
    stimuli_digest: str | None
    responses_digest: str | None
    leaking_ids: tuple[str, ...] = ()

    @property
    def is_present(self) -> bool:
        """Whether the files are on this machine."""
        return self.stimuli_digest is not None


@dataclass(frozen=True)
class Plan:
    """All tasks of a sweep, parents before children.

    Parameters
    ----------
    name
        The experiment.
    config_hash
        SHA-256 of the resolved configuration.
    datasets
        The planned data sets.
    extract, encode
        The tasks; an encode task's inputs are the extract tasks that make its features.
    """

    name: str
    config_hash: str
    datasets: tuple[PlannedDataset, ...]
    extract: tuple[Task, ...]
    encode: tuple[Task, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task, parents before children."""
        return self.extract + self.encode


def make_plan(config: SweepConfig, source: Source, catalog: Catalog) -> Plan:
    """Expand a config into tasks.

    Raises
    ------
    ConfigError
        With every problem found: unknown networks or layers, unreadable data, splits that do
        not exist, more components than training stimuli, two readouts of one name.
    """
    problems: list[str] = []
    datasets = _collect(
        problems,
        partial(_plan_dataset, config, source),
        [(index,) for index in range(len(config.dataset))],
    )
    networks = _collect(
        problems, partial(_resolve, config, source, catalog), list(_model_names(config))
    )
    problems += list(_impossible_readouts(config, source, datasets))
    problems += list(_exclude_rules_without_field(config, source))
    problems += list(_solvers_without_features(config, source))
    if problems:
        raise ConfigError(problems)
    extract: dict[str, Task] = {}
    encode: dict[str, Task] = {}
    for dataset in datasets:
        for network in itertools.chain.from_iterable(networks):
            for features in network.features:
                form = _form(features, dataset)
                parents, children = _tasks_of(config, dataset, network, form)
                if children:
                    extract.update({parent.id: parent for parent in parents})
                    encode.update({child.id: child for child in children})
    if not encode:
        raise source.error(("exclude",), "the exclude rules leave nothing to do")
    return Plan(
        name=config.name,
        config_hash=_config_hash(config),
        datasets=tuple(datasets),
        extract=tuple(extract.values()),
        encode=tuple(encode.values()),
    )


def _config_hash(config: SweepConfig) -> str:
    return json_digest(config.model_dump(mode="json"))


def _collect(
    problems: list[str], step: Callable[..., Any], arguments: Sequence[tuple[int, ...]]
) -> list[Any]:
    """Take every step; a refused one adds its problems and the others go on."""
    results = []
    for each in arguments:
        try:
            results.append(step(*each))
        except ConfigError as error:
            problems.extend(error.problems)
    return results


# Data sets


def _plan_dataset(config: SweepConfig, source: Source, index: int) -> PlannedDataset:
    from toolkit import data

    dataset = config.dataset[index]
    at = source.existing(("dataset", index))
    loader = _loader_arguments(dataset, config.seed)
    try:
        loaded = data.load(**loader)
    except FileNotFoundError as error:
        return _plan_from_sizes(config, source, at, dataset, loader, error)
    except (ValueError, OSError) as error:
        raise source.error(at, str(error)) from error
    sizes = {name: len(rows) for name, rows in loaded.splits.items()}
    n_stimuli = len(loaded.stimuli)
    return PlannedDataset(
        name=dataset.name,
        region="+".join(dict.fromkeys(loaded.regions)),
        loader=loader,
        n_stimuli=n_stimuli,
        n_train=_n_train(config, source, n_stimuli, sizes, loaded.object_names or ()),
        n_neuroids=len(loaded.neuroid_ids),
        stimuli_digest=loaded.stimuli.digest(),
        responses_digest=loaded.responses_digest(),
        leaking_ids=_leaking_ids(config, loaded),
    )


def _leaking_ids(config: SweepConfig, dataset: NeuralDataset) -> tuple[str, ...]:
    protocol, ids = config.protocol, dataset.stimuli.ids
    if not isinstance(protocol, FixedProtocol):
        return tuple(ids[i] for copies in dataset.stimuli.duplicates() for i in copies)
    train, test = (set(dataset.splits[name].tolist()) for name in (protocol.train, protocol.test))
    return tuple(
        ids[i]
        for copies in dataset.stimuli.duplicates()
        if train & set(copies) and test & set(copies)
        for i in copies
    )


def _loader_arguments(dataset: DatasetConfig, seed: int) -> dict[str, Any]:
    arguments = dataset.model_dump(mode="json", exclude={"sizes"})
    if arguments.get("seed", 0) is None:
        arguments["seed"] = seed
    return arguments


def _plan_from_sizes(
    config: SweepConfig,
    source: Source,
    at: KeyPath,
    dataset: DatasetConfig,
    loader: dict[str, Any],
    error: Exception,
) -> PlannedDataset:
    sizes = getattr(dataset, "sizes", None)
    if sizes is None:
        raise source.error(at, f"{error}; to plan without the files, give 'sizes'") from error
    n_stimuli = sizes.n_stimuli or sum(sizes.splits.values())
    return PlannedDataset(
        name=dataset.name,
        region=getattr(dataset, "region", "IT"),
        loader=loader,
        n_stimuli=n_stimuli,
        n_train=_n_train(config, source, n_stimuli, sizes.splits, None),
        n_neuroids=sizes.n_neuroids,
        stimuli_digest=None,
        responses_digest=None,
    )


def _n_train(
    config: SweepConfig,
    source: Source,
    n_stimuli: int,
    sizes: dict[str, int],
    object_names: Sequence[str] | None,
) -> int:
    """Stimuli in the smallest training set of the protocol."""
    protocol = config.protocol
    if isinstance(protocol, FixedProtocol):
        return _n_train_fixed(protocol, source, sizes)
    if isinstance(protocol, KFoldProtocol):
        if protocol.n_splits > n_stimuli:
            raise source.error(
                ("protocol", "n_splits"), f"{protocol.n_splits} folds of {n_stimuli} stimuli"
            )
        return n_stimuli - -(-n_stimuli // protocol.n_splits)
    if object_names is not None and len(set(object_names)) < 2:
        raise source.error(("protocol", "kind"), "the data set has fewer than two objects")
    if isinstance(protocol, StratifiedProtocol):
        return int(protocol.train_size * n_stimuli)
    largest = max(Counter(object_names).values()) if object_names else 1
    return n_stimuli - largest


def _n_train_fixed(protocol: FixedProtocol, source: Source, sizes: dict[str, int]) -> int:
    for key, split in (("train", protocol.train), ("test", protocol.test)):
        if split not in sizes:
            have = ", ".join(sizes) or "none: use protocol: {kind: kfold}"
            raise source.error(
                ("protocol", key), f"the data set has no split '{split}'; it has {have}"
            )
    return sizes[protocol.train]


# Networks


def _model_names(config: SweepConfig) -> Iterator[tuple[int, int]]:
    for i, model in enumerate(config.models):
        for j in range(len(model.names)):
            yield i, j


@dataclass(frozen=True)
class _Network:
    """One network with one choice of weights and seed."""

    library: str
    weights: str
    seed: int
    resolved: CatalogModel
    features: tuple[FeaturesConfig, ...]


def _resolve(
    config: SweepConfig, source: Source, catalog: Catalog, index: int, name_index: int
) -> list[_Network]:
    model = config.models[index]
    found = []
    for k, (weights, seed) in enumerate(_weights_and_seeds(model, config.seed)):
        try:
            resolved = catalog.resolve(
                model.library, model.names[name_index], weights, model.layers
            )
        except WeightsUnavailableError as error:
            at = source.existing(("models", index, "weights", k))
            raise source.error(at, str(error)) from error
        except LayerError as error:
            raise source.error(source.existing(("models", index, "layers")), str(error)) from error
        except ModelError as error:
            at = source.existing(("models", index, "names", name_index))
            raise source.error(at, str(error)) from error
        features = model.features or config.features
        found += [_Network(model.library, weights, seed, one, features) for one in resolved]
        _refuse_impossible_forms(source, index, found)
    return found


def _refuse_impossible_forms(source: Source, index: int, networks: list[_Network]) -> None:
    for network in networks:
        for features, layer in itertools.product(network.features, network.resolved.layers):
            try:
                FeatureForm(features.keep, n_dims=1).of_layer(layer)
            except LayerError as error:
                at = source.existing(("models", index, "features"))
                raise source.error(at, f"{network.resolved.name}: {error}") from error


def _form(features: FeaturesConfig, dataset: PlannedDataset) -> FeatureForm:
    if features.keep != "projection":
        return FeatureForm(features.keep, features.dtype)
    n_dims = features.n_dims or johnson_lindenstrauss_dims(dataset.n_stimuli, features.eps)
    return FeatureForm(features.keep, features.dtype, n_dims, features.seed)


def _weights_and_seeds(model: ModelConfig, default_seed: int) -> Iterator[tuple[str, int]]:
    """Only random weights come in seeds; pixels have no weights at all."""
    if model.library == "pixels":
        yield "random", 0
        return
    for weights in model.weights:
        if weights == "random":
            for seed in model.seeds or (default_seed,):
                yield weights, seed
        else:
            yield weights, 0


# Readouts


def _impossible_readouts(
    config: SweepConfig, source: Source, datasets: list[PlannedDataset]
) -> Iterator[str]:
    seen: dict[str, tuple[Any, int]] = {}
    for i, readout in enumerate(config.readouts):
        at = ("readouts", i)
        for dataset in datasets:
            yield from _too_large(readout, source, at, dataset)
        for name, params in readout.variants(config.seed):
            if name in seen and seen[name][0] != params:
                yield source.problem(
                    at, f"a readout called '{name}' stands at readouts[{seen[name][1]}]; name one"
                )
            seen.setdefault(name, (params, i))


def _too_large(
    readout: ReadoutConfig, source: Source, at: KeyPath, dataset: PlannedDataset
) -> Iterator[str]:
    most = dataset.n_train - 1
    for j, k in enumerate(getattr(readout, "n_components", ())):
        if k is not None and k > most:
            yield source.problem(
                source.existing((*at, "n_components", j)),
                f"{k} components from {dataset.n_train} training images of '{dataset.name}' are "
                f"impossible; at most {most}",
            )
    folds = getattr(readout, "folds", 0)
    if isinstance(folds, int) and folds > dataset.n_train:
        yield source.problem((*at, "folds"), f"{folds} folds of {dataset.n_train} training images")


def _solvers_without_features(config: SweepConfig, source: Source) -> Iterator[str]:
    kept = {one.keep for model in config.models for one in model.features or config.features}
    if "gram" in kept and config.pca.solver not in ("auto", "gram"):
        yield source.problem(
            ("pca", "solver"),
            f"{config.pca.solver} reads features, but features: gram keeps none; write gram",
        )


# Tasks


def _tasks_of(
    config: SweepConfig, dataset: PlannedDataset, network: _Network, form: FeatureForm
) -> tuple[list[Task], list[Task]]:
    model = network.resolved
    pairs = [
        (layer, name, params)
        for layer in model.layers
        for readout in config.readouts
        for name, params in readout.variants(config.seed)
        if not _is_excluded(config.exclude, dataset, network, layer, form, name)
    ]
    used = {layer.name for layer, _, _ in pairs}
    whole = _extract_task(
        config, dataset, network, [layer for layer in model.layers if layer.name in used], form
    )
    parents = _parts(whole, config.extraction.parts)
    children = [
        _encode_task(config, dataset, network, whole, parents, layer, form, name, params)
        for layer, name, params in pairs
    ]
    return parents, children


def _is_excluded(
    rules: tuple[ExcludeRule, ...],
    dataset: PlannedDataset,
    network: _Network,
    layer: LayerInfo,
    form: FeatureForm,
    readout: str,
) -> bool:
    values = {
        "dataset": dataset.name,
        "library": network.library,
        "model": network.resolved.name,
        "weights": network.weights,
        "layer": layer.name,
        "features": form.name,
        "readout": readout,
    }
    return any(
        all(
            fnmatchcase(values[key], pattern)
            for key, pattern in rule.model_dump(exclude_none=True).items()
        )
        for rule in rules
    )


def _exclude_rules_without_field(config: SweepConfig, source: Source) -> Iterator[str]:
    for i, rule in enumerate(config.exclude):
        if not rule.model_dump(exclude_none=True):
            yield source.problem(("exclude", i), "an empty rule would leave out everything")


def _model_label(network: _Network) -> str:
    name = network.resolved.name
    if network.library == "pixels":
        return name
    if network.weights == "random":
        return f"{name} random-{network.seed}"
    return f"{name} {'pretrained' if network.weights == 'pretrained' else 'checkpoint'}"


def _extract_task(
    config: SweepConfig,
    dataset: PlannedDataset,
    network: _Network,
    layers: list[LayerInfo],
    form: FeatureForm,
) -> Task:
    model, extraction = network.resolved, config.extraction
    suffix = "" if form.name == "full" else f" {form.name}"
    return Task(
        kind=TaskKind.EXTRACT,
        label=f"{dataset.name} {_model_label(network)}{suffix}",
        params={
            "stimuli": dataset.stimuli_digest or f"absent:{dataset.name}",
            "library": network.library,
            "model": model.name,
            "weights": model.weights_digest,
            "seed": network.seed,
            "preprocessing": model.preprocessing,
            "layers": [layer.name for layer in layers],
            "form": form.to_dict(),
            **({"autocast": extraction.autocast} if extraction.autocast else {}),
        },
        columns={
            "n_stimuli": dataset.n_stimuli,
            "layers": [[layer.name, list(layer.shape), layer.index] for layer in layers],
        },
        options={
            "dataset": dataset.loader,
            "weights": network.weights,
            "batch_size": extraction.batch_size,
            "device": extraction.device,
            "compile": extraction.compile,
            "memory_gb": config.resources.extract.memory_gb,
        },
    )


def _parts(whole: Task, n_parts: int) -> list[Task]:
    """One task, or several that share its images; features that are not stored cannot be shared."""
    if n_parts == 1 or whole.params["form"]["kind"] == "gram":
        return [whole]
    return [
        replace(
            whole,
            params={**whole.params, "part": [part, n_parts]},
            label=f"{whole.label} part {part + 1}/{n_parts}",
        )
        for part in range(n_parts)
    ]


def _how_to_score(config: SweepConfig) -> dict[str, Any]:
    """What decides a prediction's scores beside the read-out; nothing for similarities."""
    protocol = config.protocol.model_dump(mode="json")
    if protocol.get("seed", 0) is None:
        protocol["seed"] = config.seed
    wanted = {k: v for k, v in config.statistics.model_dump().items() if v}
    return {"protocol": protocol, **wanted}


def features_id(task: Task) -> str:
    """What the features that a task makes or reads are filed under.

    The id of the extract task that would make all of them, however many tasks share the images.
    """
    if task.kind is TaskKind.ENCODE:
        return str(task.params["features"])
    params = {key: value for key, value in task.params.items() if key != "part"}
    return replace(task, params=params).id


def form_of(task: Task) -> FeatureForm:
    """What an extract task keeps of each layer."""
    return FeatureForm(**task.params["form"])


def kept_size(task: Task) -> tuple[int, int]:
    """Bytes, before compression, and files of what an extract task and its other parts keep."""
    form, n_stimuli = form_of(task), task.columns["n_stimuli"]
    layers = [form.of_layer(layer) for layer in layers_of(task)]
    if form.kind == "gram":
        return len(layers) * layout.GRAM_VALUE_BYTES * n_stimuli**2, len(layers)
    return (
        layout.predicted_bytes(layers, n_stimuli, form.stored_dtype),
        layout.predicted_files(layers, n_stimuli, form.stored_dtype),
    )


def layers_of(task: Task) -> list[LayerInfo]:
    """The layers of an extract task, with the shapes that the network gives them."""
    return [
        LayerInfo(name=name, shape=tuple(shape), index=index)
        for name, shape, index in task.columns["layers"]
    ]


def _encode_task(
    config: SweepConfig,
    dataset: PlannedDataset,
    network: _Network,
    whole: Task,
    parents: list[Task],
    layer: LayerInfo,
    form: FeatureForm,
    readout_name: str,
    readout: dict[str, Any],
) -> Task:
    solver = "gram" if form.kind == "gram" else config.pca.solver
    return Task(
        kind=TaskKind.ENCODE,
        label=f"{whole.label} {layer.name} {readout_name}",
        params={
            "features": whole.id,
            "responses": dataset.responses_digest or f"absent:{dataset.name}",
            "layer": layer.name,
            "readout": readout,
            **({} if readout["kind"] in ("rdm", "cka") else _how_to_score(config)),
            **({} if solver == "auto" else {"solver": solver}),
        },
        inputs=tuple(parent.id for parent in parents),
        columns={
            "experiment": config.name,
            "dataset": dataset.name,
            "region": dataset.region,
            "model": network.resolved.name,
            "library": network.library,
            "weights": "none" if network.library == "pixels" else network.weights,
            "seed": network.seed,
            "layer": layer.name,
            "layer_index": layer.index,
            "layer_depth": layer.depth,
            "features": form.name,
            "n_features": form.of_layer(layer).n_features,
            "readout": readout_name,
        },
        options={
            "dataset": dataset.loader,
            "config_hash": _config_hash(config),
            "workers": config.dask.workers,
            "memory_gb": config.resources.encode.memory_gb,
        },
    )
