"""Gates: one number for each unit of a space, the norm of what makes it, that training may bring to zero.

A network in which each unit has a scale of its own, learned under a penalty, is one in which the norm of what makes it
is under that penalty (the scale can be taken into the weights). So no scale is added: the group lasso's proximal step
(Yuan and Lin 2006) acts on whole units, makes exact zeros, and any optimizer moves the weights between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualprune.stages.coupling.units import Place, Space
from dualprune.stages.networks.parameters import Parameters
from dualprune.stages.solver import coupled
from dualprune.stages.solver.admm import Tensors
from dualprune.stages.solver.coupled import Share

NORMALISATION = ("_NormBase",)
"""Types of layers that give channels another scale: what comes before has none."""
Gone = Mapping[int, NDArray[np.bool_]]
"""By the number of a space: which of its units are closed."""


@dataclass(frozen=True)
class Gates:
    """The gates of the first so many units of a space."""

    share: Share
    places: tuple[Place, ...]
    """Dimensions of the tensors whose entries a gate is the norm of."""
    count: int
    """Of units."""
    size: int
    """Entries of each gate."""

    @property
    def names(self) -> list[str]:
        """The tensors, in the order in which they are read and written."""
        return list(dict.fromkeys(name for name, _ in self.places))

    def positions(self, place: Place) -> Tensor:
        """Along one dimension: int64, those of one unit after those of another."""
        return torch.from_numpy(self.share.space.places[place][: self.count].ravel())


def gates(share: Share, parameters: Parameters, count: int | None = None) -> Gates:
    """The gates of a space's first `count` units, or of all.

    Where at least as many batch normalisations as weights are on it, what makes a unit is their scales and biases:
    before them, the size of a weight has no effect. Elsewhere it is the filters or rows, their biases, and scales and
    biases of such normalisations as there are. What reads it is no part.
    """
    space = share.space
    count = space.size if count is None else count
    trained = [(name, dim) for name, dim in space.places if name in parameters and parameters[name].trained]
    scales = [place for place in trained if parameters[place[0]].of_types(NORMALISATION)]
    makers = [place for place in space.makers if place in trained]
    found = scales
    if len({_layer(name) for name, _ in scales}) < len(makers):
        layers = {_layer(name) for name, _ in makers}
        biases = [one for one in trained if _layer(one[0]) in layers and len(parameters[one[0]].shape) == 1]
        found = [*makers, *biases, *scales]
    places = tuple(dict.fromkeys(found))
    return Gates(share, places, count, sum(_entries(space, place, parameters) for place in places))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _entries(space: Space, place: Place, parameters: Parameters) -> int:
    """Of a tensor, those that are one unit's."""
    name, dim = place
    shape = parameters[name].shape
    each: int = space.places[place].shape[1]
    return each * math.prod(shape) // shape[dim]


def norms(of: Gates, value: Callable[[str], Tensor]) -> Tensor:
    """The gates [count], on the tensors' device. `value` gives tensors by name, all ranks in the same order."""
    return _norms(of, {name: value(name) for name in of.names})


def _norms(of: Gates, values: Mapping[str, Tensor]) -> Tensor:
    return _summed(of, {name: value.square() for name, value in values.items()}).sqrt()


def _summed(of: Gates, values: Mapping[str, Tensor]) -> Tensor:
    """Over the entries of each gate."""
    found = torch.zeros(of.count, device=values[of.names[0]].device)
    for name, dim in of.places:
        rows = values[name].detach().movedim(dim, 0)
        found += rows[of.positions((name, dim)).to(rows.device)].reshape(of.count, -1).sum(1)
    return found


def slopes(of: Gates, tensors: Tensors, momentum: str) -> Tensor:
    """The gradient of a factor on each unit [count], from the mean of gradients that the optimizer has by that name."""
    return _summed(of, {name: tensors.get(name) * tensors.get(name, momentum) for name in of.names})


def shrink(tensors: Tensors, of: Gates, by: Tensor | float) -> Tensor:
    """The proximal step of sum(by * gate): each gate g becomes max(0, g - by), its entries in proportion.

    Gives the gates [count] as they are then. On all ranks together.
    """
    values = {name: tensors.get(name) for name in of.names}
    before = _norms(of, values)
    factors = (1 - torch.as_tensor(by, dtype=before.dtype, device=before.device) / before.clamp(min=1e-30)).clamp(min=0)
    for name, dim in of.places:
        rows, positions = values[name].movedim(dim, 0), of.positions((name, dim)).to(before.device)
        each = factors.repeat_interleave(len(positions) // of.count)
        rows[positions] *= each.view(-1, *[1] * (rows.ndim - 1))
    for name, value in values.items():
        tensors.set(name, value)
    return before * factors


def close(tensors: Tensors, found: Sequence[Gates], gone: Gone, shapes: Parameters, states: Sequence[str] = ()) -> None:
    """Set units to zero in all that makes and reads them, and keep their weights there: masks say so.

    `states` are the names of what an optimizer remembers of each entry, which would move them on.
    """
    some = [one for one in found if one.share.number in gone and gone[one.share.number].any()]
    stays = {one.share.number: ~gone[one.share.number] for one in some}
    for name, kept in coupled.slices([one.share for one in some], stays, shapes).items():
        for state in (None, "mask", *states):
            tensors.set(name, kept.project(tensors.get(name, state)), state)
    for one in some:
        for place in one.places:
            if len(shapes[place[0]].shape) == 1:  # scales and biases, which no mask keeps there; nothing moves them on
                _zero(tensors, place[0], one.share.space.places[place][gone[one.share.number]].ravel(), states)


def _zero(tensors: Tensors, name: str, positions: NDArray[np.int64], states: Sequence[str]) -> None:
    for state in (None, *states):
        value = tensors.get(name, state)
        value[torch.from_numpy(positions).to(value.device)] = 0.0
        tensors.set(name, value, state)


def shrink_whole(tensors: Tensors, names: Sequence[str], by: float) -> float:
    """The proximal step of `by` times the norm of all entries of some tensors; that norm then."""
    values = {name: tensors.get(name) for name in names}
    norm = norm_of(values.values())
    for name, value in values.items():
        tensors.set(name, value * max(0.0, 1 - by / max(norm, 1e-30)))
    return max(0.0, norm - by)


def norm_of(values: Iterable[Tensor]) -> float:
    """Of all entries of some tensors."""
    return math.sqrt(sum(float(value.double().square().sum()) for value in values))


def close_whole(tensors: Tensors, names: Iterable[str], masked: Container[str], states: Sequence[str] = ()) -> None:
    """Set tensors to zero; those that are `masked` stay so."""
    for name in names:
        for state in (None, *(("mask",) if name in masked else ()), *states):
            tensors.set(name, torch.zeros_like(tensors.get(name)), state)
