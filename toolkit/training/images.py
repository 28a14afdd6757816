"""All images of a data set, decoded once into one memory-mapped file of bytes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.atomic import atomic_path
from toolkit.data import Stimuli
from toolkit.models.preprocessing import Preprocessing

_log = logging.getLogger("toolkit")

# Part of every bank's name: raise it when the same images and preprocessing give other bytes.
_VERSION = 2

# Images decoded ahead of the one that is written, per thread.
_AHEAD = 4

_CHECKED_BYTES = 2**24


class ImageBank:
    """Images resized and cropped for a network, as bytes, ready for any number of epochs.

    Pictures that came with 8 bits keep them all; images stored as floats are rounded to 256 levels.

    Parameters
    ----------
    path
        A file that :meth:`of` wrote.
    preprocessing
        What the images were prepared for; it also says how they are normalised.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing) -> None:
        self.path = path
        self.preprocessing = preprocessing
        self.pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
        mean, std = (torch.tensor(values) for values in (preprocessing.mean, preprocessing.std))
        self._offset = (255 * mean).view(1, 3, 1, 1)
        self._scale = (255 * std).view(1, 3, 1, 1)

    @classmethod
    def of(cls, folder: Path, stimuli: Stimuli, preprocessing: Preprocessing) -> ImageBank:
        """The bank of these images, from the folder if it is there, or else decoded into it.

        A file is named after the content of the images and the preprocessing, so that all trainings
        that share them share it; it appears complete or not at all, and ends with its own name and
        a checksum. One that is damaged, or another's, is written anew.

        Parameters
        ----------
        folder
            Where banks are kept; created if absent.
        stimuli
            The images; ``torch.get_num_threads()`` threads read them at once.
        preprocessing
            The network's.

        Raises
        ------
        toolkit.data.DataError
            If an image cannot be read; a note names the stimulus.
        OSError
            If the disk has no room for n x 3 x height x width bytes.
        """
        key = json.dumps([_VERSION, stimuli.digest(), preprocessing.to_dict()], sort_keys=True)
        path = folder / f"images-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        if not path.is_file() or not _is_own(path):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                _write(temporary, stimuli, preprocessing)
                _seal(temporary, path.stem)
        return cls(path, preprocessing)

    def __len__(self) -> int:
        return len(self.pixels)

    def __reduce__(self) -> tuple[Any, ...]:
        """Other processes map the same file."""
        return type(self), (self.path, self.preprocessing)

    @property
    def key(self) -> str:
        """What names the content."""
        return self.path.stem

    def batch(self, rows: NDArray[np.integer]) -> torch.Tensor:
        """Copy images out, (len(rows), 3, height, width) uint8."""
        return torch.from_numpy(self.pixels[rows])

    def normalised(self, images: torch.Tensor, *, channels_last: bool = False) -> torch.Tensor:
        """What the network sees, float32, of bytes on any device."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        floats = images.to(torch.float32, memory_format=layout)
        # A copy that is waited for would also wait for the steps before.
        offset, scale = (
            value.to(images.device, non_blocking=True) for value in (self._offset, self._scale)
        )
        return floats.sub_(offset).div_(scale)


def _write(path: Path, stimuli: Stimuli, preprocessing: Preprocessing) -> None:
    shape = (len(stimuli), 3, *preprocessing.input_px)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        os.posix_fallocate(file.fileno(), file.tell(), int(np.prod(shape)))
        for pixels in _decoded(stimuli, preprocessing):
            file.write(pixels.tobytes())


def _seal(path: Path, name: str) -> None:
    """Append what :func:`_is_own` compares; readers of arrays stop before it."""
    with path.open("rb") as file:
        checksum = _crc32(file, path.stat().st_size)
    with path.open("ab") as file:
        file.write(_mark(name, checksum))


def _is_own(path: Path) -> bool:
    """Whether a bank is whole, and the one it is named after."""
    n_bytes = path.stat().st_size - len(_mark(path.stem, 0))
    with path.open("rb") as file:
        checksum = _crc32(file, n_bytes)
        is_own = n_bytes > 0 and file.read() == _mark(path.stem, checksum)
    if not is_own:
        _log.warning("%s is damaged or another's; the images are decoded again", path)
    return is_own


def _crc32(file: BinaryIO, n_bytes: int) -> int:
    checksum = 0
    for start in range(0, n_bytes, _CHECKED_BYTES):
        checksum = zlib.crc32(file.read(min(_CHECKED_BYTES, n_bytes - start)), checksum)
    return checksum


def _mark(name: str, checksum: int) -> bytes:
    return f"{name} {checksum:08x}".encode()


def _decoded(stimuli: Stimuli, preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Images in order, (3, height, width), decoded by threads a bounded number ahead."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))

    def decode(row: int) -> NDArray[np.uint8]:
        try:
            image = preprocessing(stimuli[row], stimuli.framed)
        except Exception as error:
            error.add_note(f"while loading stimulus {stimuli.ids[row]!r}")
            raise
        levels = (255 * (image * std + mean)).round_().clamp_(0, 255)
        return levels.to(torch.uint8).numpy()

    n_threads = torch.get_num_threads()
    ahead: deque[Future[NDArray[np.uint8]]] = deque()
    pool = ThreadPoolExecutor(n_threads, "image-decoder")
    try:
        for row in range(len(stimuli)):
            ahead.append(pool.submit(decode, row))
            if len(ahead) > _AHEAD * n_threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
