"""Tasks: made for one network on one data set, and read again by those who run them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from toolkit.config import SweepConfig
from toolkit.features import layout
from toolkit.features.forms import FeatureForm
from toolkit.models import LayerInfo
from toolkit.plan.datasets import PlannedDataset
from toolkit.plan.exclusions import Exclusions
from toolkit.plan.identity import config_hash, how_to_score
from toolkit.plan.networks import PlannedNetwork
from toolkit.task import Task, TaskKind

SIMILARITY_KINDS = ("rdm", "cka")
# Training images from which the covariance of fewer features is decomposed instead.
_LARGEST_GRAM = 20_000
_N_NAMED = 3


def tasks_of(
    config: SweepConfig,
    dataset: PlannedDataset,
    network: PlannedNetwork,
    label: str,
    form: FeatureForm,
    exclusions: Exclusions,
) -> tuple[list[Task], list[Task]]:
    """The extract tasks and the encode tasks of one network on one data set; maybe none.

    Parameters
    ----------
    config, dataset, network
        What is planned.
    label
        Of the network, from :func:`network_labels`.
    form
        What is kept of its layers.
    exclusions
        What the config leaves out.
    """
    model = network.resolved
    pairs = [
        (layer, name, params)
        for layer in model.layers
        for readout in config.readouts
        for name, params in readout.variants(config.seed)
        if not _is_excluded(exclusions, dataset, network, layer, form, name)
    ]
    used = {layer.name for layer, _, _ in pairs}
    layers = [layer for layer in model.layers if layer.name in used]
    whole = _extract_task(config, dataset, network, label, layers, form)
    parents = _parts(whole, config.extraction.parts)
    hash_ = config_hash(config)
    children = [
        _encode_task(config, hash_, dataset, network, whole, parents, layer, form, name, params)
        for layer, name, params in pairs
    ]
    return parents, children


def _is_excluded(
    exclusions: Exclusions,
    dataset: PlannedDataset,
    network: PlannedNetwork,
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
    return exclusions.leave_out(values)


def network_labels(networks: Sequence[PlannedNetwork]) -> list[str]:
    """What a person reads of each network; of those that read the same also what they differ in."""
    alike: dict[str, list[dict[str, str]]] = {}
    for network in networks:
        alike.setdefault(_model_label(network), []).append(_details(network))
    labels = []
    for network in networks:
        label = _model_label(network)
        differing = [
            text
            for key, text in _details(network).items()
            if any(other[key] != text for other in alike[label])
        ]
        labels.append(" ".join([label, *differing]))
    return labels


def _details(network: PlannedNetwork) -> dict[str, str]:
    fold = network.trained.columns.get("fold") if network.trained else None
    names = [layer.name for layer in network.resolved.layers]
    more = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return {
        "library": f"of {network.library}",
        "weights": network.weights,
        "seed": f"seed {network.seed}",
        "fold": f"fold {fold}",
        "layers": f"layers {', '.join(names[:_N_NAMED])}{more}",
    }


def _model_label(network: PlannedNetwork) -> str:
    name = network.resolved.name
    if network.library == "pixels":
        return name
    if network.weights == "random":
        return f"{name} random-{network.seed}"
    if network.trained is not None:
        return f"{name} {network.weights}"
    return f"{name} {'pretrained' if network.weights == 'pretrained' else 'checkpoint'}"


def _extract_task(
    config: SweepConfig,
    dataset: PlannedDataset,
    network: PlannedNetwork,
    label: str,
    layers: list[LayerInfo],
    form: FeatureForm,
) -> Task:
    model, extraction = network.resolved, config.extraction
    suffix = "" if form.name == "full" else f" {form.name}"
    named = {"library": network.library, "model": model.name}  # of a trained network a label
    return Task(
        kind=TaskKind.EXTRACT,
        label=f"{dataset.name} {label}{suffix}",
        params={
            "stimuli": dataset.stimuli_digest or f"absent:{dataset.name}",
            **({"library": "trained"} if network.trained is not None else named),
            "weights": model.weights_digest,
            "seed": network.seed if network.trained is None else 0,
            "preprocessing": model.preprocessing,
            "layers": [layer.name for layer in layers],
            "form": form.to_dict(),
            **({"autocast": extraction.autocast} if extraction.autocast else {}),
        },
        inputs=() if network.trained is None else network.trained.inputs,
        columns={
            "n_stimuli": dataset.n_stimuli,
            "layers": [[layer.name, list(layer.shape), layer.index] for layer in layers],
        },
        options={
            "dataset": dataset.loader,
            "weights": network.weights if network.trained is None else network.trained.where,
            "model": model.name,
            "batch_size": extraction.batch_size,
            "device": extraction.device,
            "compile": extraction.compile,
            "memory_gb": config.resources.extract.memory_gb,
        },
    )


def _without_layers(whole: Task) -> Task:
    """What decides a layer's features: not which other layers are extracted with it."""
    params = {key: value for key, value in whole.params.items() if key != "layers"}
    return replace(whole, params=params)


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


def _encode_task(
    config: SweepConfig,
    hash_: str,
    dataset: PlannedDataset,
    network: PlannedNetwork,
    whole: Task,
    parents: list[Task],
    layer: LayerInfo,
    form: FeatureForm,
    readout_name: str,
    readout: dict[str, Any],
) -> Task:
    return Task(
        kind=TaskKind.ENCODE,
        label=f"{whole.label} {layer.name} {readout_name}",
        params={
            "features": _without_layers(whole).id,
            "responses": dataset.responses_digest or f"absent:{dataset.name}",
            "layer": layer.name,
            "readout": readout,
            **_how_to_score(config, dataset, network, form, layer, readout),
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
            **({} if network.trained is None else network.trained.columns),
        },
        options={
            "features": whole.id,
            "dataset": dataset.loader,
            "config_hash": hash_,
            "workers": config.dask.workers,
            "n_nodes": config.dask.n_nodes,
            "timeout_min": config.resources.encode.timeout_min,
            "memory_gb": config.resources.encode.memory_gb,
        },
    )


def _how_to_score(
    config: SweepConfig,
    dataset: PlannedDataset,
    network: PlannedNetwork,
    form: FeatureForm,
    layer: LayerInfo,
    readout: dict[str, Any],
) -> dict[str, Any]:
    """A similarity is of all images, or of those tested if the network was trained on others."""
    scored = how_to_score(config)
    if readout["kind"] not in SIMILARITY_KINDS:
        return {**scored, "solver": _solver(config, dataset, form, layer, readout)}
    is_partly_seen = network.trained is not None and network.trained.has_seen(dataset)
    return {"protocol": scored["protocol"]} if is_partly_seen else {}


def _solver(
    config: SweepConfig,
    dataset: PlannedDataset,
    form: FeatureForm,
    layer: LayerInfo,
    readout: dict[str, Any],
) -> str:
    """How principal components are computed; gram where all of them are used.

    Unless the config says otherwise exactly, and from sizes alone, so that neither memory nor cores
    decide scores: from the Gram matrix, n × n, or where that is large from the covariance, p × p,
    if neither missing responses nor leave-one-out need the former.
    """
    if form.kind == "gram" or not readout.get("n_components"):
        return "gram"
    if config.pca.solver != "auto":
        return config.pca.solver
    only_by_gram = dataset.n_missing or readout.get("n_folds", 0) is None
    largest = max(_LARGEST_GRAM, form.of_layer(layer).n_features)
    return "gram" if only_by_gram or dataset.n_train <= largest else "covariance"


def features_id(task: Task) -> str:
    """What the features that a task makes or reads are filed under.

    The id of the extract task that would make all of them, however many tasks share the images.
    """
    if task.kind is TaskKind.ENCODE:
        return str(task.options["features"])
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
