"""Weights that are replaced by their truncated singular value decompositions while they train (Xu et al. 2020).

Each rank decomposes some of the layers, and all take what it found: the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.spectrum import Spectrum
from dualprune.stages.engine.ranks import here, of_rank, placed, summed
from dualprune.stages.networks.edits import divisible
from dualprune.stages.networks.parameters import Parameters, parameters
from dualprune.stages.settings import sets
from dualprune.stages.settings.base import Problem
from dualprune.stages.solver.admm import Tensors
from dualprune.stages.solver.patterns import matching


@dataclass(frozen=True)
class Truncated:
    """What truncating came to."""

    ranks: dict[str, list[int]]
    """Of each weight: how many there could be, and how many there are."""
    dropped: float
    """The share of the squared singular values of all of them that was left out."""


def truncate(tensors: Tensors, constraints: Sequence[sets.LowRank], shapes: Parameters, slopes: bool) -> Truncated:
    """Replace weights by the nearest of the least rank that leaves out no more than their constraint's `energy`.

    With `slopes` their state `target` becomes W - U V^T: a penalty rho (W - target) is then rho times the sub-gradient
    of the nuclear norm there (stages.engine.proximal). On all ranks together; each holds a weight or two at a time.
    """
    (own, world), device = placed(), here()
    found = _held(constraints, shapes)
    names = sorted(found, key=lambda name: -_work(found[name], shapes[name].shape))
    facts = torch.zeros(len(names), 3, dtype=torch.float64)
    for first in range(0, len(names), world):
        turn, mine = names[first : first + world], {}
        for owner, name in enumerate(turn):
            weight = tensors.get(name)  # on all ranks together, as what follows
            if owner == own:
                mine[owner], numbers = _truncated(weight.to(device), found[name], slopes)
                facts[first + owner] = torch.tensor(numbers, dtype=torch.float64)
        for owner, name in enumerate(turn):
            there = mine[owner] if owner in mine else torch.empty(1 + slopes, *shapes[name].shape, device=device)
            value = of_rank(owner, there)
            tensors.set(name, value[0])
            if slopes:
                tensors.set(name, value[0] - value[1], "target")
    ranks, dropped, whole = summed(facts.to(device)).cpu().unbind(1)
    full = [min(found[name].sides(shapes[name].shape)) for name in names]
    told = {name: [most, int(rank)] for name, most, rank in zip(names, full, ranks, strict=True)}
    return Truncated(told, float(dropped.sum() / whole.sum()) if bool(whole.any()) else 0.0)


def _held(constraints: Sequence[sets.LowRank], shapes: Parameters) -> dict[str, LowRank]:
    """What each weight is truncated to."""
    return {name: LowRank(energy=one.energy, view=one.view) for one in constraints for name in matching(one, shapes)}


def _truncated(weight: Tensor, to: LowRank, slopes: bool) -> tuple[Tensor, tuple[float, float, float]]:
    """A weight's truncation and, with `slopes`, U V^T of it, stacked; its rank, the energy left out, and all energy."""
    assert to.energy is not None
    of = Spectrum.of(weight, to.view)
    rank = of.least(to.energy)
    parts = [of.truncated(rank), *([of.slope(rank)] if slopes else [])]
    return torch.stack(parts), (rank, *of.dropped(rank))


def _work(of: LowRank, shape: tuple[int, ...]) -> int:
    """Multiplications that a decomposition takes, about."""
    short, long = sorted(of.sides(shape))
    return short * short * (short + long)


def unable(network: nn.Module, constraints: Sequence[sets.LowRank]) -> list[Problem]:
    """Why weights of a network can't be those of layers that become two."""
    there = parameters(network)
    problems: list[Problem] = []
    for number, one in enumerate(constraints):
        for name, weight in matching(one, there).items():
            path, _, own = name.rpartition(".")
            try:
                if own != "weight":
                    raise ValueError(f"{name} is one of several weights of its layer, which can't be factorised")
                if len(weight.names) > 1:
                    raise ValueError(f"{name} is tied to {weight.names[1]}, and can't be factorised alone")
                divisible(network.get_submodule(path), path)
            except ValueError as error:
                problems.append((("constraints", number), f"{error}; leave it out"))
    return problems
