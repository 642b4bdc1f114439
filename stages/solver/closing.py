"""What a network with closed units and blocks still costs, what closing one more would save, and which are next.

Costs are multiply-accumulates or weights of layers, in proportion to the units that stay of their outputs and inputs.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dualprune.stages.coupling.cut import macs
from dualprune.stages.coupling.proof import bare, weightless
from dualprune.stages.coupling.units import Place, Space
from dualprune.stages.networks.counting import Counted, counted
from dualprune.stages.networks.edits import EDITS
from dualprune.stages.networks.parameters import Parameters, weights
from dualprune.stages.solver import gating, residual
from dualprune.stages.solver.coupled import Share

Cost = Literal["macs", "weights"]
"""What a budget is of."""
Key = int | str
"""The number of a space, or the path of a block."""


class Next(NamedTuple):
    """A unit, or a block, that may be closed."""

    strength: float
    """The weaker, the sooner."""
    block: str
    """Its path; empty for a unit."""
    space: int = -1
    """The number of a unit's space."""
    unit: int = 0


@dataclass
class Closing:
    """Which units and blocks are closed, and what is left."""

    spaces: Mapping[int, Space]
    shapes: Parameters
    whole: float
    """What all costs, with nothing closed: multiply-accumulates for one sample, or weights."""
    layers: Mapping[str, float]
    """What each weight's layer does."""
    blocks: Mapping[str, Sequence[str]]
    """Residual blocks by path, with the tensors that are zero in one that is closed."""
    gone: dict[int, NDArray[np.bool_]]
    """Closed units, by the number of their space."""
    shut: list[str]
    """Closed blocks."""

    def left(self) -> dict[Place, float]:
        """The share of the positions that stay along each dimension that units are of."""
        found: dict[Place, float] = {}
        for number, space in self.spaces.items():
            for place in space.weights:
                closed = int(self.gone[number].sum()) * space.places[place].shape[1]
                found[place] = found.get(place, 1.0) - closed / self.shapes[place[0]].shape[place[1]]
        return found

    def rest(self) -> float:
        """The share of the cost that is left."""
        left = self.left()
        saved = sum(count - self._cost(name, left) for name, count in self.layers.items())
        return 1 - saved / self.whole

    def _cost(self, name: str, left: Mapping[Place, float], without: int = -1) -> float:
        """Of a layer, with all of one of its dimensions or with what is left of each."""
        if any(name.startswith(f"{path}.") for path in self.shut):
            return 0.0
        dims = range(len(self.shapes[name].shape))
        return self.layers[name] * prod(left.get((name, dim), 1.0) for dim in dims if dim != without)

    def prices(self) -> dict[Key, float]:
        """What one more unit of each space would save, or a block, relative to the mean over units that are open."""
        left = self.left()
        found: dict[Key, float] = {number: self._price(space, left) for number, space in self.spaces.items()}
        counts = {number: int((~closed).sum()) for number, closed in self.gone.items()}
        mean = sum(count * found[number] for number, count in counts.items()) / max(1, sum(counts.values()))
        for path in self.blocks:
            found[path] = sum((self._cost(name, left) for name in self.layers if name.startswith(f"{path}.")), 0.0)
        return {key: price / max(mean, 1e-30) for key, price in found.items()}

    def _price(self, space: Space, left: Mapping[Place, float]) -> float:
        each: dict[Place, float] = {}
        for name, dim in space.weights:
            each[name, dim] = space.places[name, dim].shape[1] / self.shapes[name].shape[dim]
        return sum((self._cost(name, left, dim) * share for (name, dim), share in each.items()), 0.0)

    def weakest(self, waiting: Iterable[Next], most: float) -> list[Next]:
        """Those of what waits that have to be closed for no more than the share `most` to be left: the weakest, as
        few as do. The last unit of a space goes only with its block."""
        order = sorted(waiting)
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            trial = self.copied()
            trial.close(order[:middle])
            low, high = (low, middle) if trial.rest() <= most else (middle + 1, high)
        return self.copied().close(order[:low])

    def close(self, those: Iterable[Next]) -> list[Next]:
        """Close units and blocks; gives those that were not yet, and that could be."""
        return [one for one in those if (self._shut(one.block) if one.block else self._close(one.space, one.unit))]

    def _close(self, number: int, unit: int) -> bool:
        able = not self.gone[number][unit] and int((~self.gone[number]).sum()) > 1
        if able:
            self.gone[number][unit] = True
        return able

    def _shut(self, path: str) -> bool:
        able = path not in self.shut
        if able:
            self.shut.append(path)
            for number, space in self.spaces.items():
                if all(name.startswith(f"{path}.") for name, _ in space.weights):
                    self.gone[number][:] = True
        return able

    def least(self) -> float:
        """The share that is left when all is closed that can be."""
        trial = self.copied()
        trial.close([Next(0.0, path) for path in self.blocks])
        trial.close([Next(0.0, "", n, unit) for n, closed in self.gone.items() for unit in range(len(closed))])
        return trial.rest()

    def copied(self) -> Closing:
        """Another, of which more may be closed."""
        found = copy.copy(self)
        found.gone, found.shut = {number: closed.copy() for number, closed in self.gone.items()}, list(self.shut)
        return found

    def open(self, strengths: Mapping[Key, NDArray[np.float64]]) -> list[Next]:
        """What is not closed, each as strong as that says: units by the number of their space, blocks by their path."""
        found = []
        for key, values in strengths.items():
            if isinstance(key, str):
                found += [Next(float(values[0]), key)] if key not in self.shut else []
            else:
                found += [Next(float(values[unit]), "", key, unit) for unit in np.flatnonzero(~self.gone[key]).tolist()]
        return found


def closing(
    network: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    shares: Sequence[Share],
    shapes: Parameters,
    cost: Cost = "macs",
) -> Closing:
    """A network in which nothing is closed yet. It is on the CPU, its weights are any, and it is left alone."""
    spaces = {share.number: share.space for share in shares}
    names = dict.fromkeys(name for space in spaces.values() for name, _ in space.weights)
    whole, layers = costs(network, args, kwargs, names, shapes, cost)
    gone = {number: np.zeros(space.size, np.bool_) for number, space in spaces.items()}
    return Closing(spaces, shapes, whole, layers, _blocks(network, args, kwargs, shares, shapes), gone, [])


def costs(
    network: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    names: Iterable[str],
    shapes: Parameters,
    cost: Cost,
) -> tuple[float, dict[str, float]]:
    """What all of a network costs, and the layers that have these weights. Its weights are any; it is left alone."""
    if cost == "macs":
        return _counted(network, args, kwargs, names)
    sizes = {name: float(one.shape.numel()) for name, one in weights(shapes).items()}
    return sum(sizes.values()), {name: sizes[name] for name in names}


def _counted(
    network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], names: Iterable[str]
) -> tuple[float, dict[str, float]]:
    """Multiply-accumulates for one sample, and those of the layers that have these weights."""
    whole, found = _ran(network, args, kwargs)
    layers = {name: found.modules.get(name.rpartition(".")[0], 0) * whole / max(1, found.macs) for name in names}
    return whole, layers


def products(
    network: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    share: Share,
    whole: float,
    layers: Mapping[str, float],
) -> float:
    """Multiply-accumulates for one sample that go with all units of a space and are of none of the layers that have its
    weights: products within attention go with heads.

    `whole` and `layers` are what `costs` gives. The network's weights are any; it is left alone.
    """
    space, shapes = share.space, dict(network.named_parameters())
    trial = copy.deepcopy(network)
    for edit in share.cut.edits({share.number: np.arange(space.size) < space.size - 1}):
        EDITS[edit.edit].apply(edit, trial)
    saved = whole - _ran(trial, args, kwargs)[0]
    left: dict[str, float] = {}
    for name, dim in space.weights:
        left[name] = left.get(name, 1.0) * (1 - space.places[name, dim].shape[1] / shapes[name].shape[dim])
    of_layers = sum(layers[name] * (1 - part) for name, part in left.items())
    return max(0.0, saved - of_layers) * space.size


def _ran(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float, Counted]:
    try:
        return _run(bare(network).eval(), weightless(tuple(args)), weightless(dict(kwargs)))
    except RuntimeError:  # code that looks at numbers, of a mask for example, can't do without them
        return _run(copy.deepcopy(network).eval(), args, kwargs)


@torch.no_grad()
def _run(network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[float, Counted]:
    whole = macs(network, args, kwargs)
    with counted() as found:
        network(*args, **kwargs)
    return whole, found


def _blocks(
    network: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], shares: Sequence[Share], shapes: Parameters
) -> dict[str, list[str]]:
    """Blocks that give what they are given when what they add to a stream is zero, and the tensors that say so."""
    network = copy.deepcopy(network).eval()
    found = {}
    for path in residual.blocks(network, args, kwargs):
        names = list(dict.fromkeys(name for share in shares for name in _added(share, f"{path}.", shapes)))
        if names and _passes(network, path, names, args, kwargs):
            found[path] = names
    return found


def _added(share: Share, within: str, shapes: Parameters) -> list[str]:
    """Of a stream that is made outside of a block too: the tensors in it that scale what it adds."""
    inside = [name.startswith(within) for name, _ in share.space.makers]
    if all(inside) or not any(inside):
        return []
    return [name for name in gating.gates(share, shapes).names if name.startswith(within)]


@torch.no_grad()
def _passes(
    network: nn.Module, path: str, names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    kept = {name: network.get_parameter(name).clone() for name in names}
    for name in names:
        network.get_parameter(name).zero_()
    same = path in residual.idle(network, args, kwargs, [path])
    for name, value in kept.items():
        network.get_parameter(name).copy_(value)
    return same
