"""Few shared values: a tensor's non-zeros take them from a short list. Exact zeros are pruned weights and stay.

A set of this kind is a way to fit the list (`levels.py`, `clusters.py`); what is done with it is the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dualprune.stages.constraints.select import pieces, refuse_nan

FEW = 32
"""Values up to which comparing with each of them is faster than a binary search."""


def nearest(values: Tensor, w: Tensor) -> Tensor:
    """Each non-zero of `w` replaced by the nearest of `values` (sorted, [m]), the lower of two equally near."""
    x = w.detach().flatten().contiguous()
    values = values.to(x)
    middles = (values[1:] + values[:-1]) / 2
    table = torch.cat([values.new_zeros(1), values])
    z = torch.empty_like(x)
    for some, into in zip(pieces(x), pieces(z), strict=True):
        torch.index_select(table, 0, _codes(middles, some), out=into)
    return z.view(w.shape)


def _codes(middles: Tensor, x: Tensor) -> Tensor:
    """One more than the number of sorted middles that are less than x, and 0 where x is 0."""
    there = x.bool()  # several times as fast as x != 0
    if len(middles) >= FEW:
        return (torch.bucketize(x, middles, out_int32=True) + 1) * there
    code = torch.ones_like(x, dtype=torch.uint8)
    for middle in middles:
        code += (x > middle).view(torch.uint8)
    return (code * there.view(torch.uint8)).int()


class SharedValues(ABC):
    """S = {Z : the non-zeros of Z lie in a list of values that the set can fit}."""

    @abstractmethod
    def fit(self, x: Tensor) -> Tensor:
        """The sorted list of values, [m] in float64, for non-zeros x, [n] in float32 or float64."""

    def values(self, w: Tensor) -> Tensor:
        """The list fitted to a tensor's non-zeros; empty where it has none. Raises ValueError on NaN."""
        x = w.detach().flatten()
        refuse_nan(x)
        x = x if x.dtype == torch.float64 else x.float()
        if not all(bool(some.bool().all()) for some in pieces(x)):
            x = x[x != 0]
        return self.fit(x) if len(x) else x.double()

    def project(self, w: Tensor) -> Tensor:
        """Every non-zero replaced by the nearest of the fitted values."""
        values = self.values(w)
        return nearest(values, w) if len(values) else w.detach().clone()

    def contains(self, z: Tensor) -> bool:
        """Whether projecting z leaves it as it is, but for rounding."""
        return bool(torch.allclose(self.project(z), z.detach(), rtol=1e-4, atol=0))

    def mask(self, z: Tensor) -> Tensor:
        """0 everywhere: no weight moves by itself."""
        return torch.zeros_like(z)

    def most(self, shape: tuple[int, ...]) -> int:
        """All entries."""
        return math.prod(shape)
