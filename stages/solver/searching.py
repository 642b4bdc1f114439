"""Networks that vectors say, within one network: what there is to search, veils that make one of it, their losses."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dualprune.stages.coupling.cut import inputs
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import agreed, summed
from dualprune.stages.engine.seeding import seeded
from dualprune.stages.engine.veil import veil
from dualprune.stages.networks.edits import EDITS, SIZE, Resolution
from dualprune.stages.networks.parameters import Parameters
from dualprune.stages.networks.structure import Structure
from dualprune.stages.objectives.base import Batch, Objective, StandIn
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import Grouped
from dualprune.stages.solver import gating, shrinking, shutting
from dualprune.stages.solver.closing import Closing, Cost, Next, closing
from dualprune.stages.solver.coupled import Share
from dualprune.stages.solver.gating import Gates
from dualprune.stages.solver.shrinking import Inputs
from dualprune.stages.solver.targets import Targets
from dualprune.stages.solver.vectors import Searched, Shape


def sides(
    network: nn.Module, given: Inputs, of: Sequence[Share], shapes: Parameters, cost: Cost, resolutions: Sequence[int]
) -> dict[int, Closing]:
    """What may be closed of a network, and what it costs, by the size of pictures, from the largest.

    The first is as they are, 0 where there are no `resolutions`. Raises SpecError for one that the network can't take,
    or that is not smaller.
    """
    args, kwargs = given
    found = {_side(network, given) if resolutions else 0: closing(network, args, kwargs, of, shapes, cost)}
    for size in sorted(set(resolutions), reverse=True):
        other = copy.deepcopy(network)
        try:
            shrinking.resized(other, given, size)
        except SpecError as error:
            raise SpecError([(("resolutions",), f"{size}: {text}") for _, text in error.problems]) from error
        if size >= next(iter(found)):
            text = f"{size} is not below the {next(iter(found))} pixels that pictures have already"
            raise SpecError([(("resolutions",), text)])
        found[size] = closing(other, args, kwargs, of, shapes, cost)
    return found


def _side(network: nn.Module, given: Inputs) -> int:
    """Height and width of pictures within a network; 0 for one that is given none. Raises SpecError if they differ."""
    pictures = [one.shape[2:] for one in pytree.tree_leaves(given) if isinstance(one, Tensor) and one.ndim == 4]
    height, width = getattr(network, SIZE, None) or (pictures[0] if pictures else (0, 0))
    if height != width:
        raise SpecError([(("resolutions",), f"pictures of {height} x {width} are not square, as others would be")])
    return int(height)


def plain(
    constraints: Sequence[Grouped], network: nn.Module, given: Inputs, cost: Cost, resolutions: Sequence[int]
) -> Searched:
    """What there is to search of a network whose weights are any; for plans. Raises SpecError."""
    every, there = shutting.plain(constraints, network, given)
    order = {share.number: range(share.space.size) for share in every}
    return Searched(sides(network, given, every, there, cost, resolutions), order)


def searched(
    engine: Engine,
    targets: Targets,
    network: nn.Module,
    objective: Objective,
    batch: Batch,
    cost: Cost,
    resolutions: Sequence[int],
) -> Searched:
    """The same of a stage's network as it begins: units come in the order of their gates' norms, those that are zero
    not at all, and blocks that give nothing count as closed. On all ranks together.

    `network` is one whose weights are any, on the CPU. Raises SpecError.
    """
    given = inputs(objective, {name: values.cpu() for name, values in batch.items()})
    found = agreed(sides(network, given, targets.coupled, targets.parameters, cost, resolutions))
    order: dict[int, list[int]] = {}
    for share in targets.coupled:
        norms = gating.norms(gating.gates(share, targets.parameters), engine.get).double().cpu().numpy()
        order[share.number] = [unit for unit in np.argsort(-norms, kind="stable").tolist() if norms[unit] > 0]
    blocks = next(iter(found.values())).blocks
    shut = [path for path, names in blocks.items() if not gating.norm_of(engine.get(name) for name in names)]
    return Searched(found, order, shut)


def factors(closed: Closing, device: torch.device) -> dict[str, Tensor]:
    """What a network's parameters are to be times so that what is closed is as good as gone: zeros in all that reads a
    unit, and in what a block adds to its stream. What makes a unit goes on as it is, and its statistics with it."""
    found: dict[str, Tensor] = {}
    for number, space in closed.spaces.items():
        for name, dim in space.readers if closed.gone[number].any() else ():
            positions = torch.from_numpy(space.places[name, dim][closed.gone[number]].ravel())
            shape = [1] * len(closed.shapes[name].shape)
            shape[dim] = closed.shapes[name].shape[dim]
            own = torch.ones(shape).index_fill_(dim, positions, 0.0)
            found[name] = found[name] * own if name in found else own
    for path in closed.shut:
        found |= {name: torch.zeros(()) for name in closed.blocks[path]}
    return {name: one.to(device) for name, one in found.items()}


def show(engine: Engine, of: Searched, shape: Shape) -> None:
    """Let an engine's network compute what that one would, with weights that stay as they are."""
    veil(engine.module, factors(of.closed(shape), engine.engine.device))
    resize(engine, of, shape.side)


def resize(engine: Engine, of: Searched, side: int) -> None:
    """Bring pictures to that size within an engine's network, where sizes are searched."""
    if len(of.sides) > 1:
        EDITS["resolution"].apply(Resolution(module="", size=side), engine.module)


def resized(structure: Structure, of: Searched, shape: Shape) -> Structure:
    """A network's structure, with the size of pictures in it if that is another; the very same if it has it already."""
    edit = Resolution(module="", size=shape.side)
    if shape.side == next(iter(of.sides)) or structure.edits[-1:] == [edit]:
        return structure
    return Structure(edits=[*structure.edits, edit])


def close(engine: Engine, of: Searched, shape: Shape, gates: Sequence[Gates]) -> None:
    """Close for good what that network is without, and show all that is left. On all ranks together."""
    closed = of.closed(shape)
    gone = [
        Next(0.0, "", number, unit) for number, units in closed.gone.items() for unit in np.flatnonzero(units).tolist()
    ]
    veil(engine.module, {})
    shutting.shut(engine, closed, gates, [*gone, *(Next(0.0, path) for path in closed.shut)])


def _loss(engine: Engine, objective: Objective, batch: Batch) -> Tensor:
    loss = objective.loss(objective.call(engine.forward, batch), batch).double()
    return torch.zeros_like(loss) if isinstance(batch, StandIn) else loss


@torch.no_grad()
def losses(
    engine: Engine, objective: Objective, batches: Sequence[Batch], of: Searched, shapes: Sequence[Shape], seed: int
) -> list[float]:
    """The loss of each of some networks within one, summed over these micro-batches of all ranks. On all ranks
    together.

    As in training: normalised by the batch, and with `seed` for dropout, the same for all. Running statistics stay what
    they were; the last of the networks is shown afterwards.
    """
    kept = {name: buffer.clone() for name, buffer in engine.buffers.items()}
    found: list[Tensor] = []
    for shape in shapes:
        show(engine, of, shape)
        seeded(seed)
        found.append(torch.stack([_loss(engine, objective, batch) for batch in batches]).sum())
        for name, buffer in engine.buffers.items():
            buffer.copy_(kept[name])
    return [float(one) for one in summed(torch.stack(found)).cpu()]
