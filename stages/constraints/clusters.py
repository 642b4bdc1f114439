"""At most k shared values: weight clustering by exact 1-D k-means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.constraints.values import SharedValues

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXACT = 1 << 16
"""Up to so many different values k-means is exact; more are first merged into so many quantiles."""


@dataclass(frozen=True)
class Clusters(SharedValues):
    """Non-zeros take at most k different values (Ye et al. 2018b, Alg. 3).

    The projection is the optimum of 1-D k-means (dynamic programming over sorted values): the nearest point,
    whatever the start. Over `EXACT` different values it is found on so many weighted quantiles.
    """

    k: int

    def fit(self, x: Tensor) -> Tensor:
        """The means of the clusters of non-zeros x."""
        different, counts = np.unique(x.cpu().numpy(), return_counts=True)
        values = different.astype(np.float64)
        if len(values) > EXACT:
            group = np.minimum((np.cumsum(counts) - counts) * EXACT // len(x), EXACT - 1)
            _, group = np.unique(group, return_inverse=True)
            weights = np.bincount(group, counts)
            values, counts = np.bincount(group, values * counts) / weights, weights
        if len(values) > self.k:
            values = np.unique(kmeans(values, counts.astype(np.float64), self.k))
        return torch.from_numpy(values).to(x.device)

    def contains(self, z: Tensor) -> bool:
        """Whether z has at most k different values beside zero."""
        found = torch.unique(z)
        return int((found != 0).sum()) <= self.k


def kmeans(points: Floats, weights: Floats, k: int) -> Floats:
    """The centre of each point under optimal k-means of sorted `points`, [n], with `weights`, [n].

    cost(j, i) = sum of squared distances of points j..i-1 to their mean, from prefix sums; the best split of
    the first i points moves right with i, so each layer of the dynamic programme is filled by divide and
    conquer, all subproblems of one depth at once: O(k n log n).
    """
    n = len(points)
    shift = np.average(points, weights=weights)
    moved = points - shift
    w, s, ss = (np.concatenate([[0.0], np.cumsum(weights * moved**power)]) for power in range(3))

    def cost(j: Ints, i: Ints) -> Floats:
        total = w[i] - w[j]
        apart: Floats = ss[i] - ss[j] - (s[i] - s[j]) ** 2 / np.where(total > 0, total, 1.0)
        return apart

    ends = np.arange(n + 1)
    best = cost(np.zeros(n + 1, dtype=np.int64), ends)
    splits = []
    for _ in range(1, k):
        best, split = _layer(best, cost, n)
        splits.append(split)
    centres: Floats = np.empty(n)
    end = n
    for split in reversed(splits):
        begin = int(split[end])
        if begin < end:
            centres[begin:end] = (s[end] - s[begin]) / (w[end] - w[begin]) + shift
        end = begin
    if end:
        centres[:end] = s[end] / w[end] + shift
    return centres


def _layer(best: Floats, cost: Callable[[Ints, Ints], Floats], n: int) -> tuple[Floats, Ints]:
    """One more cluster: new[i] = min over j <= i of best[j] + cost(j, i), and the j that does it."""
    new, split = np.empty(n + 1), np.zeros(n + 1, dtype=np.int64)
    lows, highs = np.array([0]), np.array([n])
    from_, to = np.array([0]), np.array([n])
    while len(lows):
        mids = (lows + highs) // 2
        last = np.minimum(to, mids)
        lengths = last - from_ + 1
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        j = np.arange(lengths.sum()) - np.repeat(starts - from_, lengths)
        value = best[j] + cost(j, np.repeat(mids, lengths))
        least = np.minimum.reduceat(value, starts)
        first = np.flatnonzero(value == np.repeat(least, lengths))
        owner = np.searchsorted(starts, first, side="right") - 1
        _, unique = np.unique(owner, return_index=True)
        where = j[first[unique]]
        new[mids], split[mids] = least, where
        left, right = lows < mids, mids < highs
        lows, highs, from_, to = (
            np.concatenate([lows[left], mids[right] + 1]),
            np.concatenate([mids[left] - 1, highs[right]]),
            np.concatenate([from_[left], where[right]]),
            np.concatenate([where[left], to[right]]),
        )
    return new, split
