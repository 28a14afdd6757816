"""What all tasks of a sweep have in common."""

from __future__ import annotations

from typing import Any

from toolkit.config import SweepConfig
from toolkit.task import json_digest


def config_hash(config: SweepConfig) -> str:
    """SHA-256 of the resolved configuration."""
    return json_digest(config.model_dump(mode="json"))


def how_to_score(config: SweepConfig) -> dict[str, Any]:
    """What decides a prediction's scores beside the read-out; nothing for similarities."""
    protocol = config.protocol.model_dump(mode="json")
    if protocol.get("seed", 0) is None:
        protocol["seed"] = config.seed
    wanted = {k: v for k, v in config.statistics.model_dump().items() if v}
    return {"protocol": protocol, **wanted}
