"""A network measured over a whole split: spread over the ranks, every sample counted exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from dualprune.stages.data.order import share
from dualprune.stages.data.read.reading import Reader
from dualprune.stages.objectives.base import Objective, StandIn


@dataclass(frozen=True)
class Score:
    """What a network does on a split."""

    values: dict[str, float]
    """By the objective's metrics."""
    samples: int
    """Those that could be read: bad ones are not counted."""


@torch.no_grad()
def evaluate(
    network: Callable[..., Any],
    objective: Objective,
    split: Reader,
    rank: int = 0,
    world: int = 1,
    size: int = 256,
) -> Score:
    """Score a network on all of a split, `size` samples at a time on each rank.

    All ranks run the same number of batches, as a sharded network needs; one that has run out of
    samples repeats the first without counting it.
    """
    own = share(np.arange(len(split)), rank, world)
    rounds = math.ceil(math.ceil(len(split) / world) / size)
    parts = [own[number * size : (number + 1) * size] for number in range(rounds)]
    first = np.zeros(1, dtype=np.int64)
    metrics = list(objective.metrics.values())
    totals = torch.zeros(1 + len(metrics), dtype=torch.float64, device=split.device)
    read = split.evaluation(part if len(part) else first for part in parts)
    for part, batch in zip(parts, read, strict=True):
        outputs = objective.call(network, batch)
        if len(part) and not isinstance(batch, StandIn):
            totals += torch.stack([objective.good(batch), *(one.sums(outputs, batch) for one in metrics)]).double()
    if world > 1:
        dist.all_reduce(totals)
    good, *sums = totals.tolist()
    values = (metric.value(total, int(good)) if good else math.nan for metric, total in zip(metrics, sums, strict=True))
    return Score(dict(zip(objective.metrics, values, strict=True)), int(good))
