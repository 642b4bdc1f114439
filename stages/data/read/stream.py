"""Encoded pictures of any size, read from shards as they are needed: ImageNet-sized splits in little memory.

A micro-batch is decoded as a whole, here or in worker processes, from the samples' numbers alone: what it holds
depends on nothing but seed, epoch and these. Bad samples are counted and reported, and stand aside (`IGNORED`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.data.format import DataError
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.decoding import BadPicture
from dualprune.stages.data.read.device import Decoder, Jpeg, Jpegs, packed, suits
from dualprune.stages.data.read.pictures import Planned, flipped, make, plan, room, training_crop, uniforms
from dualprune.stages.data.read.reading import Job, Reading, Samples
from dualprune.stages.objectives.base import Batch
from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.settings.data import Data

TOGETHER = 16
"""Pictures that are looked at one after another, and then made so: Python's code takes less time while a processor's
caches still hold it, which they don't after a picture was decoded."""


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


class Shards(Samples[Loaded | Encoded]):
    """One split's encoded pictures by number, for a network of so many `classes`. Raises DataError as `Samples`."""

    def __init__(
        self, url: str, manifest: Mapping[str, Any], split: str, settings: Data, seed: int, classes: int
    ) -> None:
        super().__init__(url, manifest, split, settings, seed)
        self.classes = classes

    def __getitem__(self, job: Job) -> Loaded | Encoded:
        """Read a micro-batch. Errors come back as values, because a worker's would lose their words on the way."""
        try:
            on_device = self.settings.decode == "device" and job.epoch is not None
            return self._encoded(job) if on_device else self.load(job)
        except (DataError, OSError) as error:
            return Loaded(torch.empty(0), torch.empty(0), {}, error)

    def load(self, job: Job) -> Loaded:
        """Read and decode a micro-batch, its pictures uint8. Raises DataError and OSError."""
        labels, pictures = self.index[job.indices, 3], room(len(job.indices), self.settings.crop)
        random = list(uniforms(self.seed, job.epoch, job.indices)) if job.epoch is not None else [None] * len(labels)
        places = pictures.split(1)[: len(labels)]  # which makes one part of none
        wanted = list(zip(job.indices.tolist(), random, places, strict=True))
        errors: dict[int, BadPicture] = {}
        for first in range(0, len(wanted), TOGETHER):
            self._make(dict(enumerate(wanted[first : first + TOGETHER], first)), errors)
        bad = {wanted[place][0]: f"{self.where(wanted[place][0])}: {errors[place]}" for place in sorted(errors)}
        pictures[list(errors)] = 0
        labels[list(errors)] = IGNORED
        return _aside(Loaded(pictures.permute(0, 2, 3, 1), torch.from_numpy(labels), bad))

    def _make(
        self, wanted: Mapping[int, tuple[int, NDArray[np.float64] | None, Tensor]], errors: dict[int, BadPicture]
    ) -> None:
        """Make pictures of samples and random numbers in their places, or add to `errors`, both by their numbers."""
        planned: dict[int, Planned] = {}
        for number, (sample, random, _) in wanted.items():
            try:
                planned[number] = plan(self._bytes(sample), self.settings, random)
            except BadPicture as error:
                errors[number] = error
        for number, each in planned.items():
            try:
                make(each, self.settings, wanted[number][2])
            except BadPicture as error:
                errors[number] = error

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

    def _bytes(self, sample: int) -> bytes:
        """An encoded picture. Raises BadPicture for one whose label makes no sense."""
        shard, offset, size, label = self.index[sample].tolist()
        if not 0 <= label < self.classes:
            raise BadPicture(f"its label is {label}, of a network of {self.classes} classes")
        return self.members.read(shard, offset, size)


def _aside(loaded: Loaded) -> Loaded:
    """The same with a copy of a good sample in the place of each bad one, if there is a good one."""
    lost = loaded.labels == IGNORED
    if lost.any() and not lost.all():
        loaded.pictures[lost] = loaded.pictures[int(torch.argmin(lost.byte()))].clone()
    return loaded


class Stream(Reading[Loaded | Encoded]):
    """Batches of one split as its settings describe them, on one device, read while the network trains."""

    def __init__(self, shards: Shards, device: torch.device) -> None:
        settings = shards.settings
        super().__init__(shards, device, settings.workers)
        self.pictures = shards
        values = (torch.tensor(value, device=device).expand(3) for value in (settings.mean, settings.std))
        mean, std = (value.repeat(settings.crop) for value in values)  # of a row of interleaved pixels
        self.factor, self.offset = 1 / (255 * std), -mean / std

    def epoch(self, parts: Iterable[Indices], epoch: int) -> Iterator[Batch]:
        """Augmented pictures (`image`, fp32 [n, 3, crop, crop] in channels_last order) and labels (`label`, int64 [n])
        of each micro-batch in turn."""
        return self._read(Job(part, epoch) for part in parts)

    def evaluation(self, parts: Iterable[Indices]) -> Iterator[Batch]:
        """The same without augmentation."""
        return self._read(Job(part, None) for part in parts)

    def _read(self, jobs: Iterator[Job]) -> Iterator[Batch]:
        for read in self._loaded(jobs):
            loaded = self._decoded(read) if isinstance(read, Encoded) else read
            self._note(loaded.bad)
            x, y = (values.to(self.device, non_blocking=True) for values in (loaded.pictures, loaded.labels))
            yield {"image": self._normalised(x).permute(0, 3, 1, 2), "label": y}

    def _normalised(self, pictures: Tensor) -> Tensor:
        """Pictures [n, crop, crop, 3] of values 0 to 255 as fp32, normalised."""
        rows = pictures.flatten(2)  # whole ones, for which a processor takes half the time
        made = torch.empty(rows.shape, device=self.device)
        # A processor has one picture at a time, which is still in its cache when it comes to it again.
        at_once = 1 if self.device.type == "cpu" else max(1, len(rows))
        for some, to in zip(rows.split(at_once), made.split(at_once), strict=True):
            torch.addcmul(self.offset, to.copy_(some), self.factor, out=to)
        return made.view(pictures.shape)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.device)

    def _decoded(self, read: Encoded) -> Loaded:
        """All of a micro-batch, its pictures fp32 and on the device. What could not be decoded there is read anew."""
        indices, places = read.job.indices, read.jpegs.places
        crops, good = self._decoder.crops(read.jpegs, self.settings.crop)
        again = self.pictures.load(Job(indices[places[~good]], read.job.epoch))
        pictures = crops.new_zeros(len(indices), *crops.shape[1:])
        labels = torch.from_numpy(self.pictures.index[indices, 3])
        pictures[places] = crops
        for at, loaded in ((np.setdiff1d(np.arange(len(indices)), places), read.rest), (places[~good], again)):
            pictures[at] = loaded.pictures.to(pictures)
            labels[at] = loaded.labels
        return _aside(Loaded(pictures, labels, read.rest.bad | again.bad))
