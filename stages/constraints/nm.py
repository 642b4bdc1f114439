"""N of every M along the input dimension: the pattern that sparse tensor cores take (2:4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dualprune.stages.constraints.select import CHUNK, refuse_nan

FEW = 16
"""Entries of a run up to which comparing each with each other is faster than finding its threshold."""


@dataclass(frozen=True)
class NM:
    """S = {Z : of every m consecutive inputs of each output (and kernel position), at most n are not zero}.

    Exact: runs are independent, and in each the n largest magnitudes stay, the first among equals.
    """

    n: int
    m: int

    def project(self, w: Tensor) -> Tensor:
        """W with all but the n largest of each run set to zero. Raises ValueError on NaN or a size m doesn't divide."""
        return torch.where(self._kept(w), w, torch.zeros((), dtype=w.dtype, device=w.device))

    def contains(self, z: Tensor) -> bool:
        """Whether no run has more than n entries that are not zero."""
        return bool(((self._runs(z) != 0).sum(2) <= self.n).all())

    def mask(self, z: Tensor) -> Tensor:
        """1 at n entries of each run."""
        return self._kept(z).to(z.dtype)

    def most(self, shape: tuple[int, ...]) -> int:
        """n of every m entries."""
        return math.prod(shape) // self.m * self.n

    def _runs(self, w: Tensor) -> Tensor:
        outputs, inputs = w.shape[:2]
        if inputs % self.m:
            raise ValueError(f"{inputs} inputs don't divide into runs of {self.m}")
        return w.detach().reshape(outputs, inputs // self.m, self.m, math.prod(w.shape[2:]))

    def _kept(self, w: Tensor) -> Tensor:
        runs = self._runs(w)
        refuse_nan(runs)
        kept = torch.empty(runs.shape, dtype=torch.bool, device=w.device)
        # Few outputs at a time, so that what is made of them stays in the cache.
        few = max(1, CHUNK // max(1, runs[0].numel())) if w.device.type == "cpu" else len(runs)
        for some, mask in zip(runs.split(few), kept.split(few), strict=True):
            (self._by_counting if self.m <= FEW else self._by_threshold)(some.abs(), mask)
        return kept.view(w.shape)

    def _by_counting(self, runs: Tensor, mask: Tensor) -> None:
        """An entry's rank is the number of those in its run that are larger, or as large and before it."""
        entries = runs.unbind(2)
        ranks = [
            torch.full(one.shape, later, dtype=torch.uint8, device=one.device)
            for one, later in zip(entries, range(self.m - 1, -1, -1), strict=True)
        ]
        for second in range(1, self.m):
            for first in range(second):
                no_less = (entries[first] >= entries[second]).view(torch.uint8)
                ranks[first] -= no_less
                ranks[second] += no_less
        for rank, into in zip(ranks, mask.unbind(2), strict=True):
            torch.lt(rank, self.n, out=into)

    def _by_threshold(self, runs: Tensor, mask: Tensor) -> None:
        limit = runs.kthvalue(self.m - self.n + 1, dim=2, keepdim=True).values
        torch.ge(runs, limit, out=mask)
        spare = mask.sum(2, keepdim=True) - self.n
        if bool(spare.any()):
            ties = runs == limit
            from_the_last = ties.flip(2).cumsum(2).flip(2)
            mask &= ~ties | (from_the_last > spare)
