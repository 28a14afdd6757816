"""The systems that :mod:`benchmarks.extract` compares, each run in a process of its own.

``python -m benchmarks.extract_systems SYSTEM NETWORK N_IMAGES FOLDER N_THREADS`` takes the images
of FOLDER/images through a network with random weights, writes what it keeps under FOLDER/out, and
prints one JSON object with the ``seconds`` of all but the first batch (imports, building the
network and that batch are left out, for all alike).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from toolkit.data.images import ImageFiles, source_at
from toolkit.encoding.gram import column_slices, layer_statistics
from toolkit.encoding.gram_torch import tensor_statistics
from toolkit.features.allocator import keep_freed_memory
from toolkit.features.extract import ForwardOptions, extract, extract_to_memory
from toolkit.features.forms import FeatureForm
from toolkit.features.preparation import prepared
from toolkit.features.store import FeatureStore
from toolkit.models import LayerInfo, ModelSpec, Network, load_network, trace_layers

NETWORKS = {
    "resnet50": ("conv1", "layer1", "layer2", "layer3", "layer4", "avgpool"),
    "densenet201": tuple(f"features.denseblock{k}" for k in range(1, 5)),
    "vit_b_16": tuple(f"encoder.layers.encoder_layer_{k}" for k in (2, 5, 8, 11)),
}
BATCH_SIZE = 32
N_PROJECTED = 4096

LIMIT = "bare forward, tuned alike"
FORMS = {
    "toolkit, full float32": FeatureForm(),
    "toolkit, full float16": FeatureForm(dtype="float16"),
    f"toolkit, projected to {N_PROJECTED}": FeatureForm("projection", n_dims=N_PROJECTED),
    "toolkit, averaged": FeatureForm("average"),
    "toolkit, Gram only": FeatureForm("gram"),
}


class Case:
    """One network, its layers, some images and a folder to write to."""

    def __init__(self, network: str, n_images: int, folder: Path) -> None:
        self.folder = folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.spec = ModelSpec("torchvision", network)
        self.layers = [x for x in trace_layers(self.spec) if x.name in NETWORKS[network]]
        self.files = sorted((folder / "images").iterdir())[:n_images]
        self.batch_size = BATCH_SIZE if self.device.type == "cpu" else 128

    def network(self) -> Network:
        """The network on its device."""
        return load_network(self.spec, self.device)

    def stimuli(self, rows: slice = slice(None)) -> ImageFiles:
        """Some of the image files."""
        names = tuple(path.name for path in self.files[rows])
        return ImageFiles(source_at(self.folder / "images"), names, ids=names, framed=False)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def bare(case: Case, *, tuned: bool) -> float:
    """Forward passes over batches that are ready, keeping nothing.

    Tuned is the limit: convolutions in channels-last order and memory kept, as the extractor has
    them. Otherwise as a script has it.
    """
    network = case.network()
    module = network.module
    if tuned:
        keep_freed_memory()
        module = prepared(module, [], case.device, compiles=False)
    stimuli = case.stimuli()
    images = torch.stack([network.preprocessing(stimuli[i], False) for i in range(len(stimuli))])
    batches = [batch.to(case.device) for batch in images.split(case.batch_size)]
    with torch.inference_mode():
        module(batches[0])
        case.synchronize()
        start = time.perf_counter()
        for batch in batches[1:]:
            module(batch)
        case.synchronize()
        return time.perf_counter() - start


def toolkit(case: Case, form: FeatureForm) -> float:
    """The extractor: the first batch alone, then the others, timed until all is written."""
    network, options = case.network(), ForwardOptions(case.device, case.batch_size)
    first, rest = case.stimuli(slice(case.batch_size)), case.stimuli(slice(case.batch_size, None))
    keep = _grams if form.kind == "gram" else _features
    keep(case, network, first, "first", form, options)
    start = time.perf_counter()
    keep(case, network, rest, "rest", form, options)
    return time.perf_counter() - start


def _features(
    case: Case,
    network: Network,
    stimuli: ImageFiles,
    name: str,
    form: FeatureForm,
    options: ForwardOptions,
) -> None:
    store = FeatureStore.create(
        case.folder / "out" / f"{name}.zarr",
        layers=[form.of_layer(layer) for layer in case.layers],
        stimulus_ids=stimuli.ids,
        provenance={"source": "synthetic"},
        dtype=form.stored_dtype,
        shuffle=form.shuffle,
    )
    extract(network, stimuli, case.layers, store, form=form, options=options)


def _grams(
    case: Case,
    network: Network,
    stimuli: ImageFiles,
    name: str,
    form: FeatureForm,
    options: ForwardOptions,
) -> None:
    features = extract_to_memory(network, stimuli, case.layers, form=form, options=options)
    for layer in case.layers:
        values = features.pop(layer.name)
        np.save(case.folder / "out" / f"{name}-{layer.name}.npy", _gram(values))


def _gram(values: torch.Tensor) -> np.ndarray:
    if values.device.type == "cuda":
        return tensor_statistics(values).gram
    array = values.numpy()
    return layer_statistics(lambda s: array[:, s], column_slices(array.shape[1]), len(array)).gram


def hook_script(case: Case, *, to_disk: bool) -> float:
    """What a user would write: a DataLoader, a hook per layer, and an .npy file per batch."""
    network = case.network()
    found: dict[str, torch.Tensor] = {}
    kept: list[dict[str, np.ndarray]] = []

    def keep(layer: LayerInfo) -> Callable[[nn.Module, object, torch.Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            found[layer.name] = output.detach().clone()

        return hook

    modules = dict(network.module.named_modules())
    for layer in case.layers:
        modules[layer.name].register_forward_hook(keep(layer))
    batches = _loaded(case, network)
    start = 0.0
    with torch.inference_mode():
        for number, batch in enumerate(batches):
            if number == 1:
                case.synchronize()
                start = time.perf_counter()
            network.module(batch.to(case.device))
            features = {name: output.flatten(1).cpu().numpy() for name, output in found.items()}
            if to_disk:
                for name, values in features.items():
                    np.save(case.folder / "out" / f"{name}-{number}.npy", values)
            else:
                kept.append(features)
    if not to_disk:
        for name in found:
            np.concatenate([features.pop(name) for features in kept])
    return time.perf_counter() - start


def _loaded(case: Case, network: Network) -> Iterator[torch.Tensor]:
    from torch.utils.data import DataLoader, Dataset

    stimuli = case.stimuli()

    class Images(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(stimuli)

        def __getitem__(self, index: int) -> torch.Tensor:
            return network.preprocessing(stimuli[index], False)

    yield from DataLoader(Images(), batch_size=case.batch_size, num_workers=2)


SYSTEMS: dict[str, Callable[[Case], float]] = {
    LIMIT: partial(bare, tuned=True),
    "bare forward loop": partial(bare, tuned=False),
    **{name: partial(toolkit, form=form) for name, form in FORMS.items()},
    "hook script to .npy": partial(hook_script, to_disk=True),
    "hook script, in memory": partial(hook_script, to_disk=False),
}


def run(arguments: Sequence[str]) -> None:
    """Run one system and print what it measured."""
    system, network, n_images, folder, n_threads = arguments
    torch.set_num_threads(int(n_threads))
    case = Case(network, int(n_images), Path(folder))
    (case.folder / "out").mkdir(exist_ok=True)
    seconds = SYSTEMS[system](case)
    n_timed = len(case.files) - case.batch_size
    print(json.dumps({"seconds": seconds, "n_images": n_timed, "device": str(case.device)}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", sys.argv[-1])
    run(sys.argv[1:])
