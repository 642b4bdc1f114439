"""What a network is called with to be measured: samples of its artefact's own data, or noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dualprune.stages.artefacts.artefact import Artefact
from dualprune.stages.data.format import DataError, digest, read_manifest
from dualprune.stages.data.read.memory import open_split
from dualprune.stages.export.calls import Call, Plain, leaves, recorded
from dualprune.stages.files.folder import Folder
from dualprune.stages.kinds.table import parse
from dualprune.stages.objectives.fields import channels_last
from dualprune.stages.objectives.table import objective

FEW = 8
"""Samples that are read, or drawn."""

Inputs = tuple[Tensor, ...]
"""What a network is called with, in order; samples along the first axis of each."""


def batched(inputs: Inputs, batch: int) -> Inputs:
    """So many samples: the first ones, and these again where there are fewer.

    Pictures lie as objectives call networks with them, channels last.
    """
    samples = len(inputs[0])
    chosen = torch.arange(batch) % samples
    return tuple(channels_last(one[chosen]) if len(one) == samples else one for one in inputs)


def noise(shape: tuple[int, ...], samples: int = FEW) -> Inputs:
    """Normal noise of a shape without the axis of samples, always the same."""
    return (torch.randn(samples, *shape, generator=torch.Generator().manual_seed(0)),)


@torch.no_grad()
def plain(network: nn.Module, inputs: Inputs) -> Plain:
    """A network that takes these tensors in their order, as exports have it. It is run once."""
    places = [(0, number) for number in range(len(inputs))]
    taken = [path for path, _ in leaves(network(*inputs))]
    return Plain(network, ((None,) * len(inputs), {}), places, taken).eval()


def call_of(artefact: Artefact, network: nn.Module, shards: str, samples: int = FEW) -> Call:
    """How an artefact's objective calls its network, with the first samples of `val`.

    Raises DataError for shards that can't be read or don't suit it, and stages.export.errors.NotExported.
    """
    spec = parse(artefact.manifest["spec"])
    there = digest(read_manifest(shards))
    split = open_split(shards, "val", there, spec.data, 0, torch.device("cpu"), spec.model.classes)
    (batch,) = split.evaluation([np.arange(min(samples, len(split)))])
    return recorded(network, objective(spec), batch)


def shards_of(artefact: Artefact, store: Folder) -> str:
    """Where the data is that an artefact was made with: where its settings say, or in its store.

    Raises DataError where there is none, or other data by now.
    """
    wanted, given = artefact.manifest["data"], artefact.manifest["spec"]["data"].get("shards")
    places = [given] if given else [f"{store.url}/data/{name}" for name in store.names("data")]
    problems = []
    for place in places:
        try:
            if digest(read_manifest(place)) == wanted:
                return str(place)
        except DataError as error:
            problems.append(str(error))
    known = f" ({'; '.join(problems)})" if problems else ""
    raise DataError(f"the data that it was made with is not at {given or f'{store.url}/data'}{known}")
