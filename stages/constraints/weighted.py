"""A set of which points keep entries of what is projected, with another order of what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dualprune.stages.constraints import Constraint


@dataclass(frozen=True)
class Weighted:
    """S itself, projected on by |w| times weights: what S keeps of that product stays, with w's values.

    It is nearest in the distance in which an entry counts so many times (SAFE+, Lee et al. 2025). S keeps entries or
    zeroes them: `cardinality`, N of M, groups, and these combined.
    """

    within: Constraint
    """S."""
    weights: Callable[[], Tensor]
    """Numbers of w's shape, none negative, when they are asked for: they are of w's size, and not held till then."""

    def project(self, w: Tensor) -> Tensor:
        """W with all zeroed that S, given the products, would zero. Raises ValueError on NaN."""
        kept = self.within.mask(self.within.project(w.detach().abs() * self.weights()))
        return torch.where(kept != 0, w, torch.zeros((), dtype=w.dtype, device=w.device))

    def contains(self, z: Tensor) -> bool:
        """Whether z lies in S."""
        return self.within.contains(z)

    def mask(self, z: Tensor) -> Tensor:
        """As of S."""
        return self.within.mask(z)

    def most(self, shape: tuple[int, ...]) -> int:
        """As of S."""
        return self.within.most(shape)
