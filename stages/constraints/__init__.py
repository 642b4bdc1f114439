"""Constraint sets: each a frozen dataclass with `project`, `contains` and `hold`.

To add one: a file here with such a class, its settings in `stages/spec.py`, and a line in `build`.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from stages.constraints.cardinality import Cardinality
from stages.spec import Cardinality as CardinalitySettings


class Constraint(Protocol):
    """A set S of tensors of one shape, with its Euclidean projection."""

    def project(self, w: Tensor) -> Tensor:
        """A nearest point of S to w: a new tensor of w's shape, dtype and device. Refuses NaN."""
        ...

    def contains(self, z: Tensor) -> bool:
        """Whether z lies in S."""
        ...

    def hold(self, z: Tensor) -> Tensor:
        """What stays fixed of a point of S while it is trained on: a 0/1 mask of z's shape."""
        ...


def build(settings: CardinalitySettings, size: int) -> Constraint:
    """The set that `settings` describe for a tensor of `size` entries. Raises ValueError if it can't be."""
    k = settings.entries(size)
    if k < 1:
        raise ValueError(f"leaves {k} of {size} weights; at least one must stay")
    if k > size:
        raise ValueError(f"asks for {k} weights, but the tensor has {size}")
    return Cardinality(k)
