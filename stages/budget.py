"""One budget of weights over many tensors: the exact global threshold, found by counting.

Magnitudes of fp32 numbers sort like their bits, so two passes over the tensors find the bits of the
threshold: a histogram of the upper sixteen, then one of the lower sixteen among those that share the
upper ones of the threshold. Each pass holds one tensor at a time and 65,536 counters, however many
tensors there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from stages.constraints.select import largest

BINS = 1 << 16


@dataclass(frozen=True)
class Budget:
    """At most `total` entries of all `names` together are not zero, and at least `floor` of each may stay.

    With `scale` = `rms`, magnitudes are divided by their tensor's root mean square first: the projection is
    then nearest in that scaled distance.
    """

    names: tuple[str, ...]
    total: int
    floor: int
    scale: str


@dataclass(frozen=True)
class Allocation:
    """How many entries each tensor keeps, and the most memory that finding out took on this rank, in bytes."""

    kept: dict[str, int]
    peak_bytes: int


def allocate(budget: Budget, value: Callable[[str], Tensor]) -> Allocation:
    """Share out a budget over the tensors that `value` gives by name. Equal magnitudes: earlier tensors first.

    `value` may be a collective that all ranks call in the same order; every rank finds the same numbers.
    """
    kept: dict[str, int] = {}
    peak = 0

    def magnitudes(name: str) -> Tensor:
        """Bits of the magnitudes that compete: all but each tensor's `floor` largest. int64, sorted as they are."""
        nonlocal peak
        w = value(name).detach().flatten().float().abs()
        mask = largest(w, budget.floor)
        kept[name] = int(mask.sum())
        if budget.scale == "rms":
            w = w / w.double().square().mean().sqrt().clamp(min=1e-30).float()
        bits = w[~mask].contiguous().view(torch.int32).long()
        peak = max(peak, w.nbytes + mask.nbytes + bits.nbytes * 2 + 2 * BINS * 8)
        return bits

    upper = torch.zeros(BINS, dtype=torch.int64)
    for name in budget.names:
        upper += torch.bincount(magnitudes(name) >> 16, minlength=BINS).cpu()
    left = budget.total - sum(kept.values())
    high, left = _from_the_top(upper, left)
    lower = torch.zeros(BINS, dtype=torch.int64)
    for name in budget.names:
        bits = magnitudes(name)
        lower += torch.bincount(bits[bits >> 16 == high] & (BINS - 1), minlength=BINS).cpu()
    low, ties = _from_the_top(lower, left)
    threshold = (high << 16) + low
    for name in budget.names:
        bits = magnitudes(name)
        equal = min(int((bits == threshold).sum()), ties)
        ties -= equal
        kept[name] += int((bits > threshold).sum()) + equal
    return Allocation(dict(kept), peak)


def _from_the_top(histogram: Tensor, wanted: int) -> tuple[int, int]:
    """The bin in which the wanted-th largest lies, and how many of that bin are wanted."""
    if wanted <= 0:
        return BINS - 1, 0
    above = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, wanted))
    if place >= BINS:
        return 0, int(histogram[0])
    number = BINS - 1 - place
    return number, wanted - (int(above[place - 1]) if place else 0)
