"""Accuracy over a whole split: spread over the ranks, every sample counted exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from dualprune.stages.data.order import share
from dualprune.stages.data.read.memory import Batches
from dualprune.stages.data.read.stream import IGNORED, Stream


@dataclass(frozen=True)
class Score:
    """What a network does on a split."""

    correct: int
    samples: int
    """Those that could be read: bad ones are not counted."""
    loss: float

    @property
    def accuracy(self) -> float:
        """Top-1, in percent."""
        return 100 * self.correct / self.samples


@torch.no_grad()
def evaluate(
    forward: Callable[[Tensor], Tensor], batches: Batches | Stream, rank: int = 0, world: int = 1, size: int = 256
) -> Score:
    """Score `forward` (pictures to logits) on all of `batches`, `size` samples at a time on each rank.

    All ranks run the same number of batches, as a sharded network needs; one that has run out of
    samples repeats the first without counting it.
    """
    own = share(np.arange(len(batches)), rank, world)
    rounds = math.ceil(math.ceil(len(batches) / world) / size)
    parts = [own[number * size : (number + 1) * size] for number in range(rounds)]
    first = np.zeros(1, dtype=np.int64)
    correct, lost, loss = 0, 0, 0.0
    for part, (pictures, labels) in zip(
        parts, batches.evaluation(part if len(part) else first for part in parts), strict=True
    ):
        logits = forward(pictures)
        if len(part):
            correct += int((logits.argmax(1) == labels).sum())
            lost += int((labels == IGNORED).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED))
    if world > 1:
        totals = torch.tensor([correct, lost, loss], dtype=torch.float64, device=batches.device)
        dist.all_reduce(totals)
        correct, lost, loss = int(totals[0]), int(totals[1]), float(totals[2])
    counted = len(batches) - lost
    return Score(correct, counted, loss / counted)
