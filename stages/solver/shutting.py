"""What a stage may close of its network while it trains: found, put together again from a checkpoint, and closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from dualprune.stages.coupling.cut import cut, inputs
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import agreed
from dualprune.stages.networks.parameters import Parameters, parameters
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.settings.sets import Grouped
from dualprune.stages.solver import gating
from dualprune.stages.solver.closing import Closing, Cost, Next, closing
from dualprune.stages.solver.coupled import Share, shares
from dualprune.stages.solver.gating import Gates
from dualprune.stages.solver.shrinking import Inputs
from dualprune.stages.solver.targets import Targets


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


def shut(engine: Engine, closing: Closing, gates: Sequence[Gates], closed: Sequence[Next]) -> None:
    """Let tensors be zero where units and blocks were closed, these among them. On all ranks together."""
    if not closed:
        return
    states, shapes = engine.inner_states(), closing.shapes
    gating.close(engine, gates, closing.gone, shapes, states)
    for path in (one.block for one in closed if one.block):
        within = [name for name in shapes if name.startswith(f"{path}.") and name in engine.masked]
        names = dict.fromkeys([*within, *closing.blocks[path]])
        gating.close_whole(engine, names, engine.masked, states)


def hold(engine: Engine, closing: Closing) -> None:
    """Put what closed blocks add to their streams back to zero, where training has moved it."""
    for path in closing.shut:
        names = [name for name in closing.blocks[path] if name not in engine.masked]
        gating.close_whole(engine, names, ())


def plain(constraints: Sequence[Grouped], network: nn.Module, given: Inputs) -> tuple[list[Share], Parameters]:
    """What coupled constraints hold of a network whose weights are any, and its parameters. Raises ValueError."""
    args, kwargs = given
    there = parameters(network)
    found = cut(network, args, kwargs) if constraints else None
    return [share for one in constraints if found is not None for share in shares(one, found, there)], there


def least(constraints: Sequence[Grouped], network: nn.Module, given: Inputs, cost: Cost) -> float:
    """The share of a network's cost that is left when all is closed that can be."""
    every, there = plain(constraints, network, given)
    args, kwargs = given
    return closing(network, args, kwargs, every, there, cost).least()
