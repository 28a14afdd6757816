"""Batches in the order of an epoch, on the device before they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from toolkit.training.images import ImageBank
from toolkit.training.objectives import Targets
from toolkit.training.ranks import Rank
from toolkit.training.recipe import Augmentation

_SEED_ORDER = 2

_ALONE = Rank()

# A bank smaller than this share of a GPU's free memory is kept there as a whole.
_RESIDENT_SHARE = 0.25


def epoch_batches(
    rows: NDArray[np.integer], batch_size: int, *, seed: int, epoch: int
) -> list[NDArray[np.integer]]:
    """All rows once in an order that seed and epoch decide, cut into batches.

    Batches differ by at most one image, so that no statistic over a batch is taken of a few.
    """
    order = np.random.default_rng([seed, _SEED_ORDER, epoch]).permutation(rows)
    return np.array_split(order, -(-len(rows) // batch_size))


@dataclass(frozen=True)
class Batch:
    """A batch, or a rank's part of it, on the device.

    Parameters
    ----------
    images
        (n, 3, height, width), float32 and normalised: those of the rank's part.
    targets
        Of the whole batch.
    n_images
        Of the whole batch.
    """

    images: torch.Tensor
    targets: Targets
    n_images: int


class Feeder:
    """Copies images from a bank to the device one batch ahead of the arithmetic.

    On a GPU with room for it the whole bank is kept there instead.

    Parameters
    ----------
    bank
        All images.
    targets
        Targets of all images, on the CPU.
    device
        Where batches are wanted.
    channels_last
        Memory format of the images.
    """

    def __init__(
        self, bank: ImageBank, targets: Targets, device: torch.device, *, channels_last: bool
    ) -> None:
        self._bank = bank
        self._targets = targets.to(device)
        self._device = device
        self._channels_last = channels_last
        self._resident = _resident(bank, device)

    def batches(
        self,
        batches: Sequence[NDArray[np.integer]],
        augmentation: Augmentation | None = None,
        rank: Rank = _ALONE,
    ) -> Iterator[Batch]:
        """Each batch of rows in turn, with the images of the rank's part."""
        if not batches:
            return
        with ThreadPoolExecutor(1, "batch-feeder") as thread:
            upcoming = thread.submit(self._pixels, rank.part(batches[0]))
            for turn, rows in enumerate(batches):
                pixels = upcoming.result().to(self._device, non_blocking=True)
                if turn + 1 < len(batches):
                    upcoming = thread.submit(self._pixels, rank.part(batches[turn + 1]))
                if augmentation is not None:
                    pixels = augmented(pixels, augmentation)
                images = self._bank.normalised(pixels, channels_last=self._channels_last)
                index = torch.from_numpy(rows).to(self._device, non_blocking=True)
                yield Batch(images, self._targets.at(index), len(rows))

    def _pixels(self, rows: NDArray[np.integer]) -> torch.Tensor:
        if self._resident is not None:
            return self._resident[torch.from_numpy(rows).to(self._device, non_blocking=True)]
        pixels = self._bank.batch(rows)
        return pixels.pin_memory() if self._device.type == "cuda" else pixels


def augmented(images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
    """Images (n, channels, height, width) flipped and shifted by torch's global generator."""
    if augmentation.flip:
        is_flipped = torch.rand(len(images)).lt(0.5).to(images.device)
        images = torch.where(is_flipped[:, None, None, None], images.flip(-1), images)
    if augmentation.shift_px:
        images = _shifted(images, augmentation.shift_px)
    return images


def _shifted(images: torch.Tensor, shift_px: int) -> torch.Tensor:
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images.float(), (shift_px,) * 4, mode="reflect")
    corners = torch.randint(2 * shift_px + 1, (len(images), 2)).tolist()
    cut = [
        image[:, top : top + height, left : left + width]
        for image, (top, left) in zip(padded, corners, strict=True)
    ]
    return torch.stack(cut).to(images.dtype)


def _resident(bank: ImageBank, device: torch.device) -> torch.Tensor | None:
    if device.type != "cuda":
        return None
    free_bytes, _ = torch.cuda.mem_get_info(device)
    if bank.pixels.nbytes > _RESIDENT_SHARE * free_bytes:
        return None
    return torch.from_numpy(np.array(bank.pixels)).to(device)
