"""What a kind of stage is: settings, phases, and the hooks that the one training loop calls. Nothing heavy is imported.

A hook is a plain function of a Run (stages.training.run), the record of a stage at work on one rank. What a kind has to
remember over checkpoints is its own dataclass, `state`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.sets import AnySet
from dualprune.stages.settings.training import Rate, Sam, StageSpec, Training

if TYPE_CHECKING:
    from torch import nn

    from dualprune.stages.networks.parameters import Parameters
    from dualprune.stages.solver.shrinking import Before, Inputs, Smaller
    from dualprune.stages.solver.targets import Targets
    from dualprune.stages.training.run import Run

S = TypeVar("S", bound=StageSpec)
Row = dict[str, Any]
"""What is told of an epoch, by name."""


class Stopped(Exception):
    """A kind's `start` left before its end, as the run's `stopping` asked on some rank; what it has done is saved."""


@dataclass(frozen=True)
class Phase:
    """Epochs of training in one way."""

    name: str
    epochs: int
    rate: Rate
    before: int = 0
    """Epochs of the schedule that earlier phases used up."""
    span: int = 0
    """Epochs of the schedule in all; 0: those of this phase."""
    interval: int | None = None
    """Optimizer steps from one update (of Z and U, or of another kind's) to the next within the phase."""
    sam: Sam | None = None
    """Whether its steps are sharpness-aware, and how."""
    sg: bool = False
    """Whether each step has the gradient at the projected weights too, of a kind that ADMM solves."""
    weigh: str | None = None
    """What projections weigh entries by, of a kind that ADMM solves, if they do."""
    ema: float | None = None
    """How much of itself the average of the weights keeps at a step, if they are averaged."""


def plain(name: str, settings: Training) -> Phase:
    """A phase of plain training."""
    return Phase(name, settings.epochs, settings, sam=settings.sam, ema=settings.ema)


def learning_rate(phase: Phase, done: float) -> float:
    """The rate after `done` epochs of a phase, a fraction of one among them."""
    rate, done = phase.rate, phase.before + done
    if rate.schedule == "cosine":
        return rate.lr * 0.5 * (1 + math.cos(math.pi * done / (phase.span or phase.epochs)))
    # 0.3 // 0.1 is 2: a little more than nothing makes up for how fractions are rounded.
    return rate.lr * rate.factor ** math.floor(done / rate.every + 1e-9) if rate.every else rate.lr


def due(run: Run[Any], phase: Phase) -> int:
    """Of what is done each `phase.interval` steps, after an optimizer step: how many steps it is for now, 0 for none.

    A phase's last steps have their turn at its end.
    """
    assert phase.interval is not None
    done = run.progress.epoch * run.per_epoch + run.progress.step
    if done % phase.interval == 0:
        return phase.interval
    return done % phase.interval if done == phase.epochs * run.per_epoch else 0


@dataclass
class State:
    """What a kind remembers over checkpoints, as JSON; each kind adds its own."""


def no_constraints(spec: Any) -> Sequence[AnySet]:
    """Of a kind that constrains no tensors."""
    return ()


def no_problems(spec: Any, targets: Targets, parameters: Parameters) -> list[Problem]:
    """Of a kind that asks no more of its constraints than that they fit their tensors."""
    return []


def never(spec: Any) -> bool:
    """What the parent pruned stays pruned."""
    return False


def nothing(run: Run[Any]) -> None:
    """A hook that does nothing."""


def nothing_in(run: Run[Any], phase: Phase) -> None:
    """The same of a phase."""


def empty(run: Run[Any], phase: Phase) -> Row:
    """A phase ends, and nothing else happens."""
    return {}


def any_network(spec: Any, network: nn.Module, inputs: Inputs) -> None:
    """Of kinds that fit all networks."""


def no_facts(run: Run[Any]) -> dict[str, Any]:
    """Nothing but what every stage's manifest says."""
    return {}


@dataclass(frozen=True)
class Kind(Generic[S]):
    """A kind of stage. Phases without epochs are left out. Every hook is called on all ranks together."""

    settings: type[S]
    version: int
    """Raised when the kind starts to give other results for the same settings: its keys change."""
    phases: Callable[[S], list[Phase]]
    state: type[State] = State
    varies: tuple[str, ...] = ()
    """Settings of which a ladder or a beam may give each of its stages another."""
    needs_parent: bool = False
    """Whether there is nothing for it to do without a stage to start from."""
    constraints: Callable[[S], Sequence[AnySet]] = no_constraints
    """What tensors are held to; problems have the place of the setting `constraints`."""
    prunes: bool = False
    """Whether its constraints are to leave fewer weights: plans count them, and refuse more than there are."""
    regrows: Callable[[S], bool] = never
    """Whether weights of its constrained tensors that the parent pruned may come back."""
    check: Callable[[S, Targets, Parameters], list[Problem]] = no_problems
    """What else is wrong, given the targets and what the network's parameters are; some targets may be missing."""
    removes: Callable[[S], Sequence[AnySet]] = no_constraints
    """The same of what is taken out of the network, so that it is held to nothing."""
    shrinks: Callable[[S, Before], Smaller] | None = None
    """How the parent's network is made smaller before anything is trained; None for kinds that leave its shape alone.
    Raises SpecError."""
    fits: Callable[[S, nn.Module, Inputs], None] = any_network
    """Raises SpecError for a network that can't be made smaller or trained so, whatever its weights; it may change it.
    For plans."""
    start: Callable[[Run[S]], None] = nothing
    """Before the first step of a stage that has no checkpoint."""
    enter: Callable[[Run[S], Phase], None] = nothing_in
    """Before each epoch, or what is left of one after a restart: sets what the optimizer does in this phase."""
    stepped: Callable[[Run[S], Phase], None] = nothing_in
    """After each optimizer step; `run.progress` counts it already."""
    leave: Callable[[Run[S], Phase], Row] = empty
    """After a phase's last epoch; what it adds to that epoch's row. `run.progress` is at the next phase already."""
    veils: bool = False
    """Whether its network is veiled anew at steps (stages.engine.veil): a compiled one would be compiled each time, so
    that `engine.compile` is for its teacher alone."""
    rereads: bool = False
    """Whether `stepped` looks at what the step was on (`run.batches`): only then is that kept so long."""
    facts: Callable[[Run[S]], dict[str, Any]] = no_facts
    """What the finished stage's manifest says beside what every stage's does."""
