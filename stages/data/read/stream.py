"""Encoded pictures of any size, read from shards as they are needed: ImageNet-sized splits in little memory.

A micro-batch is decoded as a whole, here or in worker processes, from the samples' numbers alone: what it holds
depends on nothing but seed, epoch and these. Bad samples are counted and reported, and stand aside (`IGNORED`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dualprune.stages.data.format import DataError, shards_folder
from dualprune.stages.data.make.index import allowed, read_index
from dualprune.stages.data.order import Indices, epoch_order, windowed_order
from dualprune.stages.data.read.decoding import BadPicture
from dualprune.stages.data.read.device import Decoder, Jpeg, Jpegs, packed, suits
from dualprune.stages.data.read.members import Members
from dualprune.stages.data.read.pictures import (
    augmented,
    central_crop,
    flipped,
    random_crop,
    shifted_crop,
    training_crop,
    uniforms,
)
from dualprune.stages.objectives.classify import IGNORED
from dualprune.stages.settings.data import Data

AHEAD = 2
"""Micro-batches that each worker has ready."""

_log = logging.getLogger(__name__)


class Job(NamedTuple):
    """A micro-batch to be read: of training in an epoch, or of evaluation."""

    indices: Indices
    epoch: int | None


class Jobs:
    """The micro-batches of a pass over a split; another pass has others."""

    following: Iterator[Job] = iter(())

    def __iter__(self) -> Iterator[Job]:
        return self.following


class Loaded(NamedTuple):
    """A micro-batch: pictures of values 0 to 255 [n, crop, crop, 3], labels, and why which samples are bad."""

    pictures: Tensor
    labels: Tensor
    bad: dict[int, str]
    error: Exception | None = None


class Encoded(NamedTuple):
    """A micro-batch of which some pictures are still to be decoded on the device."""

    job: Job
    jpegs: Jpegs
    rest: Loaded
    """The others, in their order."""
    error: None = None


class Shards(Dataset[Loaded | Encoded]):
    """One split's samples by number, of the manifest of the folder `url`.

    Raises DataError at once for shards that are missing or cut short.
    """

    def __init__(
        self, url: str, manifest: Mapping[str, Any], split: str, settings: Data, seed: int, classes: int
    ) -> None:
        entry = manifest["splits"][split]
        self.settings, self.seed, self.classes = settings, seed, classes
        self.shards = entry["shards"]
        self.folder = shards_folder(url, manifest, split)
        self.index = read_index(url, entry)
        if np.any(np.diff(self.index[:, 0]) < 0):
            raise DataError(f"{url}/{entry['index']['file']} is not in the order of the shards")
        self.counts = np.bincount(self.index[:, 0], minlength=len(self.shards))
        self.members = Members(self.folder, self.shards, settings.cache)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, job: Job) -> Loaded | Encoded:
        """Read a micro-batch. Errors come back as values, because a worker's would lose their words on the way."""
        try:
            on_device = self.settings.decode == "device" and job.epoch is not None
            return self._encoded(job) if on_device else self.load(job)
        except (DataError, OSError) as error:
            return Loaded(torch.empty(0), torch.empty(0), {}, error)

    def where(self, sample: int) -> str:
        """A sample's shard and key, for people."""
        shard, offset, _, _ = self.index[sample]
        name = self.members.name(int(shard), int(offset))
        return f"{self.folder.url}/{self.shards[shard]['file']}: {name}"

    def load(self, job: Job) -> Loaded:
        """Read and decode a micro-batch, its pictures uint8. Raises DataError and OSError."""
        side, labels = self.settings.crop, self.index[job.indices, 3]
        pictures = np.zeros((len(labels), side, side, 3), dtype=np.uint8)
        random = uniforms(self.seed, job.epoch, job.indices) if job.epoch is not None else [None] * len(labels)
        bad: dict[int, str] = {}
        for place, (sample, numbers) in enumerate(zip(job.indices, random, strict=True)):
            try:
                pictures[place] = self._picture(int(sample), numbers).transpose(1, 2, 0)
            except BadPicture as error:
                bad[int(sample)] = f"{self.where(int(sample))}: {error}"
        labels = np.where(np.isin(job.indices, list(bad)), IGNORED, labels)
        return _aside(Loaded(torch.from_numpy(pictures), torch.from_numpy(labels), bad))

    def _encoded(self, job: Job) -> Encoded:
        assert job.epoch is not None
        random = uniforms(self.seed, job.epoch, job.indices)
        found = [self._jpeg(place, int(job.indices[place]), numbers) for place, numbers in enumerate(random)]
        others = job.indices[[jpeg is None for jpeg in found]]
        return Encoded(job, packed([jpeg for jpeg in found if jpeg is not None]), self.load(Job(others, job.epoch)))

    def _jpeg(self, place: int, sample: int, random: NDArray[np.float64]) -> Jpeg | None:
        """A sample as a device decodes it; None if that is not for a device, or bad."""
        wanted = self.settings
        try:
            data = self._bytes(sample)
            header, box = training_crop(data, wanted.scale, wanted.ratio, random, wanted.max_pixels)
        except BadPicture:
            return None  # `load` says why
        if not suits(header, box, wanted.crop):
            return None
        return Jpeg(place, data, header, box, wanted.flip and flipped(random))

    def _picture(self, sample: int, random: NDArray[np.float64] | None) -> NDArray[np.uint8]:
        data, wanted = self._bytes(sample), self.settings
        if random is None:
            return central_crop(data, wanted.resize, wanted.crop, wanted.max_pixels)
        if wanted.shift:
            shape = (wanted.resize, wanted.crop, wanted.shift)
            picture = shifted_crop(data, *shape, wanted.flip, random, wanted.max_pixels)
        else:
            picture = random_crop(data, wanted.crop, wanted.scale, wanted.ratio, wanted.flip, random, wanted.max_pixels)
        return picture if wanted.randaugment is None else augmented(picture, wanted.randaugment, random)

    def _bytes(self, sample: int) -> bytes:
        """An encoded picture. Raises BadPicture for one whose label makes no sense."""
        shard, offset, size, label = (int(value) for value in self.index[sample])
        if not 0 <= label < self.classes:
            raise BadPicture(f"its label is {label}, of a network of {self.classes} classes")
        return self.members.read(shard, offset, size)


def _aside(loaded: Loaded) -> Loaded:
    """The same with a copy of a good sample in the place of each bad one, if there is a good one."""
    lost = loaded.labels == IGNORED
    if lost.any() and not lost.all():
        loaded.pictures[lost] = loaded.pictures[int(torch.argmin(lost.byte()))].clone()
    return loaded


def _as_it_is(read: Any) -> Any:
    return read  # torch would make tensors of arrays


class Stream:
    """Batches of one split as its settings describe them, on one device, read while the network trains."""

    def __init__(self, shards: Shards, device: torch.device) -> None:
        settings = shards.settings
        self.shards, self.settings, self.seed, self.device = shards, settings, shards.seed, device
        values = (torch.tensor(value, device=device).expand(3) for value in (settings.mean, settings.std))
        mean, std = (value.repeat(settings.crop) for value in values)  # of a row of interleaved pixels
        self.factor, self.offset = 1 / (255 * std), -mean / std
        self.bad: dict[int, str] = {}
        """The bad samples that this rank has met, each with shard, key and reason."""
        self._jobs = Jobs()
        self._loader = self._workers()

    def __len__(self) -> int:
        return self.settings.used(len(self.shards))

    def order(self, epoch: int) -> Indices:
        """All samples in the order of an epoch."""
        if not self.settings.window:
            return epoch_order(len(self), self.seed, epoch)
        order = windowed_order(self.shards.counts, self.settings.window, self.seed, epoch)
        return order[order < len(self)]

    def epoch(self, parts: Iterable[Indices], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented pictures, fp32 [n, 3, crop, crop] in channels_last order, and labels, int64 [n], of each
        micro-batch in turn."""
        return self._read(Job(part, epoch) for part in parts)

    def evaluation(self, parts: Iterable[Indices]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same without augmentation."""
        return self._read(Job(part, None) for part in parts)

    def _workers(self) -> DataLoader[Loaded | Encoded]:
        """What reads `_jobs`: its processes start with the first of them, and stay from epoch to epoch."""
        workers = self.settings.workers
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

    def _read(self, jobs: Iterator[Job]) -> Iterator[tuple[Tensor, Tensor]]:
        self._jobs.following = jobs
        for read in self._loader:
            if read.error is not None:
                raise read.error
            loaded = self._decoded(read) if isinstance(read, Encoded) else read
            self._note(loaded.bad)
            x, y = (values.to(self.device, non_blocking=True) for values in (loaded.pictures, loaded.labels))
            # By whole rows, and in place: on a processor it takes half the time.
            x = x.flatten(2).float()
            torch.addcmul(self.offset, x, self.factor, out=x)
            yield x.unflatten(2, (-1, 3)).permute(0, 3, 1, 2), y

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.device)

    def _decoded(self, read: Encoded) -> Loaded:
        """All of a micro-batch, its pictures fp32 and on the device. What could not be decoded there is read anew."""
        indices, places = read.job.indices, read.jpegs.places
        crops, good = self._decoder.crops(read.jpegs, self.settings.crop)
        again = self.shards.load(Job(indices[places[~good]], read.job.epoch))
        pictures = crops.new_zeros(len(indices), *crops.shape[1:])
        labels = torch.from_numpy(self.shards.index[indices, 3])
        pictures[places] = crops
        for at, loaded in ((np.setdiff1d(np.arange(len(indices)), places), read.rest), (places[~good], again)):
            pictures[at] = loaded.pictures.to(pictures)
            labels[at] = loaded.labels
        return _aside(Loaded(pictures, labels, read.rest.bad | again.bad))

    def _note(self, bad: dict[int, str]) -> None:
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
