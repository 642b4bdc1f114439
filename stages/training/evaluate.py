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
    samples: int | None = None,
) -> Score:
    """Score a network on all of a split, or its first `samples`, `size` samples at a time on each rank.

    All ranks run the same number of batches, as a sharded network needs; one that has run out of
    samples repeats the first without counting it.
    """
    count = len(split) if samples is None else min(samples, len(split))
    own = share(np.arange(count), rank, world)
    rounds = math.ceil(math.ceil(count / world) / size)
    parts = [own[number * size : (number + 1) * size] for number in range(rounds)]
    first = np.zeros(1, dtype=np.int64)
    metrics = list(objective.metrics.values())
    totals: list[torch.Tensor] = []
    read = split.evaluation(part if len(part) else first for part in parts)
    for part, batch in zip(parts, read, strict=True):
        outputs = objective.call(network, batch)
        if len(part) or not totals:
            sums = [sums.double() for sums in (objective.good(batch), *(one.sums(outputs, batch) for one in metrics))]
            totals = totals or [torch.zeros_like(one) for one in sums]
            if len(part) and not isinstance(batch, StandIn):
                totals = [total + one for total, one in zip(totals, sums, strict=True)]
    if not totals:
        return Score(dict.fromkeys(objective.metrics, math.nan), 0)
    good, *whole = _over_ranks(totals, world)
    values = (one.value(total, int(good)) if good else math.nan for one, total in zip(metrics, whole, strict=True))
    return Score(dict(zip(objective.metrics, values, strict=True)), int(good))


def _over_ranks(totals: list[torch.Tensor], world: int) -> list[Any]:
    """Sums over all ranks, in one message; those of no dimension as numbers, others in the host's memory."""
    flat = torch.cat([total.reshape(-1) for total in totals])
    if world > 1:
        dist.all_reduce(flat)
    parts = flat.cpu().split([total.numel() for total in totals])
    return [part.view(total.shape) if total.ndim else float(part) for part, total in zip(parts, totals, strict=True)]
