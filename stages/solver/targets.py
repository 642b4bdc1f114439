"""Which tensors are constrained, and to what: patterns meet a network's parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeGuard

from torch import Tensor

from dualprune.stages.constraints import SETS, Constraint, refusal
from dualprune.stages.constraints.combined import Combined
from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.turned import Turned
from dualprune.stages.coupling.cut import Cut
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.networks.parameters import Parameter, Parameters
from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.sets import NM, AnySet, Block, Cardinality, Clusters, Grouped, Head, Pattern, Structured
from dualprune.stages.solver import coupled as units
from dualprune.stages.solver.budget import Budget
from dualprune.stages.solver.coupled import Share, shares
from dualprune.stages.solver.patterns import matching, shown, unmatched

ALONE = "a coupled set can't be combined with another one on a tensor; put the other in a stage of its own"


@dataclass(frozen=True)
class Targets:
    """The sets that tensors are held to, and budgets over several tensors."""

    sets: Mapping[str, Constraint]
    """By tensor; those under a budget are not in it."""
    budgets: tuple[Budget, ...]
    kinds: Mapping[str, tuple[str, ...]]
    """Names of the sets of each constrained tensor, budgets' and coupled ones among them."""
    coupled: tuple[Share, ...] = ()
    """Units over several tensors; those are not in `sets`."""
    parameters: Parameters = field(default_factory=dict)
    """Of the network."""
    weigh: str | None = None
    """What projections order entries by, beside magnitude, if they do: a name of stages.engine.weighing's `WAYS`."""

    @property
    def names(self) -> list[str]:
        """All constrained tensors."""
        return list(self.kinds)

    @property
    def valued(self) -> frozenset[str]:
        """Those whose set does more than to keep entries or to zero them."""
        return frozenset(name for name, sets in self.kinds.items() if any(SETS[one].fixes for one in sets))


def targets(
    constraints: Sequence[AnySet], parameters: Parameters, model: str, cut: Callable[[], Cut] | None = None
) -> tuple[Targets, list[Problem]]:
    """What each tensor of a network is held to, and all that is wrong with it: then the targets can't be used.

    `model` is what the network is called; `cut` says what goes together in it. Without that, coupled constraints are
    not looked at but for their patterns.
    """
    problems: list[Problem] = []
    made: dict[str, tuple[Constraint, ...]] = {}
    kinds: dict[str, tuple[str, ...]] = {}
    budgets: list[Budget] = []
    coupled: list[Share] = []
    held: set[str] = set()
    for number, settings in enumerate(constraints):
        at = ("constraints", number)
        unmet = unmatched(settings, parameters, model)
        problems += [((*at, *path), text) for path, text in unmet]
        meant = matching(settings, parameters)
        if is_coupled(settings):
            if cut is not None and not unmet:
                problems += [(at, text) for text in _couple(settings, cut(), parameters, kinds, coupled, held)]
            continue
        if not _is_all(settings):
            held.update(meant)
        for name, one in meant.items():
            kinds[name] = (*kinds.get(name, ()), settings.set)
            before = made.get(name, ())
            try:
                if not _is_all(settings):
                    if any(name == place for share in coupled for place, _ in share.space.weights):
                        raise ValueError(ALONE)
                    _check_clash(name, kinds[name], budgets, settings)
                if not _is_global(settings):
                    made[name] = (*before, set_of(settings, one, before))
            except ValueError as error:
                problems.append((at, f"{name} of shape {tuple(one.shape)}: {error}"))
        if meant and _is_global(settings):
            budgets.append(_budget(settings, meant))
            problems += [(at, text) for text in _overspent(budgets[-1], meant)]
    over = {name for share in coupled for name, _ in share.space.weights}
    sets = {name: one[0] if len(one) == 1 else Combined(one) for name, one in made.items() if name not in over}
    return Targets(sets, tuple(budgets), kinds, tuple(coupled), parameters), problems


def is_coupled(settings: AnySet) -> TypeGuard[Structured | Head]:
    """Whether a constraint is of units over several tensors."""
    return isinstance(settings, Grouped) and settings.coupled


def _couple(
    settings: Grouped,
    cut: Cut,
    parameters: Parameters,
    kinds: dict[str, tuple[str, ...]],
    coupled: list[Share],
    held: Container[str],
) -> list[str]:
    """Add what a coupled constraint holds, by what it is called too; what is wrong with it.

    `held` are tensors that sets without `coupled` hold.
    """
    try:
        found = shares(settings, cut, parameters)
    except ValueError as error:
        return [str(error)]
    twice = {share.number for share in coupled}.intersection(share.number for share in found)
    if twice:
        return [f"units of {cut.spaces[min(twice)].name} are held by an earlier constraint already"]
    names = dict.fromkeys(name for share in found for name, _ in share.space.weights)
    clash = [name for name in names if name in held]
    if clash:
        return [f"{clash[0]}: {ALONE}"]
    coupled += found
    kinds |= {name: (settings.set,) for name in names if name not in kinds}
    return []


def ranked(aims: Targets, value: Callable[[str], Tensor]) -> Targets:
    """The same with the ranks that `energy` gives of the weights that are started from: they hold to the end.

    Rank 0's, on every rank: they come of floating-point numbers.
    """
    lowrank = {name: one for name, one in aims.sets.items() if isinstance(one, LowRank)}
    found: dict[str, LowRank] = agreed({name: one.of(value(name)) for name, one in lowrank.items()})
    return replace(aims, sets={**aims.sets, **found})


def alike(aims: Targets, others: Targets) -> Targets:
    """The same with the ranks that were found for others of the same tensors."""
    lowrank = {name: one for name, one in others.sets.items() if isinstance(one, LowRank)}
    return replace(aims, sets={**aims.sets, **lowrank})


@dataclass(frozen=True)
class Held:
    """What one constraint holds, for people."""

    settings: AnySet
    tensors: Parameters
    most: Mapping[str, int]
    """Entries beside zero that may stay at most, by tensor; none of those under a budget."""
    total: int | None
    """The same of all together, under a budget."""


def held(constraints: Sequence[AnySet], parameters: Parameters, cut: Callable[[], Cut] | None = None) -> list[Held]:
    """What each constraint holds, where nothing is wrong with them (`targets`)."""
    found = []
    for settings in constraints:
        meant = matching(settings, parameters)
        if is_coupled(settings):
            left = {} if cut is None else units.most(shares(settings, cut(), parameters), parameters)
            found.append(Held(settings, {name: parameters[name] for name in left} or meant, left, None))
        elif _is_global(settings):
            found.append(Held(settings, meant, {}, _budget(settings, meant).total))
        else:
            most = {name: set_of(settings, one).most(tuple(one.shape)) for name, one in meant.items()}
            found.append(Held(settings, meant, most, None))
    return found


def check_patterns(patterns: Mapping[int, Pattern], parameters: Parameters, model: str) -> list[Problem]:
    """What can be said of constraints' patterns, by number, when the rest of a stage is not sound."""
    return [
        (("constraints", number, *path), text)
        for number, pattern in patterns.items()
        for path, text in unmatched(pattern, parameters, model)
    ]


def _is_all(settings: AnySet) -> bool:
    """Whether all may stay: a set that holds nothing, and only says what a stage is to choose from."""
    return isinstance(settings, Grouped | Block) and settings.keep == 1


def _is_global(settings: AnySet) -> TypeGuard[Cardinality]:
    return isinstance(settings, Cardinality) and settings.scope == "global"


def _check_clash(name: str, kinds: tuple[str, ...], budgets: Sequence[Budget], last: AnySet) -> None:
    """Raise ValueError if the last of the sets on a tensor, whose names are `kinds`, can't be there."""
    if len(kinds) == 1:
        return
    if _is_global(last) or any(name in budget.names for budget in budgets):
        raise ValueError("a global budget can't be combined with another set; let patterns not overlap")
    reason = refusal(list(kinds))
    if reason is not None:
        raise ValueError(reason)


def set_of(settings: AnySet, parameter: Parameter, before: Sequence[Constraint] = ()) -> Constraint:
    """The set of a weight that is in the sets `before` already. Raises ValueError if it can't be."""
    shape, make = tuple(parameter.shape), SETS[settings.set].make
    tells = isinstance(settings, Grouped | NM)  # outputs from inputs
    made = Turned(make(settings, shape[::-1])) if tells and parameter.turned else make(settings, shape)
    left = min((one.most(shape) for one in before), default=math.prod(shape))
    if isinstance(settings, Clusters) and settings.count > left:
        raise ValueError(f"asks for {settings.count} clusters of the {left} weights that are left")
    return made


def _budget(settings: Cardinality, tensors: Parameters) -> Budget:
    size = sum(one.shape.numel() for one in tensors.values())
    return Budget(tuple(tensors), settings.entries(size), settings.floor, settings.scale)


def _overspent(budget: Budget, tensors: Parameters) -> list[str]:
    """Why a budget can't be spent on its tensors, if it can't."""
    sizes = [one.shape.numel() for one in tensors.values()]
    floors = sum(min(budget.floor, size) for size in sizes)
    if max(1, floors) <= budget.total <= sum(sizes):
        return []
    text = f"asks for {budget.total} of {sum(sizes)} weights, with at least {floors} for the floor of {budget.floor}"
    return [f"{text} in each of {len(sizes)} tensors: {shown(tensors, tensors)}"]
