"""From sample numbers to a batch of tensors: lookup, augmentation, normalisation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.data.order import Indices, hashed
from stages.data.shards import Split
from stages.spec import Data


@lru_cache(maxsize=8)
def load_split(url: str, split: str, digest: str) -> Split:
    """A split, read once per process: a warm worker keeps it from stage to stage. `digest` keeps versions apart."""
    return Split(url, split)


class Batches:
    """Batches of one split as the settings describe them, on one device."""

    def __init__(self, split: Split, settings: Data, seed: int, device: torch.device) -> None:
        channels = split.pictures.shape[1]
        if len(settings.mean) not in (1, channels):
            raise ValueError(f"data.mean has {len(settings.mean)} values, but the pictures {channels} channels")
        self.split, self.seed, self.device = split, seed, device
        self.shift, self.flip = settings.shift, settings.flip
        self.samples = settings.used(len(split))
        self.mean = torch.tensor(settings.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(settings.std, device=device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return self.samples

    def train(self, indices: Indices, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented pictures, fp32 [n, c, h, w], and labels, int64 [n]."""
        pictures = self.split.pictures[indices]
        if self.shift:
            pictures = _shifted(pictures, self.shift, hashed(self.seed, epoch, indices, purpose=1))
        if self.flip:
            mirrored = hashed(self.seed, epoch, indices, purpose=3) % np.uint64(2) == 1
            pictures = np.where(mirrored[:, None, None, None], pictures[..., ::-1], pictures)
        return self._tensors(pictures, indices)

    def plain(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The same without augmentation."""
        return self._tensors(self.split.pictures[indices], indices)

    def _tensors(self, pictures: NDArray[np.uint8], indices: Indices) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(pictures).to(self.device).float().div_(255)
        y = torch.from_numpy(self.split.labels[indices]).to(self.device)
        return x.sub_(self.mean).div_(self.std), y


def _shifted(pictures: NDArray[np.uint8], most: int, bits: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Pictures moved by up to `most` pixels down and right, or up and left; what comes in is black."""
    choices = np.uint64(2 * most + 1)
    n, _, height, width = pictures.shape
    padded = np.pad(pictures, ((0, 0), (0, 0), (most, most), (most, most)))
    rows = (bits % choices).astype(np.int64)[:, None] + np.arange(height)
    columns = (bits // choices % choices).astype(np.int64)[:, None] + np.arange(width)
    moved = padded[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.ascontiguousarray(moved.transpose(0, 3, 1, 2))
