"""How many weights a stage lets stay at most, as far as its targets tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dualprune.stages.networks.parameters import Parameters, weights
from dualprune.stages.solver import coupled
from dualprune.stages.solver.targets import Targets


@dataclass(frozen=True)
class Room:
    """How many weights a stage lets stay at most."""

    tensors: Mapping[str, int]
    """In each constrained tensor that has a bound of its own."""
    exact: frozenset[str]
    """Those of them that are to hold just as many: under `cardinality` alone."""
    budgets: tuple[tuple[tuple[str, ...], int], ...]
    """Over several tensors together."""
    filled: frozenset[str]
    """Tensors whose set fills zeros again: those of low rank."""
    kinds: Mapping[str, tuple[str, ...]]
    """Names of the sets of each constrained tensor."""
    rate: float
    """Weights of the constrained tensors over those that may stay; 1 where none are constrained."""
    sizes: Mapping[str, int]
    """Of all of the network's weights, constrained or not, by tensor."""


def room(found: Targets, parameters: Parameters) -> Room:
    """What the targets of a network of these parameters let stay."""
    most = {name: constraint.most(tuple(parameters[name].shape)) for name, constraint in found.sets.items()}
    most |= coupled.most(found.coupled, parameters)
    exact = frozenset(name for name in most if found.kinds[name] == ("cardinality",))
    filled = frozenset(name for name, kinds in found.kinds.items() if "lowrank" in kinds)
    size = sum(parameters[name].shape.numel() for name in found.names)
    stay = sum(most.values()) + sum(budget.total for budget in found.budgets)
    budgets = tuple((budget.names, budget.total) for budget in found.budgets)
    sizes = {name: one.shape.numel() for name, one in weights(parameters).items()}
    return Room(most, exact, budgets, filled, found.kinds, size / stay if stay else 1.0, sizes)
