"""Quantisation levels: equidistant, powers of two, ternary, binary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.constraints.select import CHUNK, pieces, rising
from dualprune.stages.constraints.values import SharedValues

Kind = Literal["equidistant", "power", "ternary", "binary"]
BITS = 14
"""Of a magnitude in fp32, after its sign, by which it is of a bucket: eight of the exponent, six of the rest."""
LOW = 31 - BITS
SLACK = 1e-9
"""Relative: what sums in fp64 may be off."""


@dataclass(frozen=True)
class Levels(SharedValues):
    """Non-zeros are levels times an interval q of the tensor's own (Ye et al. 2018b, section 4).

    equidistant  {-M/2 .. -1, 1 .. M/2} q with M = 2^bits: 0 is no level, it stands for pruned.
                 q by least squares, from a grid and then by turns with the codes. A heuristic: no worse
                 than the best of the grid, and exact for what lies on levels already; of more than 4,096
                 weights, a weighted sample tells which is best.
    power        +-2^e, M/2 consecutive e, the top one the nearest to the largest magnitude. A heuristic in the
                 choice of the top; nearest given it.
    ternary      {-1, 0, 1} q: exact, from the best number of largest magnitudes to keep.
    binary       {-1, 1} q with q the mean magnitude: exact.
    """

    kind: Kind = "equidistant"
    bits: int = 1

    def fit(self, x: Tensor) -> Tensor:
        """The levels for non-zeros x."""
        if self.kind == "binary":
            total = sum(some.abs().sum(dtype=torch.float64) for some in pieces(x))
            positive = torch.as_tensor(total / len(x)).view(1)
        elif self.kind == "ternary":
            positive = _mean_kept(rising(x.abs()))
            return torch.cat([-positive, torch.zeros_like(positive), positive])
        elif self.kind == "power":
            # 2^e is nearest for magnitudes in [3/4, 3/2) of it; frexp's significand is in [1/2, 1).
            significand, exponent = torch.frexp(x.abs().max().double())
            top = int(exponent) - int(significand < 0.75)
            exponents = torch.arange(top - 2 ** (self.bits - 1) + 1, top + 1, dtype=torch.float64, device=x.device)
            positive = torch.exp2(exponents)
        else:
            half = 2 ** (self.bits - 1)
            codes = torch.arange(1, half + 1, dtype=torch.float64, device=x.device)
            positive = _interval(rising(x.abs()).double(), codes) * codes
        return torch.cat([-positive.flip(0), positive])


def _mean_kept(x: Tensor) -> Tensor:
    """The mean [1], in fp64, of the best number of largest magnitudes to keep: for the most of sum^2 / count."""
    if x.device.type != "cpu" or x.dtype == torch.float64 or len(x) <= CHUNK:
        return _best(rising(x.abs()), 0, 0.0)[1]
    values = x.float().numpy()
    counts, sums = _by_size(values)
    kept, total = counts[::-1].cumsum()[::-1], sums[::-1].cumsum()[::-1]  # with a bucket and all above it
    with np.errstate(divide="ignore", invalid="ignore"):
        means = total / kept
        best = int(np.nanargmax(total * means))
        # What is kept is nearer to the mean than to zero. So where not all of a bucket is, half of the mean lies in it.
        edges = np.arange(len(counts) + 1, dtype=np.uint32) << LOW
        lowest, highest = (part.view(np.float32).astype(np.float64) for part in (edges[:-1], edges[1:]))
        above = np.append(means[1:], np.inf)
        inside = (counts > 1) & (means <= 2 * (1 + SLACK) * highest) & ~(above < 2 * (1 - SLACK) * lowest)
    found = [(total[best] * means[best], torch.tensor([means[best]]))]
    some = np.concatenate([m[inside[m.view(np.uint32) >> LOW]] for m in _magnitudes(values)])
    some.sort()
    ends = np.searchsorted(some, np.append(lowest[inside], np.inf))
    for bucket, begin, end in zip(np.flatnonzero(inside), ends, ends[1:], strict=False):
        members = torch.from_numpy(some[begin:end])
        found.append(_best(members, int(kept[bucket] - counts[bucket]), float(total[bucket] - sums[bucket])))
    return max(found, key=lambda one: one[0])[1]


def _magnitudes(values: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """In parts, which fit the cache."""
    return (np.abs(values[begin : begin + CHUNK]) for begin in range(0, len(values), CHUNK))


def _by_size(values: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many magnitudes begin with the same BITS, and their sum, by these as a number: larger ones come later."""
    counts, sums = np.zeros(1 << BITS, np.int64), np.zeros(1 << BITS)
    for magnitude in _magnitudes(values):
        buckets = (magnitude.view(np.uint32) >> LOW).astype(np.intp)
        counts += np.bincount(buckets, minlength=len(counts))
        sums += np.bincount(buckets, magnitude, len(sums))
    return counts, sums


def _best(ordered: Tensor, count: int, total: float) -> tuple[float, Tensor]:
    """The most of sum^2 / count, and the mean [1] there, over how many of the largest of sorted magnitudes are kept,
    beside `count` others of the sum `total`."""
    most, mean = -1.0, torch.zeros(1, dtype=torch.float64, device=ordered.device)
    last = torch.full((1,), total, dtype=torch.float64, device=ordered.device)
    for some in reversed(pieces(ordered)):
        sums = torch.cat([last, some.flip(0)]).cumsum(0)[1:]
        gains = sums.square().div_(torch.arange(count + 1, count + len(some) + 1, device=ordered.device))
        best = int(gains.argmax())
        if float(gains[best]) > most:
            most, mean = float(gains[best]), (sums[best] / (count + best + 1)).view(1)
        last, count = sums[-1:], count + len(some)
    return most, mean


def _interval(ordered: Tensor, codes: Tensor) -> Tensor:
    """The interval q for codes 1, 2, .. by least squares, for sorted magnitudes."""
    # A sample finds the neighbourhood; all weights then settle q.
    sample, counts = _sample(ordered)
    half = len(codes)
    shares = torch.linspace(0.2, 1.5, 66, dtype=torch.float64, device=ordered.device) / half
    grid = ordered[-1] * torch.cat([shares, 1 / codes])
    errors = [(((sample / q).round().clamp(1, half) * q - sample).square() * counts).sum() for q in grid]
    q = grid[int(torch.stack(errors).argmin())]
    # Of sorted magnitudes each code has a run, whose sum is a difference of two sums.
    sums = torch.nn.functional.pad(ordered.cumsum(0), (1, 0))
    before = torch.empty(0, dtype=torch.long, device=ordered.device)
    for _ in range(50):
        ends = torch.searchsorted(ordered, (codes + 0.5) * q)
        ends[-1] = len(ordered)
        if torch.equal(ends, before):
            break
        before = ends
        starts = torch.nn.functional.pad(ends[:-1], (1, 0))
        q = (codes * (sums[ends] - sums[starts])).sum() / (codes.square() * (ends - starts)).sum()
    return q


def _sample(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """4,096 of the sorted magnitudes at most, and how many each stands for.

    The largest each stand for themselves alone, or a single outlier would weigh as much as a 4,096th of the tensor.
    """
    middle, top = 3072, 1024
    rest = len(ordered) - top
    if rest <= middle:
        return ordered, torch.ones_like(ordered)
    share = rest / middle
    places = ((torch.arange(middle, dtype=torch.float64, device=ordered.device) + 0.5) * share).long()
    sample = torch.cat([ordered[places], ordered[rest:]])
    counts = torch.ones_like(sample)
    counts[:middle] = share
    return sample, counts
