"""Checkpoints: the last two states of a training, each complete or recognised as broken."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from toolkit.atomic import atomic_path
from toolkit.training.errors import OtherTrainingError

_log = logging.getLogger("toolkit")

_N_NAMED = 5


class Checkpoints:
    """The checkpoints of one training in a folder: the last one, and the one before it.

    Parameters
    ----------
    folder
        Created if absent.
    identity
        JSON values that decide the result. A checkpoint of another identity is refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.last = folder / "checkpoint.pt"
        self.before = folder / "checkpoint_before.pt"
        self._identity = json.loads(json.dumps(identity))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state (tensors and JSON values) and keep the one before."""
        with atomic_path(self.last, durable=True) as temporary:
            torch.save({"identity": json.dumps(self._identity), "state": state}, temporary)
            if self.last.exists():
                self.last.replace(self.before)

    def load(self) -> dict[str, Any] | None:
        """The last state that is whole, on the CPU; None if there is none.

        A broken checkpoint is logged, and the one before it is read.

        Raises
        ------
        OtherTrainingError
            If it belongs to another training; the message says what differs.
        """
        for path in (self.last, self.before):
            if not path.is_file():
                continue
            try:
                found = _read(path)
            except Exception as error:  # unpickling broken bytes may raise anything
                _log.warning("checkpoint %s is broken and left out: %s", path, error)
                continue
            self._require_same(path, json.loads(found["identity"]))
            return found["state"]
        return None

    def remove(self) -> None:
        """Delete both."""
        self.last.unlink(missing_ok=True)
        self.before.unlink(missing_ok=True)

    def _require_same(self, path: Path, found: dict[str, Any]) -> None:
        differing = list(_differences(found, self._identity))
        if differing:
            more = f" and {len(differing) - _N_NAMED} more" if len(differing) > _N_NAMED else ""
            raise OtherTrainingError(
                f"{path} is of another training: {'; '.join(differing[:_N_NAMED])}{more}. Train in "
                "another folder, or remove this one"
            )


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise OSError(f"the checksum of its part {broken} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def _differences(found: Any, wanted: Any, path: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted(found.keys() | wanted.keys()):
            inner = f"{path}.{key}" if path else key
            yield from _differences(found.get(key), wanted.get(key), inner)
    elif found != wanted:
        yield f"its {path} is {found!r}, not {wanted!r}"
