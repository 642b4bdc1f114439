"""Coupled sets: at most k units of a space are not zero, over all the weights that make or read them.

A unit's score is its Euclidean norm over all of these. Where no weight is of two spaces this is the projection; where
one is (its outputs of one, its inputs of another), each space is decided on its own, and the result lies in all sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.constraints.select import largest
from dualprune.stages.constraints.slices import Slices
from dualprune.stages.coupling.cut import Cut, first
from dualprune.stages.coupling.units import Space
from dualprune.stages.networks.parameters import Parameters
from dualprune.stages.settings.sets import Grouped
from dualprune.stages.solver.patterns import matching


@dataclass(frozen=True)
class Share:
    """At most so many units of a space stay."""

    number: int
    """Of the space, in its network's coupling."""
    space: Space
    keep: int
    cut: Cut = field(compare=False, repr=False)
    """Where the space is from."""


def shares(settings: Grouped, cut: Cut, parameters: Parameters) -> list[Share]:
    """What a coupled constraint holds. Raises ValueError if that is nothing, or can't be.

    It is for a space if its pattern matches all weights that make it, or of `channel` all that read it.
    """
    meant = matching(settings, parameters)
    numbers = [number for number, space in enumerate(cut.spaces) if _meant(settings, space, meant)]
    if not numbers:
        raise ValueError(_none(settings, cut))
    keeps = (
        {n: _keep(settings, cut.spaces[n]) for n in numbers}
        if settings.macs is None
        else _within(settings, cut, numbers)
    )
    return [Share(n, cut.spaces[n], keep, cut) for n, keep in keeps.items()]


def _within(settings: Grouped, cut: Cut, numbers: Sequence[int]) -> dict[int, int]:
    """How many units stay of each of some spaces so that no more than `macs` of the multiply-accumulates are left.

    By one share of all, and of those that this rounds down the most, one step more where there is room for it.
    """
    assert settings.macs is not None
    most, share = settings.macs * cut.macs({}), cut.share(numbers, settings.macs, settings.units)
    sizes = {n: cut.spaces[n].size for n in numbers}
    keeps = {n: settings.units(share, cut.spaces[n]) for n in numbers}
    for n in sorted(numbers, key=lambda n: keeps[n] / sizes[n]):
        trial = keeps | {n: min(sizes[n], keeps[n] + settings.step(cut.spaces[n]))}
        if trial != keeps and cut.macs({one: first(sizes[one], keep) for one, keep in trial.items()}) <= most:
            keeps = trial
    return keeps


def _meant(settings: Grouped, space: Space, meant: Parameters) -> bool:
    """Whether a constraint on these tensors is for a space. Rows are outputs of linear layers alone."""
    ends = [name for name, _ in (space.readers if settings.set == "channel" else space.makers)]
    if space.heads != (settings.set == "head") or not all(name in meant for name in ends):
        return False
    return settings.set != "row" or all(len(meant[name].shape) == 2 for name in ends)


def _keep(settings: Grouped, space: Space) -> int:
    wanted = settings.entries(space.size)
    if wanted > space.size:
        raise ValueError(f"asks for {wanted} {settings.set}s, but there are {space.size} of {space.name}")
    return settings.rounded(wanted, space)


def _none(settings: Grouped, cut: Cut) -> str:
    text = f"no {settings.set}s of it can go"
    if cut.refused:
        name, reason = next(iter(cut.refused.items()))
        return f"{text}: of {len(cut.refused)} groups that go together none may be cut; of {name}, {reason}"
    if cut.coupling.unknown:
        return f"{text}; operations that are not understood keep what they touch: {', '.join(cut.coupling.unknown)}"
    return f"{text}: all that make one of them must match, and the network's inputs and outputs stay"


def stays(found: Sequence[Share], value: Callable[[str], Tensor]) -> dict[int, NDArray[np.bool_]]:
    """Which units stay, by the number of their space: those of largest norm, of equal ones the first.

    `value` gives weights by name, and may be a collective that all ranks call in the same order. Raises ValueError on
    NaN.
    """
    scores = {share.number: torch.zeros(share.space.size, dtype=torch.float64) for share in found}
    for name, dims in _places(found).items():
        squares = value(name).detach().double().square()
        for dim, share in dims:
            sums = squares.sum([axis for axis in range(squares.ndim) if axis != dim]).cpu()
            scores[share.number] += sums[torch.from_numpy(share.space.places[name, dim])].sum(1)
    return {share.number: largest(scores[share.number].sqrt(), share.keep).numpy() for share in found}


def slices(found: Sequence[Share], units: Mapping[int, NDArray[np.bool_]], shapes: Parameters) -> dict[str, Slices]:
    """What units that stay leave of each tensor."""
    kept: dict[str, Slices] = {}
    for name, dims in _places(found).items():
        left: dict[int, Tensor] = {}
        for dim, share in dims:
            stay = left.setdefault(dim, torch.ones(shapes[name].shape[dim], dtype=torch.bool))
            stay[torch.from_numpy(share.space.places[name, dim][~units[share.number]].ravel())] = False
        kept[name] = Slices(left)
    return kept


def most(found: Sequence[Share], shapes: Parameters) -> dict[str, int]:
    """Entries that stay of each tensor at most."""
    sizes = {name: list(shapes[name].shape) for name in _places(found)}
    for name, dims in _places(found).items():
        for dim, share in dims:
            sizes[name][dim] -= (share.space.size - share.keep) * share.space.places[name, dim].shape[1]
    return {name: prod(of) for name, of in sizes.items()}


def _places(found: Sequence[Share]) -> dict[str, list[tuple[int, Share]]]:
    """By weight: the dimensions that are cut, and of which space."""
    places: dict[str, list[tuple[int, Share]]] = {}
    for share in found:
        for name, dim in share.space.weights:
            places.setdefault(name, []).append((dim, share))
    return places
