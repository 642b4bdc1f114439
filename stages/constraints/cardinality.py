"""At most k non-zero entries: unstructured pruning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from dualprune.stages.constraints.select import largest, last_ties, refuse_nan, threshold


@dataclass(frozen=True)
class Cardinality:
    """S = {Z : card(Z) <= k} (Zhang et al. 2018, eq. 1; projection: section 4.2).

    The projection keeps the k entries of largest magnitude, and of equal ones those that come
    first in row-major order, so that every rank and every machine keeps the same.
    """

    k: int

    def project(self, w: Tensor) -> Tensor:
        """W with all but its k largest entries set to zero. Raises ValueError on NaN."""
        flat = w.detach().flatten()
        if self.k == 0:  # a global budget may leave a tensor nothing
            refuse_nan(flat)
            return torch.zeros_like(w.detach())
        limit, spare = threshold(flat, self.k)
        if not limit:
            return w.detach().clone()  # there are no more than k to keep
        # What is above the number next to the threshold is at least the threshold: one pass, nothing in between.
        z = hardshrink(flat, float(torch.nextafter(limit, torch.zeros_like(limit))))
        if spare:
            z[last_ties(flat, limit, spare)] = 0
        return z.view(w.shape)

    def contains(self, z: Tensor) -> bool:
        """Whether at most k entries of z are not zero."""
        return int(torch.count_nonzero(z)) <= self.k

    def mask(self, z: Tensor) -> Tensor:
        """The support's mask: 1 at exactly min(k, size) entries, z's non-zeros among them."""
        return largest(z.detach().flatten(), self.k).view(z.shape).to(z.dtype)

    def most(self, shape: tuple[int, ...]) -> int:
        """k, or all entries of a smaller tensor."""
        return min(self.k, math.prod(shape))
