"""Networks to be looked into, from their artefacts and the data that they were made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from dualprune.stages.artefacts import artefact
from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.order import Indices
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.export.inputs import shards_of
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.objectives.base import Batch, Objective, StandIn
from dualprune.stages.objectives.table import objective
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.outputs import Reading, reading
from dualprune.stages.settings.data import Data

CHUNK = 16
"""Samples that are computed together, at most."""


class Part(NamedTuple):
    """Some samples of a split."""

    numbers: Indices
    batch: Batch


@dataclass(frozen=True)
class Subject:
    """A network, and the samples that it is shown."""

    name: str
    key: str
    network: nn.Module
    objective: Objective
    reading: Reading
    split: Reader
    data: str
    """The digest of what `split` is of: subjects of other data are not compared."""
    settings: Data
    chunk: int = CHUNK
    classes: tuple[str, ...] = ()
    """Names of the classes, where the data has them."""

    def parts(self, numbers: Sequence[int]) -> Iterator[Part]:
        """The good ones of these samples, in order, a few at a time."""
        chunks = [np.asarray(numbers[n : n + self.chunk], dtype=np.int64) for n in range(0, len(numbers), self.chunk)]
        for chunk, batch in zip(chunks, self.split.evaluation(chunks), strict=True):
            good = np.array([number not in self.split.bad for number in chunk.tolist()])
            if isinstance(batch, StandIn) or not good.any():
                continue
            # Some readers leave bad samples out, others put something in their place.
            whole = len(next(iter(batch.values()))) == len(chunk)
            places = torch.from_numpy(good)
            yield Part(chunk[good], {n: one[places] for n, one in batch.items()} if whole else batch)


def subject(store: Folder, key: str, name: str, split: str, data: str | None = None) -> Subject:
    """The artefact `key` of a store, with a split of its own data, or of the shards `data`.

    Raises NotShown, FileNotFoundError and stages.artefacts.manifest.Damaged; SpecError for a network whose code has
    changed.
    """
    loaded = artefact.load(store / key)
    spec = parse(loaded.manifest["spec"])
    how = reading(spec.objective)
    network = artefact.network(loaded).requires_grad_(False)  # maps are of inputs: weights need none
    try:
        shards = data or shards_of(loaded, store)
        manifest = read_manifest(shards)
        there = digest(manifest)
        opened = open_split(shards, split, there, spec.data, 0, torch.device("cpu"), spec.model.classes)
    except DataError as error:
        raise NotShown(f"{error}; say where it is (--data)") from error
    names = tuple(map(str, manifest.get("classes") or ()))
    chunk = min(CHUNK, spec.batch)
    return Subject(name, key, network, objective(spec), how, opened, there, spec.data, chunk, names)
