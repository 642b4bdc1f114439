"""Gates under a penalty that weighs each by what it costs, and closed where it has brought them to zero."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from dualprune.stages.solver.closing import Closing, Key, Next, closing
from dualprune.stages.solver.coupled import shares
from dualprune.stages.solver.gating import Gates
from dualprune.stages.solver.shrinking import Inputs
from dualprune.stages.solver.targets import Targets


@dataclass(frozen=True)
class Pressing:
    """The gates of a network, and what is closed of them."""

    closing: Closing
    gates: Sequence[Gates]
    totals: Mapping[str, float]
    """Sums of squares of gates, as the stage began: of the units of a space, by its number as text, and of the blocks
    that add to the same stream, by the path of each."""

    def press(self, engine: Engine, budget: float, by: float) -> list[Next]:
        """Take the share `by` of a mean gate from each of those that the budget leaves no room for, the least worth for
        what they cost. Those that come to zero are closed, and given. On all ranks together.
        """
        prices, norms = self.closing.prices(), dict(self._norms(engine))
        weighed = {key: worth / max(prices[key], 1e-30) for key, worth in self._worth(norms)}
        pressed = self.closing.weakest(self.closing.open(weighed), budget)
        steps = {key: np.zeros_like(norm) for key, norm in norms.items()}
        for one in pressed:
            key = one.block or one.space
            steps[key][one.unit] = by * (self.totals[str(key)] / self._count(key)) ** 0.5
        for of in self.gates:
            if (step := steps[of.share.number]).any():
                gating.shrink(engine, of, torch.from_numpy(step))
        for path, names in self.closing.blocks.items():
            if steps[path].any():
                gating.shrink_whole(engine, names, float(steps[path][0]))
        dead = [one for one in pressed if norms[key := one.block or one.space][one.unit] <= steps[key][one.unit]]
        closed = self.closing.close(dead)
        self._set(engine, closed)
        return closed

    def _count(self, key: Key) -> int:
        """How many gates the total of one is of."""
        if not isinstance(key, str):
            return self.closing.spaces[key].size
        return next(len(paths) for paths in streams(self.closing, self.gates).values() if key in paths)

    def _worth(self, norms: Mapping[Key, NDArray[np.float64]]) -> Iterator[tuple[Key, NDArray[np.float64]]]:
        """What each gate is worth: in the mean, and while all are open, as many as weights add to a unit, or as units
        that a block adds to."""
        for number, space in self.closing.spaces.items():
            found = worth(norms[number] ** 2, ~self.closing.gone[number], self.totals[str(number)])
            yield number, found * space.size * len(space.makers)
        for number, paths in streams(self.closing, self.gates).items():
            squares = np.array([norms[path][0] ** 2 for path in paths])
            open_ = np.array([path not in self.closing.shut for path in paths])
            found = worth(squares, open_, self.totals[paths[0]]) * len(paths) * self.closing.spaces[number].size
            yield from ((path, found[at : at + 1]) for at, path in enumerate(paths))

    def hold(self, engine: Engine) -> None:
        """Put what closed blocks add to their streams back to zero, where training has moved it."""
        for path in self.closing.shut:
            names = [name for name in self.closing.blocks[path] if name not in engine.masked]
            gating.close_whole(engine, names, ())

    def _norms(self, engine: Engine) -> Iterator[tuple[Key, NDArray[np.float64]]]:
        for of in self.gates:
            yield of.share.number, gating.norms(of, engine.get).double().cpu().numpy()
        for path, names in self.closing.blocks.items():
            yield path, np.array([gating.norm_of(engine.get(name) for name in names)])

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


def found(targets: Targets, network: nn.Module, objective: Objective, batch: Batch) -> Closing:
    """What can be closed of a network of which the weights are any. The same on all ranks."""
    args, kwargs = inputs(objective, {name: values.cpu() for name, values in batch.items()})
    there: Closing = closing(network, args, kwargs, targets.coupled, targets.parameters)
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
    norms = dict(Pressing(found, of, {})._norms(engine))
    for one in of:
        found.gone[one.share.number][:] = norms[one.share.number] == 0
    totals = {str(one.share.number): float((norms[one.share.number] ** 2).sum()) for one in of}
    for paths in streams(found, of).values():
        totals |= dict.fromkeys(paths, float(sum(norms[path][0] ** 2 for path in paths)))
    return Pressing(found, of, totals)


def streams(found: Closing, of: Sequence[Gates]) -> dict[int, list[str]]:
    """The blocks that add to each stream, by the number of its space."""
    by: dict[int, list[str]] = {}
    for path, names in found.blocks.items():
        by.setdefault(next(one.share.number for one in of if names[0] in one.names), []).append(path)
    return by


def worth(squares: NDArray[np.float64], open_: NDArray[np.bool_], total: float) -> NDArray[np.float64]:
    """What is lost with each of several gates, where what all together are worth is minus one over the share that is
    left of their squares: with the weakest little, and ever more as fewer are left."""
    order = np.argsort(np.where(open_, squares, np.inf), kind="stable")
    left = np.cumsum(np.where(open_, squares, 0.0)[order][::-1])[::-1]
    found = np.zeros_like(squares)
    found[order] = squares[order] * total / np.maximum(left, 1e-30) ** 2
    return found


def least(constraints: Sequence[Grouped], network: nn.Module, given: Inputs) -> float:
    """The share of a network's multiply-accumulates that is left when all is closed that can be."""
    args, kwargs = given
    whole, there = cut(network, args, kwargs), parameters(network)
    every = [share for one in constraints for share in shares(one, whole, there)]
    return closing(network, args, kwargs, every, there).least()
