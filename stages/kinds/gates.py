"""`kind: gates`: channels and residual blocks are closed while the network trains, till a budget is met.

Published ("adaptive pruning"; we could read four sentences of an abstract, no more): channels and layers are cut
together, in proportions that are learned, to half of the parameters with no loss. All else is ours; that channels are
weighed by what they cost is as in MorphNet (Gordon et al. 2018).

- A unit's gate is the norm of what makes it (`stages.solver.gating`): of batch normalisation's scales and biases where
  there are some, else of filter or row with bias; no parameter is added. A block's is the norm of the scales and biases
  (or weights) by which it adds to its stream.
- What a gate is worth is the mean square of the gradient of a factor of one on the unit or block: the first order of
  what closing it costs (Molchanov et al. 2019), from the gradients that the optimizer has averaged.
- Its price is the multiply-accumulates, or the weights, that closing it would save now.
- The share of them that may be left falls linearly from 1 to the budget. After each `interval` steps all that is open
  is ordered by worth over price. The threshold is where those above fit in; those below are under a group lasso, as a
  proximal step (a trimmed penalty: Yun et al. 2019). Training may lift them above it again. What comes to zero is
  closed for good: all that makes and reads it is zero from then on.
- After `ramp` of the epochs what is still below the threshold is closed at once, and the rest trains on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dualprune.stages.kinds.base import Kind, Phase, Row, State, due
from dualprune.stages.kinds.budgeted import Closed, possible
from dualprune.stages.settings.sets import every

if TYPE_CHECKING:
    from torch import nn

    from dualprune.stages.solver.pressing import Pressing
    from dualprune.stages.solver.shrinking import Inputs
    from dualprune.stages.training.run import Run


class GatesSpec(Closed):
    """Channels and residual blocks are closed by a penalty that a budget controls; layers' proportions are found."""

    kind: Literal["gates"]
    """The name of the kind."""
    interval: int = Field(default=1, ge=1)
    """Optimizer steps from one proximal step to the next."""

    @model_validator(mode="after")
    def _momentum(self) -> GatesSpec:
        if self.optimizer.name == "sgd" and not self.optimizer.momentum:
            raise ValueError("gates are weighed by gradients that the optimizer averages; give it a `momentum` above 0")
        return self


FALL = 0.2
"""The share of the steps up to the budget in which a mean gate below the threshold comes to zero, without gradients."""
MEAN = 0.05
"""The share of these steps that what gates are worth is the mean over, about."""
MOMENTUM = {"sgd": "momentum_buffer", "adam": "exp_avg", "adamw": "exp_avg"}
"""What optimizers call their mean of gradients."""
SAMPLES = 2
"""Of validation that the network is looked at with."""


@dataclass
class _State(State):
    means: dict[str, float] = field(default_factory=dict)
    """Of the gates of each space as the stage began, by its number, and each block's gate by its path."""
    worth: dict[str, list[float]] = field(default_factory=dict)
    """Of each gate, by the same."""
    gone: dict[str, list[int]] = field(default_factory=dict)
    """Closed units, by the number of their space."""
    shut: list[str] = field(default_factory=list)
    """Closed blocks."""
    whole: float = 0.0
    """What the network cost as the stage began."""
    layers: dict[str, float] = field(default_factory=dict)
    """What each weight's layer did."""
    blocks: dict[str, list[str]] = field(default_factory=dict)
    """Blocks that may be closed, with the tensors that are zero then."""


def _phases(spec: GatesSpec) -> list[Phase]:
    return [Phase("gates", spec.train.epochs, spec.train, interval=spec.interval)]


def _fits(spec: GatesSpec, network: nn.Module, inputs: Inputs) -> None:
    from dualprune.stages.solver import shutting

    possible(spec, shutting.least([every(one) for one in spec.constraints], network, inputs, spec.cost))


def _start(run: Run[GatesSpec]) -> None:
    """Find out what there is to close, and what that would save."""
    import numpy as np

    from dualprune.stages.networks.build import build_model
    from dualprune.stages.solver import pressing, shutting

    (batch,) = run.splits["val"].evaluation([np.arange(SAMPLES)])
    network = run.structure.apply(build_model(run.spec.model))
    found = shutting.found(run.targets, network, run.objective, batch, run.spec.cost)
    possible(run.spec, found.least())
    begun = pressing.begun(run.engine, found, shutting.gates(run.targets))
    state = run.state
    state.whole, state.layers, state.means = found.whole, dict(found.layers), dict(begun.means)
    state.blocks = {path: list(names) for path, names in found.blocks.items()}
    _note(run, begun)


def _pressing(run: Run[GatesSpec]) -> Pressing:
    """What is open and closed."""
    import numpy as np

    from dualprune.stages.solver import pressing, shutting

    state = run.state
    found = shutting.restored(run.targets, state.whole, state.layers, state.blocks, state.gone, state.shut)
    worth = {key: np.array(values) for key, values in state.worth.items()}
    return pressing.Pressing(found, shutting.gates(run.targets), state.means, worth)


def _note(run: Run[GatesSpec], now: Pressing) -> None:
    run.state.gone = {str(number): closed.nonzero()[0].tolist() for number, closed in now.closing.gone.items()}
    run.state.shut = list(now.closing.shut)
    run.state.worth = {key: values.tolist() for key, values in now.worth.items()}


def _enter(run: Run[GatesSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = True


def _stepped(run: Run[GatesSpec], phase: Phase) -> None:
    steps = due(run, phase)
    if not steps:
        return
    from dualprune.stages.solver import shutting

    now, ramp = _pressing(run), run.spec.ramp * run.spec.train.epochs * run.per_epoch
    done = run.progress.steps / ramp
    if now.closing.rest() > run.spec.budget:
        goal = 1 - (1 - run.spec.budget) * min(1.0, done / (1 - FALL))
        now.look(run.engine, MOMENTUM[run.spec.optimizer.name], 1 - min(1.0, steps / max(1.0, MEAN * ramp)))
        now.press(run.engine, goal, steps / (FALL * ramp) if done < 1 else math.inf)
        _note(run, now)
    shutting.hold(run.engine, now.closing)


def _leave(run: Run[GatesSpec], phase: Phase) -> Row:
    return {f"{run.spec.cost}_left": _pressing(run).closing.rest()}


def _facts(run: Run[GatesSpec]) -> dict[str, Any]:
    """What is left: the share of what the budget is of, units of each space, and blocks that are closed."""
    if not run.state.means:
        return {}
    now = _pressing(run)
    units = {now.closing.spaces[n].name: [len(closed), int((~closed).sum())] for n, closed in now.closing.gone.items()}
    return {"gates": {run.spec.cost: now.closing.rest(), "units": units, "blocks": run.state.shut}}


KIND = Kind(
    settings=GatesSpec,
    version=1,
    phases=_phases,
    state=_State,
    varies=("constraints", "macs", "weights", "train", "ramp", "distill"),
    constraints=lambda spec: [every(one) for one in spec.constraints],
    fits=_fits,
    start=_start,
    enter=_enter,
    stepped=_stepped,
    leave=_leave,
    facts=_facts,
)
