"""THINGSvision on the same images: the peer of :mod:`benchmarks.extract`, in its own environment.

``python extract_thingsvision.py NETWORK N_IMAGES FOLDER N_THREADS memory|disk LAYER...`` prints one
JSON object as :mod:`benchmarks.extract_systems` does. It needs ``thingsvision`` and nothing of this
project.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = sys.argv[4]

import torch
from thingsvision import get_extractor
from thingsvision.utils.data import DataLoader, ImageDataset

BATCH_SIZE = 32


def main(network: str, n_images: str, root: str, n_threads: str, where: str, *layers: str) -> None:
    """Extract once for the first batch, then for the others, timed."""
    torch.set_num_threads(int(n_threads))
    folder = Path(root)
    extractor = get_extractor(
        model_name=network, source="torchvision", device="cpu", pretrained=False
    )
    paths = sorted((folder / "images").iterdir())[: int(n_images)]
    seconds = 0.0
    for part, chosen in (("first", paths[:BATCH_SIZE]), ("rest", paths[BATCH_SIZE:])):
        images = folder / "thingsvision-images" / part
        images.mkdir(parents=True)
        for path in chosen:
            (images / path.name).symlink_to(path)
        dataset = ImageDataset(
            root=str(images),
            out_path=str(folder / "out"),
            backend="pt",
            transforms=extractor.get_transformations(),
        )
        loader = DataLoader(dataset=dataset, batch_size=BATCH_SIZE, backend="pt")
        to_disk = {"output_dir": str(folder / "out"), "step_size": 1} if where == "disk" else {}
        start = time.perf_counter()
        extractor.extract_features(
            batches=loader, module_names=list(layers), flatten_acts=True, **to_disk
        )
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "n_images": len(paths) - BATCH_SIZE}))


if __name__ == "__main__":
    main(*sys.argv[1:])
