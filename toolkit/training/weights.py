"""Trained networks are left behind as safetensors files that say what they are."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from toolkit.atomic import atomic_path
from toolkit.models.trained import (
    DESCRIPTION_KEY,
    DIGEST_KEY,
    Trained,
    WeightsFileError,
    content_digest,
    load_trained,
)

__all__ = ["Trained", "WeightsFileError", "load_trained", "save_trained"]


def save_trained(path: Path, trained: Trained) -> None:
    """Write weights and description; the file appears whole or not at all."""
    description = {
        "task": trained.task,
        "network": trained.spec.to_plain(),
        "is_rate": trained.network.is_rate,
        "neuroid_ids": trained.neuroid_ids,
        "classes": trained.classes,
        "images": trained.images,
        "about": trained.about,
    }
    # Layouts such as channels-last are no part of the format.
    weights = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
    said = json.dumps({**description, DIGEST_KEY: content_digest(description, weights)})
    with atomic_path(path, durable=True) as temporary:
        save_file(weights, temporary, metadata={DESCRIPTION_KEY: said})
