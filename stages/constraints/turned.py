"""Sets of matrices that lie the other way round: inputs first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dualprune.stages.constraints import Constraint


@dataclass(frozen=True)
class Turned:
    """S = {Z : Z^T is in a set}, whose outputs and inputs are those of Z^T."""

    of: Constraint

    def project(self, w: Tensor) -> Tensor:
        """(Proj(W^T))^T. Raises ValueError as the set does."""
        return self.of.project(w.T.contiguous()).T.contiguous()

    def contains(self, z: Tensor) -> bool:
        """Whether Z^T is in the set."""
        return self.of.contains(z.T.contiguous())

    def mask(self, z: Tensor) -> Tensor:
        """As the set has it of Z^T."""
        return self.of.mask(z.T.contiguous()).T.contiguous()

    def most(self, shape: tuple[int, ...]) -> int:
        """As many as there are in Z^T."""
        return self.of.most(shape[::-1])
