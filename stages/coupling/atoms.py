"""Atoms: classes of positions, along the dimensions of a network's tensors, that can only go together.

Each dimension of each tensor is an array of numbers, one for each position; equal roots are one atom, and 0 is the atom
of all that has to stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
"""Of the positions along one dimension."""
Dims = tuple[Labels, ...]
"""Of a tensor's dimensions."""


@dataclass(frozen=True)
class Product:
    """A dimension that numbers all combinations of others, the last fastest: what is seen as one, or taken apart.

    What is left when atoms go has to be a product again, so atoms of one factor alone can go. Which one it is, is
    decided as late as possible (`Atoms.settle`).
    """

    flat: Labels
    factors: Dims


@dataclass
class Atoms:
    """Union-find over positions."""

    _parents: list[int] = field(default_factory=lambda: [0])
    _products: list[Product] = field(default_factory=list)

    def new(self, size: int) -> Labels:
        """Positions of which each is an atom of its own."""
        first = len(self._parents)
        self._parents.extend(range(first, first + size))
        return np.arange(first, first + size)

    def find(self, label: int) -> int:
        """The atom of a position."""
        parents, root = self._parents, label
        while parents[root] != root:
            root = parents[root]
        while parents[label] != root:
            parents[label], label = root, parents[label]
        return root

    def roots(self, labels: Labels) -> Labels:
        """The atoms of positions."""
        return np.fromiter((self.find(label) for label in labels.tolist()), np.int64, len(labels))

    def join(self, one: Labels, other: Labels) -> None:
        """Let positions of two dimensions of equal size go together, each with its like."""
        if one is other:
            return
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            a, b = self.find(a), self.find(b)
            if a != b:
                self._parents[max(a, b)] = min(a, b)  # 0, what has to stay, is the root of its class

    def fix(self, *dimensions: Labels) -> None:
        """Let positions stay."""
        for labels in dimensions:
            self.join(labels, np.zeros_like(labels))

    def live(self, labels: Labels) -> bool:
        """Whether any of these positions can go."""
        return any(self.find(label) for label in labels.tolist())

    def product(self, flat: Labels, factors: Dims) -> None:
        """Let a dimension number all combinations of others."""
        if prod(len(one) for one in factors) != len(flat):
            raise ValueError(f"{len(flat)} positions are no product of {[len(one) for one in factors]}")
        self._products.append(Product(flat, factors))

    def settle(self) -> None:
        """Decide of which factor of each product atoms can go: the one that is left, or else the largest."""
        open_ = list(self._products)
        while open_:
            left = [one for one in open_ if not self._decided(one)]
            if len(left) == len(open_):
                self._choose(left[0])
            open_ = left

    def _decided(self, one: Product) -> bool:
        if not self.live(one.flat):
            self.fix(*one.factors)
            return True
        live = [number for number, factor in enumerate(one.factors) if self.live(factor)]
        if len(live) > 1:
            return False
        if not live:
            self.fix(one.flat)
            return True
        shape = tuple(len(factor) for factor in one.factors)
        factor = one.factors[live[0]].reshape([-1 if axis == live[0] else 1 for axis in range(len(shape))])
        self.join(one.flat, np.broadcast_to(factor, shape).ravel())
        return True

    def _choose(self, one: Product) -> None:
        """Fix all factors of a product but the one with most atoms, of equal ones the last."""
        atoms = [len(set(self.roots(factor).tolist()) - {0}) for factor in one.factors]
        most = max(range(len(atoms)), key=lambda number: (atoms[number], number))
        self.fix(*(factor for number, factor in enumerate(one.factors) if number != most))
