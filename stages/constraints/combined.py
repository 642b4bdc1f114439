"""Several sets on one tensor, taken in turn: structure, then entries, then values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dualprune.stages.constraints import Constraint


@dataclass(frozen=True)
class Combined:
    """S = S1 and S2 and ..., by projecting on one after the other.

    A heuristic: within what the sets before it kept, each projection is the nearest, but the whole need not be
    (the best filters may not be those with the best k entries). The result lies in all of the sets.
    """

    sets: tuple[Constraint, ...]

    def project(self, w: Tensor) -> Tensor:
        """W projected on each set in turn."""
        for one in self.sets:
            w = one.project(w)
        return w

    def contains(self, z: Tensor) -> bool:
        """Whether z lies in all of the sets."""
        return all(one.contains(z) for one in self.sets)

    def mask(self, z: Tensor) -> Tensor:
        """1 where all of the sets let an entry move."""
        mask = self.sets[0].mask(z)
        for one in self.sets[1:]:
            mask = mask * one.mask(z)
        return mask

    def most(self, shape: tuple[int, ...]) -> int:
        """The least of what the sets allow."""
        return min(one.most(shape) for one in self.sets)
