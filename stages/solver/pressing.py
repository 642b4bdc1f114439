"""Gates under a penalty that weighs each by what it costs, and closed where it has brought them to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dualprune.stages.coupling.cut import cut, inputs
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.settings.sets import Grouped
from dualprune.stages.solver import gating
from dualprune.stages.solver.closing import Closing, Cost, Next, closing
from dualprune.stages.solver.coupled import shares
from dualprune.stages.solver.gating import Gates
from dualprune.stages.solver.shrinking import Inputs
from dualprune.stages.solver.targets import Targets


@dataclass(frozen=True)
class Pressing:
    """The gates of a network, what they are worth, and what is closed of them."""

    closing: Closing
    gates: Sequence[Gates]
    means: Mapping[str, float]
    """Of the gates of each space as the stage began, by its number as text, and each block's gate by its path."""
    worth: dict[str, NDArray[np.float64]]
    """Of each gate, by the same: the mean of the square of its gradient, if it were a factor of one."""

    def look(self, engine: Engine, momentum: str, keep: float) -> None:
        """Average what gates are worth: the share `keep` of it stays. On all ranks together.

        A factor on a unit has the gradient sum(w dL/dw) over what makes it. Of that the optimizer has a mean over a few
        batches, its state `momentum`. It is the first order of what closing costs (Molchanov et al. 2019).
        """
        for of in self.gates:
            self._average(str(of.share.number), gating.slopes(of, engine, momentum).double().cpu().numpy(), keep)
        for path, names in self.closing.blocks.items():
            slope = sum(float((engine.get(name).double() * engine.get(name, momentum)).sum()) for name in names)
            self._average(path, np.array([slope]), keep)

    def _average(self, key: str, slopes: NDArray[np.float64], keep: float) -> None:
        self.worth[key] = keep * self.worth[key] + (1 - keep) * slopes**2

    def press(self, engine: Engine, goal: float, by: float) -> None:
        """Take the share `by` of a mean gate from each of those that have no room in the share `goal` of the
        network's cost: the least worth for what they cost. Those that come to zero are closed. On all ranks
        together.
        """
        prices = self.closing.prices()
        weighed = {key: self.worth[str(key)] / max(price, 1e-30) for key, price in prices.items()}
        dead: list[Next] = []
        pressed = self.closing.weakest(self.closing.open(weighed), goal)
        for of in self.gates:
            units = [one for one in pressed if one.space == of.share.number]
            step = np.zeros(of.count)
            step[[one.unit for one in units]] = by * self.means[str(of.share.number)]
            if units:
                left = gating.shrink(engine, of, torch.from_numpy(step)).cpu().numpy()
                dead += [one for one in units if left[one.unit] == 0]
        for one in pressed:
            if one.block:
                norm = gating.shrink_whole(engine, self.closing.blocks[one.block], by * self.means[one.block])
                dead += [] if norm else [one]
        self._set(engine, self.closing.close(dead))

    def hold(self, engine: Engine) -> None:
        """Put what closed blocks add to their streams back to zero, where training has moved it."""
        for path in self.closing.shut:
            names = [name for name in self.closing.blocks[path] if name not in engine.masked]
            gating.close_whole(engine, names, ())

    def _set(self, engine: Engine, closed: Sequence[Next]) -> None:
        """Let tensors be zero where units and blocks were closed."""
        if not closed:
            return
        states, shapes = engine.inner_states(), self.closing.shapes
        gating.close(engine, self.gates, self.closing.gone, shapes, states)
        for path in (one.block for one in closed if one.block):
            within = [name for name in shapes if name.startswith(f"{path}.") and name in engine.masked]
            names = dict.fromkeys([*within, *self.closing.blocks[path]])
            gating.close_whole(engine, names, engine.masked, states)


def gates(targets: Targets) -> list[Gates]:
    """Those of all units that a stage's constraints are for."""
    return [gating.gates(share, targets.parameters) for share in targets.coupled]


def found(targets: Targets, network: nn.Module, objective: Objective, batch: Batch, cost: Cost) -> Closing:
    """What can be closed of a network of which the weights are any. The same on all ranks."""
    args, kwargs = inputs(objective, {name: values.cpu() for name, values in batch.items()})
    there: Closing = closing(network, args, kwargs, targets.coupled, targets.parameters, cost)
    whole, layers, blocks = agreed((there.whole, there.layers, there.blocks))
    return restored(targets, whole, layers, blocks, {}, [])


def restored(
    targets: Targets,
    whole: float,
    layers: Mapping[str, float],
    blocks: Mapping[str, Sequence[str]],
    gone: Mapping[str, Sequence[int]],
    shut: Sequence[str],
) -> Closing:
    """The same again, from what a checkpoint has of it."""
    spaces = {share.number: share.space for share in targets.coupled}
    closed = {number: np.zeros(space.size, np.bool_) for number, space in spaces.items()}
    for number, units in gone.items():
        closed[int(number)][list(units)] = True
    return Closing(spaces, targets.parameters, whole, layers, blocks, closed, list(shut))


def begun(engine: Engine, found: Closing, of: Sequence[Gates]) -> Pressing:
    """At a stage's beginning: units that are zero already count as closed. On all ranks together."""
    norms = {str(one.share.number): gating.norms(one, engine.get).double().cpu().numpy() for one in of}
    for one in of:
        found.gone[one.share.number][:] = norms[str(one.share.number)] == 0
    for path, names in found.blocks.items():
        norms[path] = np.array([gating.norm_of(engine.get(name) for name in names)])
    means = {key: max(float(values.mean()), 1e-30) for key, values in norms.items()}
    return Pressing(found, of, means, {key: np.zeros_like(values) for key, values in norms.items()})


def least(constraints: Sequence[Grouped], network: nn.Module, given: Inputs, cost: Cost) -> float:
    """The share of a network's cost that is left when all is closed that can be."""
    args, kwargs = given
    whole, there = cut(network, args, kwargs), parameters(network)
    every = [share for one in constraints for share in shares(one, whole, there)]
    return closing(network, args, kwargs, every, there, cost).least()
