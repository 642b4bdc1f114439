"""What rules are given and what they find: an operation's arguments as dimensions, and which of these go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dualprune.stages.coupling.atoms import Atoms, Dims, Labels

Shape = tuple[int, ...]


class Unknown(Exception):
    """A case that a rule does not know."""


@dataclass
class Known:
    """What the rules have found so far."""

    atoms: Atoms = field(default_factory=Atoms)
    outputs: list[Labels] = field(default_factory=list)
    """Dimensions of weights that number outputs of their layer."""
    inputs: list[Labels] = field(default_factory=list)
    """The same of inputs."""
    entries: list[Labels] = field(default_factory=list)
    """Dimensions of tables along which their entries are: what is embedded by them."""
    heads: list[Labels] = field(default_factory=list)
    """Dimensions along which attention is apart."""
    sizes: list[tuple[int, Labels]] = field(default_factory=list)
    """Numbers that the present operation was given, and the positions that each of them counts."""

    def fixed(self, shape: Shape) -> Dims:
        """Dimensions of which nothing can go."""
        return tuple(np.zeros(size, np.int64) for size in shape)

    def join(self, one: Labels, other: Labels) -> Labels:
        """Let two dimensions go together; a dimension of size 1 goes with none."""
        if len(one) == len(other):
            self.atoms.join(one, other)
            return one
        if len(one) == 1 or len(other) == 1:
            return one if len(other) == 1 else other
        raise Unknown


@dataclass(frozen=True)
class Call:
    """One operation: its arguments by name, tensors among them as their dimensions, and the shapes of its results."""

    name: str
    args: Mapping[str, Any]
    shapes: Sequence[Shape]

    @property
    def shape(self) -> Shape:
        """Of its only result."""
        return self.shapes[0]


Rule = Callable[[Known, Call], Sequence[Dims]]


def axis(number: int, dims: Sequence[Any]) -> int:
    """A dimension's number, counted from the first."""
    return number % max(1, len(dims))


def shape_of(dims: Dims) -> Shape:
    """Sizes."""
    return tuple(len(one) for one in dims)


def tensors(value: Any) -> list[Dims]:
    """The tensors of an argument."""
    if isinstance(value, tuple) and all(isinstance(one, np.ndarray) for one in value):
        return [value]
    return [one for item in value for one in tensors(item)] if isinstance(value, list) else []
