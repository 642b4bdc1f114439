"""Units: what can be taken out of a network as one, such as a channel with all that makes and reads it, and spaces of
units of one kind, such as all channels of a residual stream."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dualprune.stages.coupling.trace import Counted, Trace, traced
from dualprune.stages.networks.parameters import parameters, weights

Place = tuple[str, int]
"""A tensor's name, and one of its dimensions."""


@dataclass(frozen=True)
class Space:
    """Units of one kind, each of which may go or stay."""

    places: Mapping[Place, NDArray[np.int64]]
    """Positions along these dimensions: [units, positions of each]."""
    makers: tuple[Place, ...]
    """Dimensions of weights that number outputs of their layers, in the order in which they are used."""
    readers: tuple[Place, ...]
    """The same of inputs."""
    heads: bool
    """Whether units are heads of attention."""
    other_makers: tuple[Place, ...] = ()
    """The same of weights that no constraint is for, as they aren't trained, and of embeddings."""
    other_readers: tuple[Place, ...] = ()
    """The same of inputs."""

    @property
    def size(self) -> int:
        """Units."""
        return len(next(iter(self.places.values())))

    @property
    def width(self) -> int:
        """How wide a unit is wherever weights make or read it: a head is as wide as its queries."""
        return math.gcd(*(self.places[place].shape[1] for place in self.weights))

    @property
    def name(self) -> str:
        """What it goes by for people: the first weight that makes it."""
        return (self.makers or self.readers)[0][0]

    @property
    def weights(self) -> tuple[Place, ...]:
        """All that is pruned of it."""
        return tuple(dict.fromkeys((*self.makers, *self.readers)))


Where = tuple[tuple[int, int], ...]
"""The space and unit of each of several positions; (-1, 0) for those that stay."""


@dataclass(frozen=True)
class Coupling:
    """All spaces of a network, and what could not be understood of it."""

    spaces: tuple[Space, ...]
    counted: tuple[tuple[Counted, tuple[Where, ...]], ...]
    """Numbers that its code gives operations, with the positions that each of them counts."""
    numbers: frozenset[tuple[str, str]]
    """Of modules, by path and name: those that follow what such numbers count (`stages.coupling.proof` finds them)."""
    unknown: Mapping[str, int]
    """Operations that no rule knows: what they touch stays whole."""


def coupling(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Coupling:
    """What goes together in a network, followed through a call. Raises stages.coupling.trace.Untraceable."""
    trace = traced(network, args, kwargs)
    able = weights(parameters(network))
    found = _atoms(trace)
    by_kind: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for atom, places in found.items():
        if any(name in able for name, _ in places):
            by_kind[tuple((place, len(at)) for place, at in places.items())].append(atom)
    spaces: list[Space] = []
    where: dict[int, tuple[int, int]] = {}
    for atoms in by_kind.values():
        space = _space(trace, {atom: found[atom] for atom in atoms}, able)
        if space is None:
            continue
        where |= {atom: (len(spaces), unit) for unit, atom in enumerate(atoms)}
        spaces.append(space)
    counted = []
    for one in trace.counted:
        at = tuple(tuple(where.get(atom, (-1, 0)) for atom in trace.atoms.roots(of).tolist()) for of in one.labels)
        if any(space >= 0 for positions in at for space, _ in positions):
            counted.append((one, at))
    return Coupling(
        tuple(spaces),
        tuple(counted),
        frozenset(),
        trace.unknown,
    )


def _atoms(trace: Trace) -> dict[int, dict[Place, list[int]]]:
    """Where each atom that can go is, atoms in the order of their first places."""
    found: dict[int, dict[Place, list[int]]] = {}
    for name, dims in trace.tensors.items():
        for number, labels in enumerate(dims):
            for position, atom in enumerate(trace.atoms.roots(labels).tolist()):
                if atom:
                    found.setdefault(atom, {}).setdefault((name, number), []).append(position)
    return found


def _space(trace: Trace, atoms: Mapping[int, Mapping[Place, list[int]]], able: Iterable[str]) -> Space | None:
    """Atoms of one kind; None for those that no weight makes or none reads: nothing would be won, or they can't go."""
    first = next(iter(atoms.values()))
    places = {place: np.array([one[place] for one in atoms.values()]) for place in first}
    outputs, inputs = (_ends(trace, places, end) for end in ("output", "input"))
    makers, readers = (tuple(place for place in ends if place[0] in able) for ends in (outputs, inputs))
    if not makers or not readers or len(atoms) < 2:
        return None
    reading = {name for (name, _), end in trace.ends.items() if end == "input"}  # depthwise ones only pass on
    other_makers = tuple(place for place in outputs if place not in makers and place[0] in reading)
    other_readers = tuple(place for place in inputs if place not in readers)
    entries = _ends(trace, places, "entry")
    heads = not trace.heads.isdisjoint(atoms)
    return Space(places, makers, readers, heads, (*other_makers, *entries), other_readers)


def _ends(trace: Trace, places: Iterable[Place], end: str) -> tuple[Place, ...]:
    return tuple(place for place in places if trace.ends.get(place) == end)


def gone(space: Space, stays: NDArray[np.bool_]) -> dict[Place, NDArray[np.int64]]:
    """Positions that go, by dimension, when only the units that `stays` says do stay."""
    return {place: np.sort(positions[~stays].ravel()) for place, positions in space.places.items()}
