"""From sample numbers to a batch of tensors: lookup, augmentation, normalisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.data.format import check_settings, planned_manifest
from dualprune.stages.data.order import Indices, epoch_order
from dualprune.stages.data.read.pictures import moved
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.data.read.records import Records, RecordStream, load_records
from dualprune.stages.data.read.stream import Shards, Stream
from dualprune.stages.data.shards import Split
from dualprune.stages.objectives.base import Batch
from dualprune.stages.settings.data import Data


@lru_cache(maxsize=8)
def load_split(url: str, split: str, digest: str) -> Split:
    """A split, read once per process: a warm worker keeps it from stage to stage. Raises DataError."""
    return Split(url, planned_manifest(url, digest)["splits"][split])


def open_split(
    url: str, split: str, digest: str, settings: Data, seed: int, device: torch.device, classes: int
) -> Reader:
    """Batches of a split for a network of so many classes, from memory or read as they are needed, as its manifest
    (whose digest is `digest`) says. Raises DataError, also for settings that don't suit it."""
    manifest = planned_manifest(url, digest)
    check_settings(url, manifest, settings)
    form = manifest["splits"][split].get("format")
    if form == "fields":
        records = Records(url, manifest, split, settings, seed, load_records(url, split, digest))
        return RecordStream(records, device)
    if form == "jpeg":
        return Stream(Shards(url, manifest, split, settings, seed, classes), device)
    return Batches(load_split(url, split, digest), settings, seed, device)


def named(pictures: Tensor, labels: Tensor) -> Batch:
    """Pictures and labels by the names that objectives know them by."""
    return {"image": pictures, "label": labels}


class Batches:
    """Batches of one split that is in memory, as the settings describe them, on one device."""

    bad: ClassVar[dict[int, str]] = {}
    """No sample of these is bad: a split is decoded as a whole, or refused."""

    def __init__(self, split: Split, settings: Data, seed: int, device: torch.device) -> None:
        self.split, self.seed, self.device, self.settings = split, seed, device, settings
        self.samples = settings.used(len(split))
        self.mean = torch.tensor(settings.mean, device=device).view(1, -1, 1, 1)
        self.std = torch.tensor(settings.std, device=device).view(1, -1, 1, 1)

    def __len__(self) -> int:
        return self.samples

    def order(self, epoch: int) -> Indices:
        """All samples in the order of an epoch."""
        return epoch_order(len(self), self.seed, epoch)

    def epoch(self, parts: Iterable[Indices], epoch: int) -> Iterator[Batch]:
        """Augmented pictures and labels of each micro-batch in turn, as `train` makes them."""
        return (named(*self.train(part, epoch)) for part in parts)

    def evaluation(self, parts: Iterable[Indices]) -> Iterator[Batch]:
        """The same without augmentation."""
        return (named(*self.plain(part)) for part in parts)

    def tolerate(self) -> None:
        """There is nothing to tolerate."""

    def train(self, indices: Indices, epoch: int) -> tuple[Tensor, Tensor]:
        """Augmented pictures, fp32 [n, c, h, w], and labels, int64 [n]."""
        pictures = moved(self.split.pictures[indices], self.settings, self.seed, epoch, indices)
        return self._tensors(pictures, indices)

    def plain(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """The same without augmentation."""
        return self._tensors(self.split.pictures[indices], indices)

    def _tensors(self, pictures: NDArray[np.uint8], indices: Indices) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(pictures).to(self.device).float().div_(255)
        y = torch.from_numpy(self.split.labels[indices]).to(self.device)
        return x.sub_(self.mean).div_(self.std), y
