"""Matrices of low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dualprune.stages.networks.matrices import matrix


@dataclass(frozen=True)
class LowRank:
    """S = {Z : rank of Z's matrix <= r}.

    The projection is the truncated singular value decomposition (Eckart and Young): the nearest point of its rank. It
    is W on the leading eigenvectors of its shorter side's Gram matrix, in fp64: as exact as fp32 weights are, and 2 to
    10 times faster than torch's SVD in fp64.
    With `energy` in the place of `rank` it is a set only once `of` has found the rank of some weights. `view` is
    `channel`, outputs x (inputs, kernel), or `spatial`, (inputs, kernel height) x (outputs, kernel width).
    """

    rank: int | None = None
    energy: float | None = None
    view: Literal["channel", "spatial"] = "channel"

    def project(self, w: Tensor) -> Tensor:
        """The nearest matrix of that rank, in W's shape. Raises ValueError on NaN."""
        assert self.rank is not None
        whole = matrix(w.detach().double(), self.view)
        if bool(torch.isnan(whole).any()):
            raise ValueError("what is to be projected holds NaN")
        tall = whole.shape[0] > whole.shape[1]
        wide = whole.T if tall else whole
        leading = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -self.rank :]
        nearest = leading @ (leading.T @ wide)
        return self._back(nearest.T if tall else nearest, w).to(w.dtype)

    def of(self, w: Tensor) -> LowRank:
        """The set of one rank: with `energy` = e, of the least rank that drops at most that fraction of W's energy.

        That is the smallest k >= 1 with sum over j > k of sigma_j^2 <= e sum of sigma_j^2 (Xu et al. 2020, section 3).
        """
        if self.energy is None:
            return self
        squares = torch.linalg.svdvals(matrix(w.detach().double(), self.view)).square()
        left_out = squares.flip(0).cumsum(0).flip(0)
        return replace(self, energy=None, rank=max(1, int((left_out > self.energy * left_out[0]).sum())))

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

    def _back(self, whole: Tensor, w: Tensor) -> Tensor:
        if self.view == "channel" or w.ndim < 4:
            return whole.reshape(w.shape)
        n, c, kh, kw = w.shape
        return whole.reshape(c, kh, n, kw).permute(2, 0, 1, 3).contiguous()


def numerical_rank(sigma: Tensor, dtype: torch.dtype) -> int:
    """How many singular values are more than what rounding entries to `dtype` makes of a zero."""
    noise = max(1e-5 * float(sigma[0]), torch.finfo(dtype).eps * float(sigma.norm()))
    return int((sigma > noise).sum())
