"""Positions along a tensor's dimensions: what units that go together over several tensors leave of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class Slices:
    """S = {Z : Z is zero outside of the positions that stay}.

    Which ones stay was decided over all tensors of the units (stages.solver.coupled).
    """

    stays: Mapping[int, Tensor]
    """By dimension: bool, one for each position."""

    def project(self, w: Tensor) -> Tensor:
        """W with all other positions set to zero."""
        return torch.where(self._kept(w), w, torch.zeros((), dtype=w.dtype, device=w.device))

    def contains(self, z: Tensor) -> bool:
        """Whether z is zero everywhere else."""
        return not bool((z[~self._kept(z)] != 0).any())

    def mask(self, z: Tensor) -> Tensor:
        """1 in the positions that stay, 0 elsewhere."""
        return self._kept(z).to(z.dtype)

    def most(self, shape: tuple[int, ...]) -> int:
        """Entries at positions that stay."""
        return prod(int(self.stays[dim].sum()) if dim in self.stays else size for dim, size in enumerate(shape))

    def _kept(self, w: Tensor) -> Tensor:
        kept = torch.ones((), dtype=torch.bool, device=w.device)
        for dim, stays in self.stays.items():
            kept = kept & stays.to(w.device).view([-1 if axis == dim else 1 for axis in range(w.ndim)])
        return kept.expand(w.shape)
