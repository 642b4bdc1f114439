"""Weights that are replaced by their truncated singular value decompositions while they train (Xu et al. 2020).

Each rank decomposes some of the layers, and all take what it found: the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dualprune.stages.constraints.lowrank import LowRank
from dualprune.stages.constraints.spectrum import Spectrum
from dualprune.stages.engine.ranks import of_rank, placed, summed
from dualprune.stages.networks.edits import divisible
from dualprune.stages.networks.parameters import Parameters, parameters
from dualprune.stages.solver.admm import Tensors


@dataclass(frozen=True)
class Truncated:
    """What truncating came to."""

    ranks: dict[str, int]
    """Of each weight."""
    dropped: float
    """The share of the squared singular values of all of them that was left out."""


def truncate(tensors: Tensors, sets: Mapping[str, LowRank], shapes: Parameters, slopes: bool) -> Truncated:
    """Replace weights by the nearest of the least rank that leaves out no more than their sets' `energy`.

    With `slopes` their state `target` becomes W - U V^T: a penalty rho (W - target) is then rho times the sub-gradient
    of the nuclear norm there (stages.engine.proximal). On all ranks together; none holds more than two weights whole.
    """
    own, world = placed()
    names = sorted(sets, key=lambda name: -_work(sets[name], shapes[name].shape))
    facts = torch.zeros(len(names), 3, dtype=torch.float64)
    for first in range(0, len(names), world):
        turn, found = names[first : first + world], {}
        for owner, name in enumerate(turn):
            weight = tensors.get(name)  # on all ranks together, as what follows
            if owner == own:
                found[owner], numbers = _truncated(weight, sets[name], slopes)
                facts[first + owner] = torch.tensor(numbers, dtype=torch.float64)
        for owner, name in enumerate(turn):
            there = found.get(owner, torch.empty(1 + slopes, *shapes[name].shape, device=weight.device))
            value = of_rank(owner, there)
            tensors.set(name, value[0])
            if slopes:
                tensors.set(name, value[0] - value[1], "target")
    ranks, dropped, whole = summed(facts.to(weight.device)).cpu().unbind(1)
    share = float(dropped.sum() / whole.sum()) if bool(whole.any()) else 0.0
    return Truncated({name: int(rank) for name, rank in zip(names, ranks, strict=True)}, share)


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


def unable(network: nn.Module, names: Collection[str]) -> list[str]:
    """Of a network's weights with these names, why some are not those of a layer that can become two."""
    there, found = parameters(network), []
    for name in names:
        path, _, own = name.rpartition(".")
        try:
            if own != "weight":
                raise ValueError(f"{name} is one of several weights of its layer, which can't be factorised")
            if len(there[name].names) > 1:
                raise ValueError(f"{name} is tied to {there[name].names[1]}, and can't be factorised alone")
            divisible(network.get_submodule(path), path)
        except ValueError as error:
            found.append(str(error))
    return found
