"""Matrices of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dualprune.stages.constraints.spectrum import Spectrum, View
from dualprune.stages.networks.matrices import matrix


@dataclass(frozen=True)
class LowRank:
    """S = {Z : rank of Z's matrix <= r}.

    The projection is the truncated singular value decomposition (`stages.constraints.spectrum`).
    With `energy` in the place of `rank` it is a set only once `of` has found the rank of some weights. `view` is
    `channel`, outputs x (inputs, kernel), or `spatial`, (inputs, kernel height) x (outputs, kernel width).
    """

    rank: int | None = None
    energy: float | None = None
    view: View = "channel"

    def project(self, w: Tensor) -> Tensor:
        """The nearest matrix of that rank, in W's shape. Raises ValueError on NaN."""
        assert self.rank is not None
        return Spectrum.of(w, self.view).truncated(self.rank)

    def of(self, w: Tensor) -> LowRank:
        """The set of one rank: with `energy`, of the least rank that drops at most that fraction of W's energy."""
        if self.energy is None:
            return self
        return replace(self, energy=None, rank=Spectrum.of(w, self.view).least(self.energy))

    def contains(self, z: Tensor) -> bool:
        """Whether z is of that rank but for rounding."""
        assert self.rank is not None
        sigma = torch.linalg.svdvals(matrix(z.detach().double(), self.view))
        return numerical_rank(sigma, z.dtype) <= self.rank

    def mask(self, z: Tensor) -> Tensor:
        """0 everywhere: moving single entries would leave the set."""
        return torch.zeros_like(z)

    def most(self, shape: tuple[int, ...]) -> int:
        """All entries."""
        return math.prod(shape)

    def sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Rows and columns of the matrix that a tensor of that shape is seen as."""
        if self.view == "channel" or len(shape) < 4:
            return shape[0], math.prod(shape[1:])
        n, c, kh, kw = shape
        return c * kh, n * kw


def numerical_rank(sigma: Tensor, dtype: torch.dtype) -> int:
    """How many singular values are more than what rounding entries to `dtype` makes of a zero."""
    noise = max(1e-5 * float(sigma[0]), torch.finfo(dtype).eps * float(sigma.norm()))
    return int((sigma > noise).sum())
