"""At most k non-zero entries: unstructured pruning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cardinality:
    """S = {Z : card(Z) <= k} (Zhang et al. 2018, eq. 1; projection: section 4.2).

    The projection keeps the k entries of largest magnitude, and of equal ones those that come
    first in row-major order, so that every rank and every machine keeps the same.
    """

    k: int

    def project(self, w: Tensor) -> Tensor:
        """W with all but its k largest entries set to zero. Raises ValueError on NaN."""
        return torch.where(self._kept(w), w, torch.zeros((), dtype=w.dtype, device=w.device))

    def contains(self, z: Tensor) -> bool:
        """Whether at most k entries of z are not zero."""
        return int(torch.count_nonzero(z)) <= self.k

    def hold(self, z: Tensor) -> Tensor:
        """The support's mask: 1 at exactly min(k, size) entries, z's non-zeros among them."""
        return self._kept(z).to(z.dtype)

    def _kept(self, w: Tensor) -> Tensor:
        magnitude = w.detach().abs().flatten()
        if bool(torch.isnan(magnitude).any()):
            raise ValueError(f"a tensor of shape {tuple(w.shape)} to be projected holds NaN")
        if self.k >= magnitude.numel():
            return torch.ones_like(w, dtype=torch.bool)
        threshold = torch.kthvalue(magnitude, magnitude.numel() - self.k + 1).values
        kept = magnitude > threshold
        ties = (magnitude == threshold).nonzero().squeeze(1)
        kept[ties[: self.k - int(kept.sum())]] = True
        return kept.view(w.shape)
