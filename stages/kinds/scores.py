"""`kind: scores`: heads, filters, rows or tiles get a learned score each, and layers a learned threshold (MLPruning).

Published (MLPruning, arXiv 2105.14636v1, as its authors' code has it; later renamed LEAP):

- A score for each unit, 0 at first, and a threshold for each group (the units of one sort in one layer), 10 at first.
  Of n units the first ceil(sigmoid(threshold) n) by score stay. Forward, weights and biases are times the mask.
- Straight-through: a score's gradient is that of its unit's factor; a threshold's is the sum of those of units that
  stay. AdamW without decay moves both, at a rate of their own.
- Groups: attention heads (shared by queries, keys and values), outputs of both feed-forward layers and of attention's
  output projection; and, in a second training, tiles of 16 x 16 or 32 x 32 of each matrix.
- The penalty max(0, R - T)^2: R is the share that is left as thresholds say, the product of what is left of a layer's
  outputs and inputs. Its weight is max(`weight` * penalty / (1 - T)^2, 50), and 10 once it is below 3e-4.

Ours:

- What units are: `head` and `filter` are units that go together through any network (`stages.coupling`), by which
  `kind: shrink` takes them out; `row` (outputs of linear layers) and `block` are zero, and stay. So outputs of the
  first feed-forward layer are `filter`, and those that add to the residual stream `row`. Filters under batch
  normalisation are masked in its scale and bias.
- R is of the whole network's multiply-accumulates or weights, rows and tiles that are zero not among them; products
  within attention are counted by the heads that are left. The published code counts the encoder's linear layers.
- The rate is constant, and gradients of scores are not clipped. What was zero as the stage began is not scored.
- After `ramp` of the epochs all thresholds are moved by the same, up or down, so that just the budget is left; what
  does not stay is zero from then on, and the rest trains on. Biases of rows that are zero train on with it.
- Hidden states and attention's maps are distilled, as published, where `distill` says so (`stages.training.teacher`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from dualprune.stages.kinds.base import Kind, Phase, Row, State
from dualprune.stages.kinds.budgeted import Budgeted, possible
from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.sets import AnySet, Block, Head, Pattern, Structured, every

if TYPE_CHECKING:
    from torch import nn

    from dualprune.stages.networks.parameters import Parameters
    from dualprune.stages.solver.learning import Learned
    from dualprune.stages.solver.scoring import Scored
    from dualprune.stages.solver.shrinking import Inputs
    from dualprune.stages.solver.targets import Targets
    from dualprune.stages.training.run import Run


class Units(Pattern):
    """Units that get scores: of each layer a group."""

    set: Literal["head", "filter", "row"]
    """Attention heads and filters (outputs) go with all that makes and reads them; rows are zero outputs of linear
    layers."""


class Tiles(Pattern):
    """Tiles of p x q of the matrix form that get scores, of each tensor a group; p and q must divide its sides."""

    set: Literal["block"]
    """Its name."""
    p: int = Field(ge=1)
    """Outputs of a tile."""
    q: int = Field(ge=1)
    """Columns of a tile: inputs, and places of the kernel."""


class ScoresSpec(Budgeted):
    """Heads, filters, rows or tiles get a learned score each, and layers a threshold (MLPruning, Yao et al. 2021)."""

    kind: Literal["scores"]
    """The name of the kind."""
    constraints: list[Annotated[Units | Tiles, Field(discriminator="set")]] = Field(min_length=1)
    """What gets scores."""
    scores_lr: float = Field(default=0.01, gt=0)
    """The learning rate of scores and thresholds. Thresholds fall from 10 by about as much in a step: few steps need a
    higher one."""
    weight: float = Field(default=20000.0, gt=0)
    """Of the penalty on what is left above the budget."""


SAMPLES = 2
"""Of validation that the network is looked at with."""


@dataclass
class _State(State):
    whole: float = 0.0
    """What the network cost as the stage began."""
    layers: dict[str, float] = field(default_factory=dict)
    """What each weight's layer did."""
    products: list[float] = field(default_factory=list)
    """What goes with each group and is of no layer."""
    dead: list[list[int]] = field(default_factory=list)
    """Of each group, the units that were zero then."""
    learned: dict[str, Any] = field(default_factory=dict)
    """Scores, thresholds and their optimizer's numbers, until the budget is met."""
    end: dict[str, Any] | None = None
    """Then: what thresholds had left by themselves, and how many units of each group stay."""


def _constraints(spec: ScoresSpec) -> list[AnySet]:
    return [_of(one) for one in spec.constraints]


def _of(one: Units | Tiles) -> AnySet:
    """Which units there are, all of which may stay."""
    if one.set == "filter":
        return every(one)
    if one.set == "block":
        return Block(set="block", tensors=one.tensors, layers=one.layers, p=one.p, q=one.q, keep=1.0)
    if one.set == "head":
        return Head(set="head", tensors=one.tensors, layers=one.layers, keep=1.0, coupled=True)
    return Structured(set="row", tensors=one.tensors, layers=one.layers, keep=1.0)


def _phases(spec: ScoresSpec) -> list[Phase]:
    return [Phase("scores", spec.train.epochs, spec.train)]


def _check(spec: ScoresSpec, targets: Targets, parameters: Parameters) -> list[Problem]:
    from dualprune.stages.solver import scoring

    return scoring.clashes(_constraints(spec), targets.coupled, parameters)


def _fits(spec: ScoresSpec, network: nn.Module, inputs: Inputs) -> None:
    from dualprune.stages.solver import scoring

    possible(spec, scoring.least(_constraints(spec), network, inputs, spec.cost))


def _start(run: Run[ScoresSpec]) -> None:
    """Find out what there is to score, and what it costs."""
    import numpy as np

    from dualprune.stages.networks.build import build_model
    from dualprune.stages.solver import scoring

    (batch,) = run.splits["val"].evaluation([np.arange(SAMPLES)])
    network, spec, state = run.structure.apply(build_model(run.spec.model)), run.spec, run.state
    found = scoring.scored(run.engine, run.targets, _constraints(spec), network, run.objective, batch, spec.cost)
    possible(spec, found.least())
    state.whole, state.layers, state.products = found.whole, dict(found.layers), list(found.products)
    state.dead = [units.tolist() for units in found.dead]


def _scored(run: Run[ScoresSpec]) -> Scored:
    import numpy as np

    from dualprune.stages.solver import scoring

    state, targets = run.state, run.targets
    groups = scoring.groups(_constraints(run.spec), targets.coupled, targets.parameters)
    dead = [np.array(units, np.int64) for units in state.dead]
    return scoring.Scored(groups, state.whole, state.layers, state.products, dead)


def _enter(run: Run[ScoresSpec], phase: Phase) -> None:
    from dualprune.stages.solver.learning import Learned

    run.engine.optimizer.masking = True
    if run.state.end is None and run.held is None:
        learned = Learned(_scored(run), run.spec.scores_lr, run.engine.engine.device)
        if run.state.learned:
            learned.restore(run.state.learned)
        learned.show(run.engine)
        run.held = learned


def _stepped(run: Run[ScoresSpec], phase: Phase) -> None:
    learned: Learned | None = run.held
    if learned is None:
        return
    learned.step(run.world, run.spec.budget, run.spec.weight)
    if run.progress.steps < run.spec.ramp * run.spec.train.epochs * run.per_epoch:
        run.state.learned = learned.said()
    else:
        _close(run, learned)


def _close(run: Run[ScoresSpec], learned: Learned) -> None:
    """Bring what stays to the budget, and close the rest for good."""
    of = learned.of
    found = of.cost(of.counts(learned.thresholds))
    counts = of.within(learned.thresholds, run.spec.budget)
    learned.close(run.engine, counts, run.targets.parameters)
    run.state.end, run.state.learned, run.held = {"found": found, "counts": counts}, {}, None


def _leave(run: Run[ScoresSpec], phase: Phase) -> Row:
    """What is left, and what the thresholds had left by themselves."""
    end = run.state.end
    return {f"{run.spec.cost}_left": _scored(run).cost(end["counts"]), f"{run.spec.cost}_found": end["found"]}


def _facts(run: Run[ScoresSpec]) -> dict[str, Any]:
    """What is left: the share of what the budget is of, and units of each group."""
    end = run.state.end
    if end is None:
        return {}
    of = _scored(run)
    units = {group.label: [group.size, count] for group, count in zip(of.groups, end["counts"], strict=True)}
    return {"scores": {run.spec.cost: of.cost(end["counts"]), "units": units}}


KIND = Kind(
    settings=ScoresSpec,
    version=2,
    phases=_phases,
    state=_State,
    varies=("constraints", "macs", "weights", "train", "ramp", "distill"),
    constraints=_constraints,
    check=_check,
    fits=_fits,
    start=_start,
    enter=_enter,
    stepped=_stepped,
    veils=True,
    leave=_leave,
    facts=_facts,
)
