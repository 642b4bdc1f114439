"""One budget of weights over many tensors: the exact global threshold, found by counting.

Magnitudes of fp32 numbers sort like their bits, so two passes over the tensors find the bits of the
threshold: a histogram of the upper sixteen, then one of the lower sixteen among those that share the
upper ones of the threshold. A third counts what each tensor has above it. Each pass holds one tensor at
a time and 65,536 counters, however many tensors there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dualprune.stages.constraints.select import pieces, refuse_nan

BINS = 1 << 16
COUNTER_BYTES = 8 * BINS * 8
"""Of the two histograms, and of those that are being added to them."""
PIECE_BYTES = 32
"""Temporary memory for each entry of a piece: magnitudes, bits, comparisons, places."""


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
    """How many entries each tensor keeps, and the memory that computing it took."""

    kept: dict[str, int]
    peak_bytes: int
    """The most memory that this rank needed at a time: an upper bound, computed from what is allocated. It is one
    tensor, what is made of a piece of it and the counters; what gathering the tensor takes is not in it."""


def allocate(budget: Budget, value: Callable[[str], Tensor]) -> Allocation:
    """Divide a budget among the tensors that `value` gives by name. Equal magnitudes: earlier tensors first.

    `value` may be a collective that all ranks call in the same order; every rank finds the same numbers.
    """
    counter = _Counter(value, budget.scale)
    threshold, ties = _threshold(budget, counter)
    kept = {}
    for name in budget.names:
        either = counter.count(name, lambda bits: torch.stack([(bits == threshold).sum(), (bits > threshold).sum()]))
        equal, above = _without_top(either, budget.floor).tolist()
        equal = min(equal, ties)
        ties -= equal
        kept[name] = min(budget.floor, counter.sizes[name]) + above + equal
    return Allocation(kept, counter.peak_bytes)


def _threshold(budget: Budget, counter: _Counter) -> tuple[int, int]:
    """The bits of the least magnitude that is kept beyond the tensors' floors, and how many that are equal to it are.

    In two passes: the upper sixteen bits, then the lower ones of those that share the threshold's upper ones.
    """
    upper = torch.zeros(BINS, dtype=torch.int64)
    for name in budget.names:
        found = counter.count(name, lambda bits: torch.bincount(bits >> 16, minlength=BINS))
        upper += _without_top(found, budget.floor)
    floors = sum(min(budget.floor, size) for size in counter.sizes.values())
    high, left = _from_the_top(upper, budget.total - floors)

    def beside(bits: Tensor) -> Tensor:
        """The lower halves of those in the threshold's bin, and last, how many are above it."""
        inside = torch.bincount(bits[bits >> 16 == high] & (BINS - 1), minlength=BINS)
        return torch.cat([inside, (bits >> 16 > high).sum().view(1)])

    lower = torch.zeros(BINS, dtype=torch.int64)
    for name in budget.names:
        found = counter.count(name, beside)
        lower += _without_top(found[:-1], budget.floor - int(found[-1]))
    low, ties = _from_the_top(lower, left)
    return min((high << 16) + low, torch.iinfo(torch.int32).max), ties


class _Counter:
    """Counts entries of tensors, one tensor at a time, and records sizes and peak memory."""

    def __init__(self, value: Callable[[str], Tensor], scale: str) -> None:
        self._value, self._scale = value, scale
        self.sizes: dict[str, int] = {}
        """Entries of the tensors that were counted."""
        self.peak_bytes = 0
        """As `Allocation` has it."""

    def count(self, name: str, count: Callable[[Tensor], Tensor]) -> Tensor:
        """What `count` finds in the bits of a tensor's magnitudes, piece by piece. Raises ValueError on NaN."""
        w = self._value(name).detach().flatten().float()
        refuse_nan(w)
        self.sizes[name] = len(w)
        unit = _rms(w) if self._scale == "rms" else None
        counts = torch.zeros((), dtype=torch.int64, device=w.device)
        for piece in pieces(w):
            magnitude = piece.abs() if unit is None else piece.abs() / unit
            counts = counts + count(magnitude.view(torch.int32))
        self.peak_bytes = max(self.peak_bytes, w.nbytes + PIECE_BYTES * len(pieces(w)[0]) + COUNTER_BYTES)
        return counts.cpu()


def _rms(w: Tensor) -> Tensor:
    """Root mean square, but not 0."""
    squares = torch.zeros((), dtype=torch.float64, device=w.device)
    for piece in pieces(w):
        squares += piece.double().square_().sum()
    return (squares / len(w)).sqrt().clamp(min=1e-30).float()


def _without_top(histogram: Tensor, count: int) -> Tensor:
    """A histogram of all but the `count` largest."""
    at_least = histogram.flip(0).cumsum(0)
    left = (at_least - max(0, count)).clamp(min=0)
    return left.diff(prepend=left.new_zeros(1)).flip(0)


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
