"""Few shared values: a tensor's non-zeros take them from a short list. Exact zeros are pruned weights and stay.

A set of this kind is a way to fit the list (`levels.py`, `clusters.py`); what is done with it is the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


def nearest(values: Tensor, w: Tensor) -> Tensor:
    """Each non-zero of `w` replaced by the nearest of `values` (sorted, [m]), the lower of two equally near."""
    x = w.detach().flatten().contiguous()
    values = values.to(x)
    middles = (values[1:] + values[:-1]) / 2
    z = values[torch.bucketize(x, middles)]
    return torch.where(x != 0, z, torch.zeros((), dtype=x.dtype, device=x.device)).view(w.shape)


class SharedValues(ABC):
    """S = {Z : the non-zeros of Z lie in a list of values that the set can fit}."""

    @abstractmethod
    def fit(self, x: Tensor) -> Tensor:
        """The sorted list of values, [m] in float64, for non-zeros x, [n] in float64."""

    def values(self, w: Tensor) -> Tensor:
        """The list fitted to a tensor's non-zeros; empty where it has none. Raises ValueError on NaN."""
        x = w.detach().flatten().double()
        if bool(torch.isnan(x).any()):
            raise ValueError("what is to be projected holds NaN")
        x = x[x != 0]
        return self.fit(x) if len(x) else x

    def project(self, w: Tensor) -> Tensor:
        """Every non-zero replaced by the nearest of the fitted values."""
        values = self.values(w)
        return nearest(values, w) if len(values) else w.detach().clone()

    def contains(self, z: Tensor) -> bool:
        """Whether projecting z leaves it as it is, but for rounding."""
        return bool(torch.allclose(self.project(z), z.detach(), rtol=1e-4, atol=0))

    def hold(self, z: Tensor) -> Tensor:
        """0 everywhere: no weight moves by itself."""
        return torch.zeros_like(z)

    def most(self, shape: tuple[int, ...]) -> int:
        """All entries."""
        return math.prod(shape)
