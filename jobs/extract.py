"""Images through one network: features to the store, or only their Gram matrices."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.meter import Meter
from jobs.session import DataChangedError, Session, stored_content
from toolkit.cluster.run_folder import write_text
from toolkit.plan import features_id, form_of, layers_of
from toolkit.task import Task

if TYPE_CHECKING:
    import torch

    from toolkit.data import Stimuli
    from toolkit.encoding.statistics import LayerStatistics
    from toolkit.features.extract import ForwardOptions
    from toolkit.models import LayerInfo, Network

_log = logging.getLogger("toolkit")

# Of the memory a job asked for, what the features of layers may take that are held at once.
_FEATURE_SHARE = 0.6

Progress = Callable[[int, int], None]


class LayerTooLargeError(ValueError):
    """A layer's features do not fit the memory of the job that is to hold them."""

    error_class = "bad_features"


def extract_features(task: Task, session: Session, progress: Progress) -> None:
    """Run one extract task: every layer of one network in one forward pass over the images.

    Raises
    ------
    DataChangedError
        If the images are not those that the task was planned for.
    LayerTooLargeError
        If only Gram matrices are to be kept, and one layer's features do not fit the memory.
    """
    import torch

    meter = Meter()
    stimuli = session.dataset(task.options["dataset"]).stimuli
    if stimuli.digest() != task.params["stimuli"]:
        raise DataChangedError(
            "the images changed since the sweep was planned; run the sweep again to plan it anew"
        )
    torch.set_num_threads(session.n_cpus)
    options = _forward_options(task)
    keep = _keep_gram_matrices if form_of(task).kind == "gram" else _keep_features
    share = keep(task, session, stimuli, options, progress)
    report = {
        "task_id": task.id,
        "label": task.label,
        "n_stimuli": len(stimuli),
        "share": share,
        "seconds": meter.seconds(),
        "peak_memory_bytes": meter.peak_memory_bytes(),
        "device": str(options.device),
        "batch_size": options.batch_size,
        "git_sha": session.git_sha,
        "versions": session.versions,
    }
    write_text(session.run.result_path(task.id), json.dumps(report, indent=1))


def _network(task: Task, session: Session, device: torch.device) -> Network:
    """The network: a library's, or one that a training left behind."""
    from toolkit import models

    weights, digest = task.options["weights"], task.params["weights"]
    if task.params["library"] == "trained":
        from jobs.assignments import trained_network

        return trained_network(weights, digest, session, device).trunk()
    spec = models.ModelSpec(
        library=task.params["library"],
        name=task.params["model"],
        weights=weights,
        seed=task.params["seed"],
        digest=digest,
    )
    return models.load_network(spec, device)


def _keep_features(
    task: Task,
    session: Session,
    stimuli: Stimuli,
    options: ForwardOptions,
    progress: Progress,
) -> float:
    """What an earlier attempt has left to do; return which share of all that was."""
    from toolkit.features.creation import remove_store
    from toolkit.features.errors import DamagedStoreError
    from toolkit.features.extract import extract
    from toolkit.features.layout import part_of
    from toolkit.features.store import FeatureStore

    path = session.run.features_path(features_id(task))
    content = vars(stored_content(task, stimuli.ids))
    try:
        store = FeatureStore.create(path, **content)
    except DamagedStoreError as error:
        _log.warning("%s", error)
        remove_store(path)
        store = FeatureStore.create(path, **content)
    part, n_parts = task.params.get("part", (0, 1))
    blocks = part_of(part, n_parts, store.n_blocks)
    n_left = len(set(store.missing_blocks()) & set(blocks))
    extract(
        _network(task, session, options.device),
        stimuli,
        layers_of(task),
        store,
        form=form_of(task),
        options=options,
        blocks=blocks,
        progress=progress,
    )
    # Of fewer row blocks than parts, some parts have none.
    return n_left / max(1, len(blocks))


def _keep_gram_matrices(
    task: Task,
    session: Session,
    stimuli: Stimuli,
    options: ForwardOptions,
    progress: Progress,
) -> float:
    """One forward pass over the images for as many layers as fit the memory at once.

    Does what an earlier attempt has left to do; returns which share of all that was.
    """
    from toolkit.features.extract import extract_to_memory

    key, form = features_id(task), form_of(task)
    missing = [x for x in layers_of(task) if not _is_kept(key, x.name, session, len(stimuli))]
    memory_bytes = int(_FEATURE_SHARE * _memory_bytes(task, options.device))
    value_bytes = 2 if form.dtype == "float16" else 4
    groups = list(layer_groups(missing, value_bytes * len(stimuli), memory_bytes))
    for number, group in enumerate(groups, 1):
        names = ", ".join(layer.name for layer in group)
        _log.info("pass %d of %d over the images, for %s", number, len(groups), names)
        network = _network(task, session, options.device)
        features = extract_to_memory(
            network, stimuli, group, form=form, options=options, progress=progress
        )
        for layer in group:
            statistics = _statistics(features.pop(layer.name), session.n_cpus)
            session.publish_statistics(key, layer.name, statistics)
    return len(missing) / len(layers_of(task))


def _is_kept(key: str, layer: str, session: Session, n_stimuli: int) -> bool:
    """Whether an earlier attempt has left a layer's Gram matrix, and left it whole."""
    from toolkit.encoding.errors import DamagedGramError

    try:
        session.kept_statistics(key, layer, n_stimuli)
    except FileNotFoundError:
        return False
    except DamagedGramError as error:
        _log.warning("%s; its layer is extracted again", error)
        return False
    return True


def layer_groups(
    layers: Iterable[LayerInfo], bytes_per_feature: int, memory_bytes: int
) -> Iterable[Sequence[LayerInfo]]:
    """Consecutive layers whose features fit the memory together.

    Raises
    ------
    LayerTooLargeError
        If one does not fit alone.
    """
    group: list[LayerInfo] = []
    used_bytes = 0
    for layer in layers:
        layer_bytes = layer.n_features * bytes_per_feature
        if layer_bytes > memory_bytes:
            raise LayerTooLargeError(
                f"the features of layer {layer.name!r} take {layer_bytes / 1e9:.1f} GB, of "
                f"{memory_bytes / 1e9:.1f} GB that may hold them; raise "
                "resources.extract.memory_gb, or write features: full or projection"
            )
        if used_bytes + layer_bytes > memory_bytes:
            yield group
            group, used_bytes = [], 0
        group.append(layer)
        used_bytes += layer_bytes
    if group:
        yield group


def _statistics(features: torch.Tensor, n_threads: int) -> LayerStatistics:
    """By torch on a GPU; on a CPU by NumPy, whose symmetric products take half the time."""
    from toolkit.encoding.gram import column_slices, layer_statistics
    from toolkit.encoding.gram_torch import tensor_statistics

    if features.device.type == "cuda":
        return tensor_statistics(features)
    values = features.numpy()
    n_stimuli, n_features = values.shape
    return layer_statistics(
        lambda columns: values[:, columns],
        column_slices(n_features),
        n_stimuli,
        n_threads=n_threads,
    )


def _memory_bytes(task: Task, device: torch.device) -> float:
    """What the job may use where the network runs."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return 1e9 * task.options["memory_gb"]


def _forward_options(task: Task) -> ForwardOptions:
    import torch

    from toolkit.features.extract import ForwardOptions
    from toolkit.features.preparation import fitting_batch_size

    wanted, batch_size = task.options["device"], task.options["batch_size"]
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if batch_size == "auto":
        batch_size = fitting_batch_size(layers_of(task), device, _memory_bytes(task, device))
    return ForwardOptions(
        device=device,
        batch_size=batch_size,
        autocast=task.params.get("autocast"),
        compiles=task.options["compile"],
    )
