"""`kind: trp`: trained rank pruning; layers are kept at a low rank, that training finds, while they train.

Xu et al. 2020, eq. 2, with T = D(W) the truncated singular value decomposition of each layer's matrix, of the least
rank that leaves out at most the share e of its energy, and f the loss with lambda times the nuclear norms:

    W <- T - lr grad f(T)    where the step's number is a multiple of m,    W <- W - lr grad f(W)    elsewhere

So it is truncated before step 0, m, 2 m, ..., and here after each epoch too: what is validated is of low rank, and so
is what is left. The sub-gradient of the nuclear norm, U V^T of T's own decomposition, is a part of grad f(T), and of no
other step's gradient, as in the authors' code. It is added to the gradient itself, as ADMM's penalty is, and not as a
step of lr * lambda after the truncation: that is the same for plain gradient descent, but for grad f, which would be
that of a point lr * lambda away. Momentum 0.9 makes ten times as much of a gradient, and Adam scales it.

A truncation leaves out a share of what there is then, so that one after another leaves out more, until no singular
value is as small as that: e bounds ranks, to 1 / e, and not what is lost in all.

Momentum stays as it is where weights are truncated, as in the authors' code. Projected onto the tangent space of the
rank it did no better on digits; confined to the row and column spaces it did worse, and set to zero worse again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dualprune.stages.kinds.base import Kind, Phase, Row, State
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import LowRank, Pattern
from dualprune.stages.settings.training import Epochs, StageSpec

if TYPE_CHECKING:
    from torch import nn

    from dualprune.stages.solver.shrinking import Inputs
    from dualprune.stages.training.run import Run


class Truncation(Pattern):
    """Which layers are truncated, linear ones and convolutions, and by how much."""

    energy: float = Field(gt=0, lt=1)
    """The share of squared singular values that a truncation leaves out, at most: e."""
    view: Literal["channel", "spatial"] = "channel"
    """As which matrix: outputs x (inputs, kernel), or (inputs, kernel height) x (outputs, kernel width)."""


class TrpSpec(StageSpec):
    """Trained rank pruning (Xu et al. 2020): layers are truncated to a low rank every few steps of training."""

    kind: Literal["trp"]
    """The name of the kind."""
    constraints: list[Truncation] = Field(min_length=1)
    """What is truncated, and how much."""
    train: Epochs
    """How long, and how fast."""
    interval: int = Field(default=20, ge=1)
    """Optimizer steps from one truncation to the next: m."""
    nuclear: float = Field(default=0.0, ge=0)
    """Weight of the layers' nuclear norms in the first step after each truncation: lambda."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""


@dataclass
class _State(State):
    ranks: dict[str, list[int]] = field(default_factory=dict)
    """Of each layer's weight: how many there could be, and how many there are since the last truncation."""


def _phases(spec: TrpSpec) -> list[Phase]:
    """An epoch each: after each of them layers are truncated."""
    return [Phase("trp", 1, spec.train, before=done, span=spec.train.epochs) for done in range(spec.train.epochs)]


def _constraints(spec: TrpSpec) -> list[LowRank]:
    return [
        LowRank(set="lowrank", tensors=one.tensors, layers=one.layers, energy=one.energy, view=one.view)
        for one in spec.constraints
    ]


def _fits(spec: TrpSpec, network: nn.Module, inputs: Inputs) -> None:
    _able(spec, network)


def _able(spec: TrpSpec, network: nn.Module) -> None:
    """Raise SpecError for layers that could not become two afterwards."""
    from dualprune.stages.solver.truncating import unable

    problems = unable(network, _constraints(spec))
    if problems:
        raise SpecError(problems)


def _start(run: Run[TrpSpec]) -> None:
    _able(run.spec, run.engine.module)
    held = sorted(name for name in run.inherited if name in run.targets.kinds)
    if held:
        text = f"low rank would fill the zeros that an earlier stage left in {held[0]}; leave it out, or take them out "
        raise SpecError([(("constraints",), f"{text}by a `shrink` before")])
    _truncate(run)


def _truncate(run: Run[TrpSpec]) -> float:
    """Truncate all layers, and say which share of their energy that left out."""
    from dualprune.stages.solver.truncating import truncate

    found = truncate(run.engine, _constraints(run.spec), run.targets.parameters, bool(run.spec.nuclear))
    run.state.ranks = found.ranks
    return found.dropped


def _truncated(run: Run[TrpSpec]) -> bool:
    """Whether weights are truncated before the step that comes next."""
    return run.progress.step == 0 or run.progress.steps % run.spec.interval == 0


def _enter(run: Run[TrpSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = run.masked
    run.engine.optimizer.rho = run.spec.nuclear if _truncated(run) else 0.0


def _stepped(run: Run[TrpSpec], phase: Phase) -> None:
    run.engine.optimizer.rho = 0.0
    if _truncated(run) and run.progress.step < run.per_epoch:
        _truncate(run)
        run.engine.optimizer.rho = run.spec.nuclear


def _leave(run: Run[TrpSpec], phase: Phase) -> Row:
    dropped = _truncate(run)
    return {"rank": sum(rank for _, rank in run.state.ranks.values()), "dropped": dropped}


def _facts(run: Run[TrpSpec]) -> dict[str, Any]:
    return {"ranks": run.state.ranks}


KIND = Kind(
    settings=TrpSpec,
    version=1,
    phases=_phases,
    state=_State,
    varies=("constraints", "train", "interval", "nuclear", "distill"),
    constraints=_constraints,
    fits=_fits,
    start=_start,
    enter=_enter,
    stepped=_stepped,
    leave=_leave,
    facts=_facts,
)
