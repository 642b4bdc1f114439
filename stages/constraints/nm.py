"""N of every M along the input dimension: the pattern that sparse tensor cores take (2:4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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

    def hold(self, z: Tensor) -> Tensor:
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
        runs = self._runs(w).abs()
        if bool(torch.isnan(runs).any()):
            raise ValueError("what is to be projected holds NaN")
        order = torch.sort(runs, dim=2, descending=True, stable=True).indices[:, :, : self.n]
        kept = torch.zeros_like(runs, dtype=torch.bool).scatter_(2, order, True)
        return kept.reshape(w.shape)
