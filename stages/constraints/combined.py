"""Several sets on one tensor, taken in turn: structure, then entries, then values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from dualprune.stages.constraints import Constraint

ORDER = (
    ("filter", "channel", "column", "row", "head", "block"),
    ("cardinality", "nm"),
    ("levels", "clusters"),
)
"""One set of each line at most, in this order: each keeps what those before it need."""


def refusal(names: list[str]) -> str | None:
    """Why sets of these names can't be put on one tensor in this order, or None if they can."""
    places = []
    for name in names:
        place = next((number for number, line in enumerate(ORDER) if name in line), None)
        if place is None:
            return f"`{name}` can't be combined with another set"
        places.append(place)
    for (before, first), (after, second) in zip(
        zip(places, names, strict=True), list(zip(places, names, strict=True))[1:], strict=False
    ):
        if before == after:
            return f"`{first}` and `{second}` contradict each other: both say which values stay; use one of them"
        if before > after:
            return f"`{second}` must come before `{first}`: structure, then entries, then values"
    return None


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

    def hold(self, z: Tensor) -> Tensor:
        """1 where all of the sets let an entry move."""
        held = self.sets[0].hold(z)
        for one in self.sets[1:]:
            held = held * one.hold(z)
        return held

    def most(self, shape: tuple[int, ...]) -> int:
        """The least of what the sets allow."""
        return min(one.most(shape) for one in self.sets)
