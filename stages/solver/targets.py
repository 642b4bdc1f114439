"""Which tensors a stage constrains, and to what: patterns meet a network's parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from torch import Size

from dualprune.stages.constraints import SETS, VALUES, Constraint, refusal
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.networks.build import build_model, weights
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import Cardinality, Clusters
from dualprune.stages.settings.spec import Model, PruneSpec, QuantizeSpec, StageSpec
from dualprune.stages.solver.budget import Budget

Problem = tuple[tuple[str | int, ...], str]


@dataclass(frozen=True)
class Targets:
    """The sets that tensors are held to, and budgets over several tensors."""

    sets: Mapping[str, Constraint]
    """By tensor; those under a budget are not in it."""
    budgets: tuple[Budget, ...]
    kinds: Mapping[str, tuple[str, ...]]
    """Names of the sets of each constrained tensor, budgets' among them."""

    @property
    def names(self) -> list[str]:
        """All constrained tensors."""
        return list(self.kinds)


def _shown(names: Iterable[str], shapes: Mapping[str, Size]) -> str:
    return ", ".join(f"{name} {tuple(shapes[name])}" for name in names)


def targets(spec: StageSpec, shapes: Mapping[str, Size]) -> Targets:
    """What each constrained tensor is held to. Raises SpecError with all that is wrong."""
    if not isinstance(spec, PruneSpec | QuantizeSpec):
        return Targets({}, (), {})
    able = weights(shapes)
    problems: list[Problem] = []
    made: dict[str, list[Any]] = {}
    kinds: dict[str, list[str]] = {}
    budgets: list[Budget] = []
    for number, settings in enumerate(spec.constraints):
        at = ("constraints", number)
        matching = [name for name in able if fnmatchcase(name, settings.tensors)]
        if not matching:
            problems.append(((*at, "tensors"), _unmatched(settings.tensors, shapes, able, spec.model.name)))
        budgeted = isinstance(settings, Cardinality) and settings.scope == "global"
        for name in matching:
            kinds.setdefault(name, []).append(settings.set)
            reason = _clash(name, kinds[name], budgets, budgeted)
            if reason is not None:
                problems.append((at, f"{name} of shape {tuple(able[name])}: {reason}"))
            elif not budgeted:
                shape, before = tuple(able[name]), made.setdefault(name, [])
                left = min((one.most(shape) for one in before), default=math.prod(shape))
                try:
                    before.append(SETS[settings.set].make(settings, shape))
                    if isinstance(settings, Clusters) and settings.count > left:
                        raise ValueError(f"asks for {settings.count} clusters of the {left} weights that are left")
                except ValueError as error:
                    problems.append((at, f"{name} of shape {shape}: {error}"))
        if budgeted and matching:
            assert isinstance(settings, Cardinality)
            size = sum(able[name].numel() for name in matching)
            total = settings.entries(size)
            floors = sum(min(settings.floor, able[name].numel()) for name in matching)
            if not max(1, floors) <= total <= size:
                text = f"asks for {total} of {size} weights, with at least {floors} for the floor of {settings.floor}"
                problems.append((at, f"{text} in each of {len(matching)} tensors: {_shown(matching, able)}"))
            budgets.append(Budget(tuple(matching), total, settings.floor, settings.scale))
    if isinstance(spec, QuantizeSpec):
        problems += _valueless(spec, kinds, able)
    if problems:
        raise SpecError(problems)
    sets = {name: one[0] if len(one) == 1 else Combined(tuple(one)) for name, one in made.items()}
    return Targets(sets, tuple(budgets), {name: tuple(of) for name, of in kinds.items()})


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


def check(spec: StageSpec) -> Room:
    """Everything that can be said of a stage's settings without data. Raises SpecError.

    The network is built without memory for its weights, once for all stages that have it.
    """
    shapes = _shapes(spec.model)
    found = targets(spec, shapes)
    most = {name: constraint.most(tuple(shapes[name])) for name, constraint in found.sets.items()}
    exact = frozenset(name for name in most if found.kinds[name] == ("cardinality",))
    filled = frozenset(name for name, kinds in found.kinds.items() if "lowrank" in kinds)
    size = sum(shapes[name].numel() for name in found.names)
    stay = sum(most.values()) + sum(budget.total for budget in found.budgets)
    budgets = tuple((budget.names, budget.total) for budget in found.budgets)
    sizes = {name: shape.numel() for name, shape in weights(shapes).items()}
    return Room(most, exact, budgets, filled, found.kinds, size / stay if stay else 1.0, sizes)


def check_patterns(settings: Model, patterns: Mapping[int, str]) -> list[Problem]:
    """What can be said of constraints' patterns, by number, when the rest of a stage is not sound. Raises SpecError."""
    shapes = _shapes(settings)
    able = weights(shapes)
    return [
        (("constraints", number, "tensors"), _unmatched(pattern, shapes, able, settings.name))
        for number, pattern in patterns.items()
        if not any(fnmatchcase(name, pattern) for name in able)
    ]


@cache
def _shapes(settings: Model) -> Mapping[str, Size]:
    """Of a network's parameters, by name. Raises SpecError."""
    return {name: parameter.shape for name, parameter in build_model(settings, device="meta").named_parameters()}


def _unmatched(pattern: str, shapes: Mapping[str, Size], able: Mapping[str, Size], model: str) -> str:
    others = [name for name in shapes if fnmatchcase(name, pattern)]
    hint = f"matches nothing that can be constrained ({_shown(others, shapes)})" if others else "matches no tensor"
    return f"{pattern!r} {hint} of {model}; its weights are {', '.join(able)}"


def _clash(name: str, kinds: list[str], budgets: list[Budget], budgeted: bool) -> str | None:
    """Why the last of the sets on a tensor can't be there, or None."""
    if len(kinds) == 1:
        return None
    if budgeted or any(name in budget.names for budget in budgets):
        return "a global budget can't be combined with another set; let patterns not overlap"
    return refusal(kinds)


def _valueless(spec: QuantizeSpec, kinds: Mapping[str, list[str]], shapes: Mapping[str, Size]) -> list[Problem]:
    """What a quantize stage needs of its constraints."""
    problems: list[Problem] = []
    bare = [name for name, of in kinds.items() if SETS[of[-1]].place != VALUES]
    if bare:
        text = f"{_shown(bare, shapes)}: a quantize stage needs `levels` or `clusters` on each of its tensors"
        problems.append((("constraints",), text))
    used = {of[-1] for of in kinds.values()}
    if {"levels", "clusters"} <= used:
        both = ", ".join(f"`{one}` is on {next(n for n, of in kinds.items() if of[-1] == one)}" for one in sorted(used))
        problems.append((("constraints",), f"levels and clusters need a stage each, being trained differently: {both}"))
    for setting, wanted in (("snap", "levels"), ("centroids", "clusters")):
        if getattr(spec, setting) is not None and wanted not in used:
            problems.append(((setting,), f"`{setting}` is for `set: {wanted}`, and no constraint has it"))
    return problems
