"""Gates under a penalty that weighs each by what it costs, and closed where it has brought them to zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dualprune.stages.engine.engine import Engine
from dualprune.stages.solver import gating, shutting
from dualprune.stages.solver.closing import Closing, Next
from dualprune.stages.solver.gating import Gates


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
        shutting.shut(engine, self.closing, self.gates, self.closing.close(dead))


def begun(engine: Engine, found: Closing, of: Sequence[Gates]) -> Pressing:
    """At a stage's beginning: units that are zero already count as closed. On all ranks together."""
    norms = {str(one.share.number): gating.norms(one, engine.get).double().cpu().numpy() for one in of}
    for one in of:
        found.gone[one.share.number][:] = norms[str(one.share.number)] == 0
    for path, names in found.blocks.items():
        norms[path] = np.array([gating.norm_of(engine.get(name) for name in names)])
    means = {key: max(float(values.mean()), 1e-30) for key, values in norms.items()}
    return Pressing(found, of, means, {key: np.zeros_like(values) for key, values in norms.items()})
