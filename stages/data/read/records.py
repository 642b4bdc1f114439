"""Samples with any fields, as batches of tensors by name: from memory where all of a split fits there, else as needed.

Floating-point fields are fp32, whole numbers int64, and pictures normalised fp32 [n, c, h, w]. A padded field NAME has
a mask `NAME_mask`, bool [n, longest], True where it has values. A bad sample is in no batch; of a micro-batch in which
none is good, a copy of another sample stands in, and counts nowhere (`StandIn`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.data.fields import PICTURES, BadValue, Value, collated, read
from dualprune.stages.data.format import DataError, fits_memory, planned_manifest
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.decoding import BadPicture
from dualprune.stages.data.read.pictures import make, moved, plan, room, uniforms
from dualprune.stages.data.read.reading import Job, Reading, Samples
from dualprune.stages.files.folder import sha256
from dualprune.stages.objectives.base import Batch, StandIn
from dualprune.stages.settings.data import Data


class _Found(NamedTuple):
    """Good samples."""

    good: list[int]
    values: Mapping[str, Value] | Mapping[str, list[Value]] | Mapping[str, Value | list[Value]]
    """By field, in the order of `good`."""


class Kept(NamedTuple):
    """All values of a split."""

    fields: Mapping[str, Value | list[Value]]
    """By name and sample; stacked where all are of one shape. What stands for a bad sample means nothing."""
    bad: dict[int, str]

    def part(self, indices: Indices) -> tuple[_Found, dict[int, str]]:
        """Of these samples: the good ones, and why the others are bad."""
        good = [sample for sample in indices.tolist() if sample not in self.bad] if self.bad else indices.tolist()
        columns = {
            name: column[good] if isinstance(column, np.ndarray) else [column[sample] for sample in good]
            for name, column in self.fields.items()
        }
        return _Found(good, columns), {n: self.bad[n] for n in indices.tolist() if n in self.bad}


class Loaded(NamedTuple):
    """A micro-batch of good samples, or a sample that stands in for them, and why which samples are bad."""

    batch: dict[str, Tensor]
    bad: dict[int, str]
    stands_in: bool = False
    error: Exception | None = None


class Records(Samples[Loaded]):
    """One split's samples by number. Raises DataError as `Samples`."""

    def __init__(
        self, url: str, manifest: Mapping[str, Any], split: str, settings: Data, seed: int, kept: Kept | None = None
    ) -> None:
        super().__init__(url, manifest, split, settings, seed)
        self.fields: dict[str, dict[str, Any]] = dict(sorted(manifest["splits"][split]["fields"].items()))
        self.kept = kept

    def __getitem__(self, job: Job) -> Loaded:
        """Read a micro-batch. Errors come back as values, because a worker's would lose their words on the way."""
        try:
            return self.load(job)
        except (DataError, OSError) as error:
            return Loaded({}, {}, error=error)

    def load(self, job: Job) -> Loaded:
        """Read and decode a micro-batch, its pictures uint8. Raises DataError and OSError."""
        found, bad = self._values(job.indices, job.epoch)
        stands_in = not found.good
        if stands_in:
            found, worse = self._another(job)
            bad = bad | worse
        batch: dict[str, Value] = {}
        for name, entry in self.fields.items():
            batch |= collated(name, entry, found.values[name])
            if entry["kind"] in PICTURES and "shape" in entry and job.epoch is not None:
                batch[name] = moved(batch[name], self.settings, self.seed, job.epoch, np.array(found.good))
        return Loaded({name: self._tensor(name, values) for name, values in batch.items()}, bad, stands_in)

    def _another(self, job: Job) -> tuple[_Found, dict[int, str]]:
        """The first good sample after a job's, and the bad ones before it. Raises DataError if there is none."""
        first, bad = int(job.indices[-1]) + 1 if len(job.indices) else 0, dict[int, str]()
        for beyond in range(len(self)):
            found, worse = self._values(np.array([(first + beyond) % len(self)]), job.epoch)
            bad |= worse
            if found.good:
                return found, bad
        raise DataError(f"{self.folder.url}: none of {len(self)} samples is good; the last: {list(bad.values())[-1]}")

    def _values(self, indices: Indices, epoch: int | None) -> tuple[_Found, dict[int, str]]:
        """Of samples: the good ones, their values by field, and why the others are bad."""
        if self.kept is not None:
            return self.kept.part(indices)
        random = uniforms(self.seed, epoch, indices) if epoch is not None else None
        good, bad = dict[int, list[Value]](), dict[int, str]()
        for place, sample in enumerate(indices.tolist()):
            try:
                good[place] = self._sample(sample, None if random is None else random[place])
            except BadValue as error:
                bad[sample] = f"{self.where(sample)}: {error}"
        columns = {name: [values[n] for values in good.values()] for n, name in enumerate(self.fields)}
        return _Found(indices[list(good)].tolist(), columns), bad

    def _sample(self, sample: int, random: NDArray[np.float64] | None) -> list[Value]:
        """A sample's values, in the order of the fields. Raises BadValue, DataError and OSError."""
        shard, *places = self.index[sample].tolist()
        found = []
        for n, (name, entry) in enumerate(self.fields.items()):
            data = self.members.read(shard, *places[2 * n : 2 * n + 2])
            try:
                found.append(read(entry, data) if "shape" in entry else self._shown(data, random))
            except (BadValue, BadPicture) as error:
                raise BadValue(f"{name}: {error}") from None
        return found

    def _shown(self, data: bytes, random: NDArray[np.float64] | None) -> Value:
        """A picture as the network sees it. Raises BadPicture."""
        place = room(1, self.settings.crop)
        make(plan(data, self.settings, random), self.settings, place)
        pixels: Value = place.numpy()[0]
        return pixels

    def _tensor(self, name: str, values: Value) -> Tensor:
        """Floating point as fp32 and whole numbers as int64; pictures and what is true or false as they are."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        if tensor.is_floating_point():
            return tensor.float()
        picture = name in self.fields and self.fields[name]["kind"] in PICTURES
        return tensor if picture or tensor.dtype == torch.bool else tensor.long()


class RecordStream(Reading[Loaded]):
    """Batches of one split with any fields, on one device, read while the network trains."""

    def __init__(self, records: Records, device: torch.device) -> None:
        super().__init__(records, device, 0 if records.kept is not None else records.settings.workers)
        self._pictures = [name for name, entry in records.fields.items() if entry["kind"] in PICTURES]
        settings = records.settings
        self._mean, self._std = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (settings.mean, settings.std))

    def epoch(self, parts: Iterable[Indices], epoch: int) -> Iterator[Batch]:
        """Each micro-batch in turn; pictures augmented as the settings say, all else as it is."""
        return self._read(Job(part, epoch) for part in parts)

    def evaluation(self, parts: Iterable[Indices]) -> Iterator[Batch]:
        """The same without augmentation."""
        return self._read(Job(part, None) for part in parts)

    def _read(self, jobs: Iterator[Job]) -> Iterator[Batch]:
        for loaded in self._loaded(jobs):
            self._note(loaded.bad)
            batch = {name: values.to(self.device, non_blocking=True) for name, values in loaded.batch.items()}
            for name in self._pictures:
                batch[name] = batch[name].float().div_(255).sub_(self._mean).div_(self._std)
            yield StandIn(batch) if loaded.stands_in else batch


@lru_cache(maxsize=8)
def load_records(url: str, split: str, digest: str) -> Kept | None:
    """All of a split, read once per process: a warm worker keeps it from stage to stage. None if it does not fit.

    Raises DataError.
    """
    manifest = planned_manifest(url, digest)
    entry = manifest["splits"][split]
    if not fits_memory(entry):
        return None
    samples = Samples[Loaded](url, manifest, split, Data(shards=url), 0)
    fields = dict(sorted(entry["fields"].items()))
    columns: dict[str, list[Value]] = {name: [] for name in fields}
    bad: dict[int, str] = {}
    for number, shard in enumerate(samples.shards):
        data = samples.folder.read(shard["file"])
        if sha256(data) != shard["sha256"]:
            raise DataError(f"{samples.folder.url}/{shard['file']} is not what the manifest says: its sha256 differs")
        for sample in np.flatnonzero(samples.index[:, 0] == number).tolist():
            for n, (name, field) in enumerate(fields.items()):
                offset, size = samples.index[sample, 1 + 2 * n : 3 + 2 * n].tolist()
                try:
                    columns[name].append(read(field, data[offset : offset + size]))
                except BadValue as error:
                    columns[name].append(_blank(field))
                    bad.setdefault(sample, f"{samples.where(sample)}: {name}: {error}")
    return Kept({name: np.stack(c) if "longest" not in fields[name] else c for name, c in columns.items()}, bad)


def _blank(field: Mapping[str, Any]) -> Value:
    return np.zeros([1] * ("longest" in field) + field["shape"], dtype=field["dtype"])
