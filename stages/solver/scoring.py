"""Units with a learned score each, in groups with a learned threshold each: which stay, what that costs, and veils.

Of a group of n units the first ceil(sigmoid(threshold) n) by score stay, one at least. What is left of a layer is the
product of the shares that are left along its outputs and its inputs, or of its tiles; of products within attention, the
share of heads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dualprune.stages.coupling.cut import inputs
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.networks.parameters import Parameters
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.sets import AnySet, Block
from dualprune.stages.solver import gating, shutting
from dualprune.stages.solver.closing import Cost, costs, products
from dualprune.stages.solver.coupled import Share
from dualprune.stages.solver.patterns import matching
from dualprune.stages.solver.shrinking import Inputs
from dualprune.stages.solver.targets import Targets, is_coupled

Sort = Literal["head", "filter", "row", "block"]
HALVINGS = 48
"""Of the interval in which thresholds are moved to the budget."""
FAR = 60.0
"""Thresholds that are moved by as much leave all units, or one."""


@dataclass(frozen=True)
class Along:
    """A mask of units along a dimension of a tensor."""

    name: str
    dim: int
    units: Tensor
    """int64, the unit of each position; their number for positions of none."""
    axes: int
    """Dimensions of the tensor."""

    def factor(self, mask: Tensor) -> Tensor:
        """What the tensor is times."""
        every = torch.cat([mask, mask.new_ones(1)])[self.units.to(mask.device)]
        return every.view([-1 if axis == self.dim else 1 for axis in range(self.axes)])


@dataclass(frozen=True)
class Tiled:
    """A mask of tiles of a tensor's matrix form."""

    name: str
    shape: tuple[int, ...]
    p: int
    q: int

    def factor(self, mask: Tensor) -> Tensor:
        """What the tensor is times."""
        rows, columns = self.shape[0] // self.p, math.prod(self.shape[1:]) // self.q
        return mask.view(rows, 1, columns, 1).expand(rows, self.p, columns, self.q).reshape(self.shape)


@dataclass(frozen=True)
class Group:
    """Units of one sort and layer."""

    sort: Sort
    name: str
    """The first weight that they are of."""
    size: int
    """Units."""
    laid: tuple[Along | Tiled, ...]
    """What their mask is laid over."""
    left: Mapping[tuple[str, int], float]
    """Dimensions of weights of which units that go leave less, and the share of their positions that are units'; -1 for
    a tensor's tiles."""
    gates: gating.Gates | None = None
    """Of units that go together with what reads them."""

    @property
    def label(self) -> str:
        """What it goes by."""
        return f"{self.sort} {self.name}"


def groups(constraints: Sequence[AnySet], coupled: Sequence[Share], shapes: Parameters) -> list[Group]:
    """The groups that constraints are for: of coupled ones a group for each share, of others one for each tensor."""
    found = [_coupled(share, shapes) for share in coupled]
    for settings in constraints:
        if not is_coupled(settings):
            found += [_alone(settings, name, shapes) for name in matching(settings, shapes)]
    return found


def _coupled(share: Share, shapes: Parameters) -> Group:
    of, space = gating.gates(share, shapes), share.space
    laid = []
    for name, dim in of.places:
        units = torch.full((shapes[name].shape[dim],), space.size)
        positions = torch.from_numpy(space.places[name, dim])
        units[positions.ravel()] = torch.arange(space.size).repeat_interleave(positions.shape[1])
        laid.append(Along(name, dim, units, len(shapes[name].shape)))
    left = {(name, dim): space.places[name, dim].size / shapes[name].shape[dim] for name, dim in space.weights}
    return Group("head" if space.heads else "filter", space.name, space.size, tuple(laid), left, of)


def _alone(settings: AnySet, name: str, shapes: Parameters) -> Group:
    shape = tuple(shapes[name].shape)
    if isinstance(settings, Block):
        tiles = math.prod(shape) // (settings.p * settings.q)
        return Group("block", name, tiles, (Tiled(name, shape, settings.p, settings.q),), {(name, -1): 1.0})
    laid, every = [Along(name, 0, torch.arange(shape[0]), len(shape))], torch.arange(shape[0])
    bias = shapes.get(name.removesuffix("weight") + "bias")
    if bias is not None and bias.trained and tuple(bias.shape) == shape[:1]:
        laid.append(Along(name.removesuffix("weight") + "bias", 0, every, 1))
    return Group("row", name, shape[0], tuple(laid), {(name, 0): 1.0})


def clashes(constraints: Sequence[AnySet], coupled: Sequence[Share], shapes: Parameters) -> list[Problem]:
    """Tensors of which one dimension would be in two groups: what is left of them would be known of neither."""
    first: dict[tuple[str, int], str] = {}
    for share in coupled:
        first |= dict.fromkeys(share.space.weights, "head" if share.space.heads else "filter")
    problems: list[Problem] = []
    for number, settings in enumerate(constraints):
        for name in () if is_coupled(settings) else matching(settings, shapes):
            place = (name, -1 if isinstance(settings, Block) else 0)
            met = [
                sort for (other, dim), sort in first.items() if other == name and (-1 in (dim, place[1]) or dim == 0)
            ]
            if met:
                text = f"{name} is held by `{met[0]}` too, so that what is left of it could not be told"
                problems.append((("constraints", number), f"{text}; leave it out here, or put this in a later stage"))
            first[place] = settings.set
    return problems


@dataclass(frozen=True)
class Scored:
    """Groups of units, and what the network costs."""

    groups: Sequence[Group]
    whole: float
    """What all costs: multiply-accumulates for one sample, or weights."""
    layers: Mapping[str, float]
    """What each weight's layer does."""
    products: Sequence[float]
    """Of each group, what goes with its units and is of no layer: products within attention."""
    dead: Sequence[NDArray[np.int64]]
    """Of each group, units that were zero as the stage began."""

    @property
    def alive(self) -> Tensor:
        """Of each group, how many units may stay: fp64 [groups]."""
        pairs = zip(self.groups, self.dead, strict=True)
        return torch.tensor([group.size - len(dead) for group, dead in pairs], dtype=torch.float64)

    @property
    def sizes(self) -> Tensor:
        """Of each group, how many units there are: fp64 [groups]."""
        return torch.tensor([group.size for group in self.groups], dtype=torch.float64)

    def shares(self, thresholds: Tensor) -> Tensor:
        """The share of each group's units that thresholds [groups] leave, by which they have a gradient."""
        alive = self.alive
        least = 1 / alive.clamp(min=1)
        return torch.maximum(torch.sigmoid(thresholds.double()), least) * alive / self.sizes

    def counts(self, thresholds: Tensor) -> list[int]:
        """How many units of each group stay."""
        some = (torch.sigmoid(thresholds.double()) * self.alive * (1 - 1e-12)).ceil()
        return [int(one) for one in torch.minimum(some.clamp(min=1), self.alive)]

    def rest(self, shares: Tensor) -> Tensor:
        """The share of the cost that is left where these shares of the groups' units [groups] are."""
        one = torch.ones((), dtype=torch.float64)
        left: dict[str, dict[int, Tensor]] = {name: {} for name in self.layers}
        for share, group in zip(shares, self.groups, strict=True):
            for (name, dim), part in group.left.items():
                left[name][dim] = left[name].get(dim, one) - part * (1 - share)
        saved = [does * (1 - math.prod(left[name].values(), start=one)) for name, does in self.layers.items()]
        saved += [does * (1 - share) for share, does in zip(shares, self.products, strict=True)]
        return 1 - torch.stack(saved).sum() / self.whole

    def cost(self, counts: Sequence[int]) -> float:
        """The share that is left with so many units of each group."""
        return float(self.rest(torch.tensor(counts, dtype=torch.float64) / self.sizes))

    def least(self) -> float:
        """The share that is left with one unit of each group."""
        return self.cost([int(one) for one in self.alive.clamp(max=1)])

    def within(self, thresholds: Tensor, budget: float) -> list[int]:
        """How many units of each group stay when thresholds are moved so that just the budget is left.

        All are moved by the same, as far as that fits; then all but those of groups of which a unit more would not fit,
        and so on. `budget` is not below `least()`.
        """
        at, counts = thresholds.detach().double(), self.counts(torch.full_like(thresholds, -FAR))
        free = list(range(len(counts)))
        while free:
            low, high = -FAR - float(at.max()), FAR - float(at.min())
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                fits = self.cost(self._moved(at + middle, counts, free)) <= budget
                low, high = (middle, high) if fits else (low, middle)
            counts, more = self._moved(at + low, counts, free), self._moved(at + high, counts, free)
            full = [number for number in free if more[number] > counts[number]] or free
            free = [number for number in free if number not in full]
        return counts

    def _moved(self, thresholds: Tensor, counts: Sequence[int], free: Sequence[int]) -> list[int]:
        """Counts, of which those of free groups are what thresholds say."""
        said = self.counts(thresholds)
        return [said[number] if number in free else count for number, count in enumerate(counts)]

    def kept(self, scores: Sequence[Tensor], counts: Sequence[int]) -> list[Tensor]:
        """Of each group which units stay, bool: those of the highest score, of equal ones the first."""
        found = []
        for values, dead, count in zip(scores, self.dead, counts, strict=True):
            order = values.detach().cpu().double().numpy().copy()
            order[dead] = -math.inf
            mask = torch.zeros(len(order), dtype=torch.bool)
            mask[torch.from_numpy(np.argsort(-order, kind="stable")[:count])] = True
            found.append(mask)
        return found


def scored(
    engine: Engine,
    targets: Targets,
    constraints: Sequence[AnySet],
    network: nn.Module,
    objective: Objective,
    batch: Batch,
    cost: Cost,
) -> Scored:
    """The groups of a stage's network as it begins. On all ranks together.

    `network` is one whose weights are any, on the CPU; it is left alone.
    """
    of = groups(constraints, targets.coupled, targets.parameters)
    given = inputs(objective, {name: values.cpu() for name, values in batch.items()})
    whole, layers, beside = agreed(_costs(network, given, of, targets.parameters, cost))
    return Scored(of, whole, layers, beside, dead(engine, of))


def _costs(
    network: nn.Module, given: Inputs, of: Sequence[Group], shapes: Parameters, cost: Cost
) -> tuple[float, dict[str, float], list[float]]:
    """What all costs, what each weight's layer does, and what goes with each group beside."""
    args, kwargs = given
    names = dict.fromkeys(name for group in of for name, _ in group.left)
    whole, layers = costs(network, args, kwargs, names, shapes, cost)
    attends = [group.gates.share if group.sort == "head" and group.gates and cost == "macs" else None for group in of]
    return whole, layers, [products(network, args, kwargs, one, whole, layers) if one else 0.0 for one in attends]


def least(constraints: Sequence[AnySet], network: nn.Module, given: Inputs, cost: Cost) -> float:
    """The share of a network's cost that is left with one unit of each group. Raises ValueError."""
    every, there = shutting.plain([one for one in constraints if is_coupled(one)], network, given)
    found = groups(constraints, every, there)
    return Scored(found, *_costs(network, given, found, there, cost), [np.zeros(0, np.int64)] * len(found)).least()


def dead(engine: Engine, of: Sequence[Group]) -> list[NDArray[np.int64]]:
    """Of each group the units that are zero already. On all ranks together."""
    found = []
    for group in of:
        if group.gates is not None:
            norms = gating.norms(group.gates, engine.get)
        else:
            first = group.laid[0]
            norms = _summed(first, engine.get(first.name).abs(), group.size)
        found.append(np.flatnonzero((norms == 0).cpu().numpy()))
    return found


def _summed(over: Along | Tiled, values: Tensor, size: int) -> Tensor:
    """Over the entries of each unit [size]."""
    with torch.enable_grad():
        ones = torch.ones(size, device=values.device, requires_grad=True)
        (found,) = torch.autograd.grad((over.factor(ones) * values).sum(), ones)
    return found


def close(engine: Engine, of: Sequence[Group], kept: Sequence[Tensor], shapes: Parameters) -> None:
    """Set what does not stay to zero, and keep its weights there: masks say so. On all ranks together.

    Rows' biases become zero too, and train on.
    """
    states = engine.inner_states()
    pairs = list(zip(of, kept, strict=True))
    gates = [group.gates for group, _ in pairs if group.gates is not None]
    gone = {group.gates.share.number: (~stays).numpy() for group, stays in pairs if group.gates is not None}
    gating.close(engine, gates, gone, shapes, states)
    for group, stays in pairs:
        for over in group.laid if group.gates is None else ():
            factor = over.factor(stays.float())
            for state in (None, *(("mask",) if over.name in engine.masked else ()), *states):
                value = engine.get(over.name, state)
                engine.set(over.name, value * factor.to(value.device), state)
