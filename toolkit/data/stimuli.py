"""What every source of images looks like from outside: a lazy, picklable sequence with a digest."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

OpenFile = TypeVar("OpenFile")
_OPENING = threading.Lock()
_IMAGE_DIGITS = 16


class Stimuli(ABC):
    """The images of a data set, decoded one at a time and only when asked for.

    Attributes
    ----------
    ids
        One unique id per image, in the order of the responses.
    framed
        True if an image already shows exactly what a network should see, so that it is only
        resized to the network's input; False if the network's own crop applies.
    """

    ids: tuple[str, ...]
    framed: bool

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> Image.Image | np.ndarray:
        """Image ``index``: PIL in mode RGB, or float32 (height, width, 3) in [0, 1].

        Raises
        ------
        DataError
            If the image cannot be read; the message names its file.
        IndexError
            If there is no such image.
        """

    @abstractmethod
    def _content(self) -> Iterator[bytes | memoryview]:
        """What each image is made of, one piece an image, in order; never a path or a time.

        Images that are rendered may give one piece, the parameters, for all.
        """

    def sizes_px(self) -> set[tuple[int, int]]:
        """Height and width of the images; of the first, where telling would need all of them."""
        first = self[0]
        shape = (first.height, first.width) if isinstance(first, Image.Image) else first.shape[:2]
        return {shape}

    def remarks(self) -> tuple[str, ...]:
        """Return what a person should know of the images' files, a line each."""
        return ()

    def digest(self) -> str:
        """SHA-256 (hexadecimal) over ids, ``framed`` and content, reading one piece at a time."""
        header = json.dumps({"ids": self.ids, "framed": self.framed})
        sha = hashlib.sha256(header.encode())
        for piece in self._piece_digests:
            sha.update(piece)
        return sha.hexdigest()

    def duplicates(self) -> list[tuple[int, ...]]:
        """Indices of images with the same content, a tuple for each set of two or more."""
        same: dict[bytes, list[int]] = {}
        for index, piece in enumerate(self._piece_digests):
            same.setdefault(piece, []).append(index)
        return [tuple(indices) for indices in same.values() if len(indices) > 1]

    def image_digests(self) -> tuple[str, ...]:
        """What tells each image's content from others, in any data set: 16 hexadecimal digits.

        Of images that are rendered from parameters which all share, it is made of these and the id.
        """
        pieces = self._piece_digests
        if len(pieces) != len(self):
            common = b"".join(pieces)
            pieces = [hashlib.sha256(common + one.encode()).digest() for one in self.ids]
        return tuple(piece.hex()[:_IMAGE_DIGITS] for piece in pieces)

    @cached_property
    def _piece_digests(self) -> list[bytes]:
        return [hashlib.sha256(piece).digest() for piece in self._content()]


class PerProcess(Generic[OpenFile]):
    """An open file that each process opens for itself at first use.

    Forked workers would share a file position and HDF5's caches with their parent, and an open
    file cannot be pickled; this can, because only the way to open it travels.

    Parameters
    ----------
    open_file
        Opens the file; itself picklable.
    """

    def __init__(self, open_file: Callable[[], OpenFile]) -> None:
        self._open_file = open_file
        self._opened: tuple[int, OpenFile] | None = None

    def get(self) -> OpenFile:
        """Return this process's open file; any thread may ask first."""
        with _OPENING:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = None  # let go of the parent's handle before opening our own
                self._opened = (os.getpid(), self._open_file())
            return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_open_file": self._open_file, "_opened": None}
