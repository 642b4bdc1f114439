"""Micro-batches of a split, read as they are needed, here or in worker processes: what all formats of shards share.

What a micro-batch holds depends on nothing but seed, epoch and its samples' numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dualprune.stages.data.format import DataError, shards_folder
from dualprune.stages.data.make.index import allowed, read_index
from dualprune.stages.data.order import Indices, epoch_order, windowed_order
from dualprune.stages.data.read.members import Members
from dualprune.stages.objectives.base import Batch
from dualprune.stages.settings.data import Data

AHEAD = 2
"""Micro-batches that each worker has ready."""

_log = logging.getLogger(__name__)


class Reader(Protocol):
    """Batches of one split, whatever its format."""

    @property
    def bad(self) -> dict[int, str]:
        """The bad samples that were met, each with where it is and the reason. Ranks add others'."""

    @property
    def device(self) -> torch.device:
        """Where batches are."""

    def __len__(self) -> int: ...

    def order(self, epoch: int) -> Indices:
        """All samples in the order of an epoch."""

    def epoch(self, parts: Iterable[Indices], epoch: int) -> Iterator[Batch]:
        """Each micro-batch in turn, as training sees it."""

    def evaluation(self, parts: Iterable[Indices]) -> Iterator[Batch]:
        """The same without augmentation."""

    def tolerate(self) -> None:
        """Raise DataError if more samples are bad than the settings allow."""


class Job(NamedTuple):
    """A micro-batch to be read: of training in an epoch, or of evaluation."""

    indices: Indices
    epoch: int | None


class Jobs:
    """The micro-batches of a pass over a split; another pass has others."""

    following: Iterator[Job] = iter(())

    def __iter__(self) -> Iterator[Job]:
        return self.following


class HasError(Protocol):
    """What is read of a micro-batch, or why it can't be."""

    @property
    def error(self) -> Exception | None:
        """DataError or OSError."""


R = TypeVar("R", bound=HasError, covariant=True)


class Samples(Dataset[R]):
    """One split's samples by number, of the manifest of the folder `url`.

    Raises DataError at once for shards that are missing or cut short.
    """

    def __init__(self, url: str, manifest: Mapping[str, Any], split: str, settings: Data, seed: int) -> None:
        entry = manifest["splits"][split]
        self.settings, self.seed = settings, seed
        self.shards = entry["shards"]
        self.folder = shards_folder(url, manifest, split)
        self.index = read_index(url, entry)
        if np.any(np.diff(self.index[:, 0]) < 0):
            raise DataError(f"{url}/{entry['index']['file']} is not in the order of the shards")
        self.counts = np.bincount(self.index[:, 0], minlength=len(self.shards))
        self.members = Members(self.folder, self.shards, settings.cache)

    def __len__(self) -> int:
        return len(self.index)

    def where(self, sample: int) -> str:
        """A sample's shard and the name of its first member, for people."""
        shard, offset = self.index[sample, :2]
        name = self.members.name(int(shard), int(offset))
        return f"{self.folder.url}/{self.shards[shard]['file']}: {name}"


class Reading(Generic[R]):
    """The micro-batches of a split, read while the network trains."""

    def __init__(self, samples: Samples[R], device: torch.device, workers: int) -> None:
        self.shards, self.settings, self.seed, self.device = samples, samples.settings, samples.seed, device
        self.bad: dict[int, str] = {}
        """The bad samples that this rank has met, each with shard, key and reason."""
        self._jobs = Jobs()
        self._loader = self._workers(workers)

    def __len__(self) -> int:
        return self.settings.used(len(self.shards))

    def order(self, epoch: int) -> Indices:
        """All samples in the order of an epoch."""
        if not self.settings.window:
            return epoch_order(len(self), self.seed, epoch)
        order = windowed_order(self.shards.counts, self.settings.window, self.seed, epoch)
        return order[order < len(self)]

    def _workers(self, workers: int) -> DataLoader[R]:
        """What reads `_jobs`: its processes start with the first of them, and stay from epoch to epoch."""
        return DataLoader(
            self.shards,
            batch_size=None,
            sampler=cast("Iterable[Job]", self._jobs),
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=AHEAD if workers else None,
            collate_fn=_as_it_is,
            pin_memory=self.device.type == "cuda",
            # Its own generator: torch's seeds the workers, and would lose a number of the network's dropout to that.
            generator=torch.Generator(),
        )

    def _loaded(self, jobs: Iterator[Job]) -> Iterator[R]:
        """What is read of each job in turn. Raises its errors."""
        self._jobs.following = jobs
        for read in self._loader:
            if read.error is not None:
                raise read.error
            yield read

    def _note(self, bad: Mapping[int, str]) -> None:
        for sample, why in bad.items():
            if sample not in self.bad:
                self.bad[sample] = why
                _log.warning("%s: left out", why)
        self.tolerate()

    def tolerate(self) -> None:
        """Raise DataError if more samples of the split are bad than its settings allow."""
        if len(self.bad) > min(allowed(self.settings.bad, len(self)), len(self) - 1):
            last = next(reversed(self.bad.values()))
            share = f"{len(self.bad)} of {len(self)} samples are bad, more than data.bad ({self.settings.bad}) allows"
            raise DataError(f"{share}; the last: {last}")


def _as_it_is(read: Any) -> Any:
    return read  # torch would make tensors of arrays
