"""How many weights the stages of a plan leave, of the constrained tensors and of the whole network. Pure.

Each stage leaves parts: sets of tensors, of which together at most so many weights stay. What a stage prunes stays zero
in those after it, unless they let it come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dualprune.stages.solver.bounds import Room

Parts = Mapping[frozenset[str], int]
"""How many weights may stay at most, by the names of the tensors that share them. No two have a tensor in common."""


@dataclass(frozen=True)
class Counts:
    """Weights before and after a stage, as far as its settings tell; after it there may be fewer."""

    weights: int
    """Of the constrained tensors."""
    nonzeros: int
    network_weights: int
    network_nonzeros: int

    @property
    def network_rate(self) -> float:
        """Weights of the whole network over those that may stay."""
        return self.network_weights / max(1, self.network_nonzeros)


def counts(room: Room, left: Parts) -> Counts:
    """Of a stage that has this room, and leaves these parts of the network."""
    constrained = sum(room.sizes[name] for name in room.kinds)
    stay = sum(room.tensors.values()) + sum(total for _, total in room.budgets)
    size = sum(room.sizes.values())
    pruned = sum(sum(room.sizes[name] for name in part) - most for part, most in left.items())
    return Counts(constrained, min(stay, constrained), size, size - pruned)


def after(room: Room, parents: Sequence[Parts], regrow: bool) -> Parts:
    """What a stage leaves: its own parts, and of its first parent's what it does not constrain.

    With `regrow`, what the parent pruned of its own tensors may come back.
    """
    before = parents[0] if parents else {}
    own = {frozenset([name]): most for name, most in room.tensors.items()}
    own |= {frozenset(names): total for names, total in room.budgets}
    taken = frozenset().union(*own)
    rest = {part - taken: min(most, _size(room, part - taken)) for part, most in before.items() if part - taken}
    if regrow:
        return rest | own
    return rest | {part: min(most, _among(room, part, before)) for part, most in own.items()}


def either(parents: Sequence[Parts]) -> Parts:
    """What one of several leaves, whichever that is going to be."""
    shared = set(parents[0]).intersection(*parents[1:])
    return {part: max(one[part] for one in parents) for part in shared}


def _among(room: Room, part: frozenset[str], before: Parts) -> int:
    """How many weights of a part's tensors are there at most."""
    known = frozenset().union(*before)
    there = sum(min(most, _size(room, part & other)) for other, most in before.items())
    return there + _size(room, part - known)


def _size(room: Room, part: frozenset[str]) -> int:
    return sum(room.sizes[name] for name in part)
