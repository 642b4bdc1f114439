"""Constraint sets: each a frozen dataclass with `project`, `contains`, `mask` and `most`.

To add one: a file here with such a class, its settings in `stages/settings/sets.py`, and a line in `SETS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor

from dualprune.stages.constraints import groups
from dualprune.stages.constraints.cardinality import Cardinality
from dualprune.stages.constraints.clusters import Clusters
from dualprune.stages.constraints.levels import Levels
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.nm import NM
from dualprune.stages.settings import sets

Shape = tuple[int, ...]


class Constraint(Protocol):
    """A set S of tensors of one shape, with its Euclidean projection."""

    def project(self, w: Tensor) -> Tensor:
        """A nearest point of S to w: a new tensor of w's shape, dtype and device. Raises ValueError on NaN."""
        ...

    def contains(self, z: Tensor) -> bool:
        """Whether z lies in S."""
        ...

    def mask(self, z: Tensor) -> Tensor:
        """1 where an entry of z, a point of S, may move without leaving S; 0 where it may not. z's shape."""
        ...

    def most(self, shape: Shape) -> int:
        """The most non-zero entries that a point of S of that shape can have."""
        ...


def cardinality(settings: sets.Cardinality, shape: Shape) -> Constraint:
    """Of one tensor alone; a budget over several is `stages.solver.budget`."""
    return Cardinality(_amount(settings, math.prod(shape), "weights"))


def structured(settings: sets.Structured, shape: Shape) -> Constraint:
    """Filters, channels, columns, rows."""
    if settings.set == "row" and len(shape) != 2:
        raise ValueError("rows are of linear layers; a convolution has filters")
    layouts = {
        "filter": groups.filters,
        "row": groups.filters,
        "channel": groups.channels,
        "column": groups.columns,
    }
    return _groups(settings, layouts[settings.set], shape, f"{settings.set}s")


def heads(settings: sets.Head, shape: Shape) -> Constraint:
    """Attention heads."""
    assert settings.heads is not None
    return _groups(settings, partial(groups.heads, count=settings.heads, parts=settings.parts), shape, "heads")


def blocks(settings: sets.Block, shape: Shape) -> Constraint:
    """Tiles."""
    return _groups(settings, partial(groups.blocks, p=settings.p, q=settings.q), shape, "tiles")


def nm(settings: sets.NM, shape: Shape) -> Constraint:
    """N of M."""
    if shape[1] % settings.m:
        raise ValueError(f"its {shape[1]} inputs don't divide into runs of {settings.m}; leave this tensor out")
    return NM(settings.n, settings.m)


def lowrank(settings: sets.LowRank, shape: Shape) -> Constraint:
    """Low rank."""
    made = LowRank(settings.rank, settings.energy, settings.view)
    full = min(made.sides(shape))
    if settings.rank is not None and settings.rank > full:
        raise ValueError(f"rank {settings.rank} is above full: its matrix has rank {full} at most")
    return made


def levels(settings: sets.Levels, shape: Shape) -> Constraint:
    """Quantisation levels."""
    return Levels(settings.levels, settings.bits or 1)


def clusters(settings: sets.Clusters, shape: Shape) -> Constraint:
    """Shared values."""
    if settings.count > math.prod(shape):
        raise ValueError(f"asks for {settings.count} clusters of {math.prod(shape)} weights")
    return Clusters(settings.count)


@dataclass(frozen=True)
class SetKind:
    """A line of the table of sets."""

    make: Callable[[Any, Shape], Constraint]
    """From its settings and a tensor's shape. Raises ValueError if it can't be."""
    place: int | None = None
    """Where it comes among several sets on one tensor: structure, then entries, then values; None: it stands alone."""
    fixes: bool = False
    """Whether a mask is not enough to stay in the set: a later stage has to freeze the tensor."""


STRUCTURE, ENTRIES, VALUES = range(3)
SETS: dict[str, SetKind] = {
    "cardinality": SetKind(cardinality, ENTRIES),
    "filter": SetKind(structured, STRUCTURE),
    "channel": SetKind(structured, STRUCTURE),
    "column": SetKind(structured, STRUCTURE),
    "row": SetKind(structured, STRUCTURE),
    "head": SetKind(heads, STRUCTURE),
    "block": SetKind(blocks, STRUCTURE),
    "nm": SetKind(nm, ENTRIES),
    "lowrank": SetKind(lowrank, fixes=True),
    "levels": SetKind(levels, VALUES, fixes=True),
    "clusters": SetKind(clusters, VALUES, fixes=True),
}
"""The table of sets, by the names that settings give them (stages.settings.sets)."""


def refusal(names: list[str]) -> str | None:
    """Why sets of these names can't be put on one tensor in this order, or None if they can."""
    places = []
    for name in names:
        place = SETS[name].place
        if place is None:
            return f"`{name}` can't be combined with another set"
        places.append((place, name))
    for (before, first), (after, second) in pairwise(places):
        if before == after:
            return f"`{first}` and `{second}` contradict each other: both say which values stay; use one of them"
        if before > after:
            return f"`{second}` must come before `{first}`: structure, then entries, then values"
    return None


def _amount(settings: sets.Amount, size: int, what: str) -> int:
    k = settings.entries(size)
    if k < 1:
        raise ValueError(f"leaves {k} of {size} {what}; at least one must stay")
    if k > size:
        raise ValueError(f"asks for {k} {what}, but the tensor has {size}")
    return k


def _groups(settings: sets.Amount, layout: Callable[[Shape], groups.Layout], shape: Shape, what: str) -> Constraint:
    sizes, axes = layout(shape)
    return groups.Groups(_amount(settings, math.prod(sizes[axis] for axis in axes), what), layout)
