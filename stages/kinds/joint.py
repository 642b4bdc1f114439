"""`kind: joint`: how many channels stay of each layer, which blocks, and how large pictures are, found in one training.

Published (JointPruning, Liu et al. 2020, of which we could read abstract and introduction): a vector says how many
channels layers have, how deep a network is and how large its pictures; what network it says is unique; it is optimised
by gradient in a single run, all of it jointly, by a "self-adapted stochastic gradient estimation", as the loss has no
form in the vector. All else is ours:

- The vector has a share for each space of coupled units, in a fixed order of their strength as the stage begins (the
  norm of what makes them: `stages.solver.gating`), a number for each residual block that can go, and one for the size
  of pictures, where `resolutions` are given. `stages.solver.vectors` says which network it is.
- At each step the weights are trained as the network of a vector that is drawn around the current one: normal, with a
  standard deviation for each sort of number. What is out is veiled, not zero (`stages.engine.veil`): it may come back.
- After each `interval` steps the vector moves against an estimate of the slope of its loss: antithetic evolution
  strategies (Salimans et al. 2017), for each sort of number `pairs` of draws v + e and v - e of that sort, on the batch
  of that step. The differences of a sort are divided by their root mean square: so it adapts itself, no sort drowns the
  others, and a step's length is set by `rate` alone. Steps are in standard deviations.
- The loss is the task's (without a teacher's part) plus `weight` * |log(cost / goal)|. The cost is counted, never
  measured. The goal falls from all to the budget, and stays there for the last part of the search, in which `rate`
  falls to 0. Of a pair with the goal between its costs that term all but cancels out: there the task says where to.
- After `ramp` of the epochs the vector is brought to the budget (`Searched.within`), what is out is closed for good, as
  `kind: gates` does it, and the rest trains on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from dualprune.stages.kinds.base import Kind, Phase, Row, State, due
from dualprune.stages.kinds.budgeted import Closed, possible
from dualprune.stages.settings.sets import every

if TYPE_CHECKING:
    from torch import nn

    from dualprune.stages.solver.shrinking import Inputs
    from dualprune.stages.solver.vectors import Searched, Shape
    from dualprune.stages.training.run import Run


class JointSpec(Closed):
    """Channels, blocks and the size of pictures are found together in one training (after Liu et al. 2020)."""

    kind: Literal["joint"]
    """The name of the kind."""
    resolutions: list[PositiveInt] = Field(default=[])
    """Sizes that pictures may be brought to within the network, beside their own; without any, they are left alone."""
    interval: int = Field(default=8, ge=1)
    """Optimizer steps from one step of the vector to the next."""
    pairs: int = Field(default=2, ge=1)
    """Of draws for each step of the vector and each sort of number, of at most three: units, blocks, size of pictures.
    Each pair takes two passes forward of a batch."""
    rate: float = Field(default=0.3, gt=0)
    """How far the vector moves in a step, in standard deviations of the draws; falls to 0 in the last part of the
    search."""
    weight: float = Field(default=5.0, gt=0)
    """Of |log(cost / goal)| beside the task's loss; the goal falls from 1 to the budget."""

    @model_validator(mode="after")
    def _of_pictures(self) -> JointSpec:
        if self.resolutions and self.macs is None:
            raise ValueError("`resolutions` don't change how many weights there are; give the budget as `macs`")
        if self.resolutions and self.distill is not None and self.distill.inside:
            raise ValueError("within networks on pictures of other sizes nothing is as large; distill outputs alone")
        return self


BEGIN = 0.8
"""The number of each block's as the stage begins: of nine draws about eight have it open."""
FALL = 0.6
"""The share of the search in which the goal falls to the budget."""
TRAINED, PAIRED = 0, 1
"""What draws are for."""
SAMPLES = 2
"""Of validation that the network is looked at with."""


@dataclass
class _State(State):
    sides: list[int] = field(default_factory=list)
    """Sizes of pictures, from their own on."""
    whole: list[float] = field(default_factory=list)
    """What the network cost with each as the stage began."""
    layers: list[dict[str, float]] = field(default_factory=list)
    """What each weight's layer did."""
    blocks: dict[str, list[str]] = field(default_factory=dict)
    """Blocks that may be closed, with the tensors that are zero then."""
    order: dict[str, list[int]] = field(default_factory=dict)
    """The units of each space by strength, by the number of the space."""
    shut: list[str] = field(default_factory=list)
    """Blocks that were closed as the stage began."""
    vector: list[float] = field(default_factory=list)
    """The current one."""
    end: dict[str, Any] | None = None
    """The network that it has come to."""


def _phases(spec: JointSpec) -> list[Phase]:
    return [Phase("joint", spec.train.epochs, spec.train, interval=spec.interval)]


def _fits(spec: JointSpec, network: nn.Module, inputs: Inputs) -> None:
    from dualprune.stages.solver import searching

    constraints = [every(one) for one in spec.constraints]
    possible(spec, searching.plain(constraints, network, inputs, spec.cost, spec.resolutions).least())


def _start(run: Run[JointSpec]) -> None:
    """Find out what there is to search, and what it costs."""
    import numpy as np

    from dualprune.stages.networks.build import build_model
    from dualprune.stages.solver import searching

    (batch,) = run.splits["val"].evaluation([np.arange(SAMPLES)])
    network, spec, state = run.structure.apply(build_model(run.spec.model)), run.spec, run.state
    found = searching.searched(run.engine, run.targets, network, run.objective, batch, spec.cost, spec.resolutions)
    possible(spec, found.least())
    state.sides, sides = list(found.sides), found.sides.values()
    state.whole, state.layers = [one.whole for one in sides], [dict(one.layers) for one in sides]
    state.blocks = {path: list(names) for path, names in found.closing.blocks.items()}
    state.order = {str(number): list(units) for number, units in found.order.items()}
    state.shut = list(found.shut)
    state.vector = found.begin(BEGIN).tolist()


def _searched(run: Run[JointSpec]) -> Searched:
    from dualprune.stages.solver import shutting
    from dualprune.stages.solver.vectors import Searched

    state = run.state
    each = zip(state.sides, state.whole, state.layers, strict=True)
    sides = {side: shutting.restored(run.targets, whole, layers, state.blocks, {}, []) for side, whole, layers in each}
    return Searched(sides, {int(number): units for number, units in state.order.items()}, state.shut)


def _end(run: Run[JointSpec]) -> Shape:
    """What the vector has come to."""
    from dualprune.stages.solver.vectors import Shape

    end = run.state.end
    return Shape({int(number): count for number, count in end["counts"].items()}, tuple(end["shut"]), end["side"])


def _enter(run: Run[JointSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = True
    if run.state.end is None:
        _draw(run)
    else:
        _resized(run)


def _stepped(run: Run[JointSpec], phase: Phase) -> None:
    from dualprune.stages.solver import shutting

    if run.state.end is not None:
        if run.state.end["shut"]:
            shutting.hold(run.engine, _searched(run).closed(_end(run)))
        return
    done = run.progress.steps / (run.spec.ramp * run.spec.train.epochs * run.per_epoch)
    if due(run, phase):
        _move(run, min(1.0, done))
    if done < 1:
        _draw(run)
    else:
        _close(run)


def _move(run: Run[JointSpec], done: float) -> None:
    """Move the vector against the slope of its loss, after such a share of the search."""
    import numpy as np

    from dualprune.stages.solver import searching, vectors

    of, spec, state = _searched(run), run.spec, run.state
    vector, steps = np.array(state.vector), run.progress.steps
    sorts = of.sorts()
    draws = vectors.drawn((len(sorts), spec.pairs, len(vector)), spec.seed, steps, PAIRED) * sorts[:, None]
    shapes = [of.shape(vector + sign * of.sigma() * draw) for some in draws for draw in some for sign in (1, -1)]
    seed = ((spec.seed * 1_000_003 + steps) * run.world + run.rank) % 2**64
    task = searching.losses(run.engine, run.objective, run.batches, of, shapes, seed)
    goal = spec.budget ** min(1.0, done / FALL)
    prices = [spec.weight * abs(math.log(of.cost(shape) / goal)) for shape in shapes]
    loss = np.reshape(task, (*draws.shape[:2], 2)) / spec.batch + np.reshape(prices, (*draws.shape[:2], 2))
    by = spec.rate * min(1.0, (1 - done) / (1 - FALL))
    state.vector = of.moved(vector, draws, loss[..., 0] - loss[..., 1], by).tolist()


def _draw(run: Run[JointSpec]) -> None:
    """Show the network that the next step trains: drawn by where the stage is; at an epoch's end the vector's own,
    which is measured."""
    import numpy as np

    from dualprune.stages.solver import searching, vectors

    of, vector, progress = _searched(run), np.array(run.state.vector), run.progress
    if progress.step < run.per_epoch:
        vector = vector + of.sigma() * vectors.drawn((len(vector),), run.spec.seed, progress.steps, TRAINED)
    searching.show(run.engine, of, of.shape(vector))


def _close(run: Run[JointSpec]) -> None:
    """Bring the vector to the budget, and close what is out for good."""
    import numpy as np

    from dualprune.stages.solver import searching, shutting

    of, vector = _searched(run), np.array(run.state.vector)
    end = of.within(vector, run.spec.budget)
    searching.close(run.engine, of, end, shutting.gates(run.targets))
    counts = {str(number): count for number, count in end.counts.items()}
    found = of.cost(of.shape(vector))
    run.state.end = {"counts": counts, "shut": list(end.shut), "side": end.side, "found": found}
    _resized(run)


def _resized(run: Run[JointSpec]) -> None:
    """Let pictures have the size that was found: in this stage, and as an edit in those that follow."""
    from dualprune.stages.solver import searching

    of, end, before = _searched(run), _end(run), run.structure
    searching.resize(run.engine, of, end.side)
    run.structure = searching.resized(before, of, end)
    if run.structure is not before:
        run.dense_macs, run.macs = run.dense_macs or run.macs, of.sides[end.side].whole


def _leave(run: Run[JointSpec], phase: Phase) -> Row:
    """What is left, and what the vector would have left by itself."""
    cost = run.spec.cost
    return {f"{cost}_left": _searched(run).cost(_end(run)), f"{cost}_found": run.state.end["found"]}


def _facts(run: Run[JointSpec]) -> dict[str, Any]:
    """What is left: the share of what the budget is of, units of each space, and the rest of what was found."""
    if run.state.end is None:
        return {}
    of, end = _searched(run), _end(run)
    closed = of.closed(end)
    units = {closed.spaces[n].name: [len(gone), int((~gone).sum())] for n, gone in closed.gone.items()}
    sizes = {"resolution": [run.state.sides[0], end.side]} if len(of.sides) > 1 else {}
    return {"joint": {run.spec.cost: of.cost(end), "units": units, "blocks": list(end.shut), **sizes}}


KIND = Kind(
    settings=JointSpec,
    version=1,
    phases=_phases,
    state=_State,
    varies=("constraints", "macs", "weights", "train", "ramp", "distill"),
    constraints=lambda spec: [every(one) for one in spec.constraints],
    fits=_fits,
    start=_start,
    enter=_enter,
    stepped=_stepped,
    veils=True,
    rereads=True,
    leave=_leave,
    facts=_facts,
)
