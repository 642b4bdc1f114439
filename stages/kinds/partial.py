"""`kind: partial`: training under a group lasso on a share of each layer's neurons; those that it kills are closed.

Published (E and Gao 2020, "Partial regularisation", and its predecessor of 2019, of which we could read the abstracts):
penalise a part of a network and not all of it, for hidden neurons can be permuted, so that any subset does; group lasso
and its variants; it takes less time and is no worse. All else is ours: which numbers are a neuron's group, that of each
layer the first so many are penalised, the proximal step, how strength goes with learning rate and size of a group, and
what is left at the end.

    after each `interval` optimizer steps, for each penalised neuron of a group w of g numbers:
        w <- w * max(0, 1 - t / |w|),   t = interval * learning rate * strength * sqrt(g)

For plain gradient descent and `interval: 1` that is proximal gradient descent on the loss plus strength * sum
sqrt(g) |w|; momentum and Adam move the weights their own way between. With a longer interval thresholds come late, and
are as much larger: whole tensors are gathered less often under ZeRO 1 to 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dualprune.stages.kinds.base import Kind, Phase, Row, State, due, learning_rate
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import Pattern, every
from dualprune.stages.settings.training import Epochs, StageSpec

if TYPE_CHECKING:
    from dualprune.stages.solver.gating import Gates
    from dualprune.stages.training.run import Run


class Neurons(Pattern):
    """Which neurons are penalised: those all of whose weights match, outputs of a layer or channels of a stream."""

    share: float = Field(default=1.0, gt=0, le=1)
    """Of each layer's neurons this share, the first of them; 1 is full regularisation."""
    strength: float = Field(gt=0)
    """Of the penalty: strength * sum over neurons of sqrt(numbers of the neuron) * their norm."""


class PartialSpec(StageSpec):
    """Group lasso on a share of each layer's neurons (after E and Gao 2020); neurons that it kills are zero."""

    kind: Literal["partial"]
    """The name of the kind."""
    constraints: list[Neurons] = Field(min_length=1)
    """What is penalised, and how much."""
    train: Epochs
    """How long, and how fast."""
    interval: int = Field(default=1, ge=1)
    """Optimizer steps from one proximal step to the next."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""


@dataclass
class _State(State):
    neurons: dict[str, list[int]] = field(default_factory=dict)
    """At the end: of each layer how many there were, were penalised, and died."""


def _phases(spec: PartialSpec) -> list[Phase]:
    return [Phase("train", spec.train.epochs, spec.train, interval=spec.interval)]


def _groups(run: Run[PartialSpec]) -> Iterator[tuple[Neurons, Gates]]:
    """What is penalised: the groups of each layer, and the settings that they are under."""
    from dualprune.stages.solver import gating
    from dualprune.stages.solver.patterns import matching

    parameters = run.targets.parameters
    meant = [(one, matching(one, parameters)) for one in run.spec.constraints]
    for share in run.targets.coupled:
        one = next(one for one, names in meant if all(name in names for name, _ in share.space.makers))
        count = math.ceil(share.space.size * one.share * (1 - 1e-12))
        yield one, gating.gates(share, parameters, count)


def _enter(run: Run[PartialSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = run.masked


def _stepped(run: Run[PartialSpec], phase: Phase) -> None:
    from dualprune.stages.solver import gating

    steps = due(run, phase)
    if steps:
        lr = learning_rate(phase, run.progress.epoch + (run.progress.step - 1) / run.per_epoch)
        for settings, of in _groups(run):
            gating.shrink(run.engine, of, steps * lr * settings.strength * math.sqrt(of.size))


def _leave(run: Run[PartialSpec], phase: Phase) -> Row:
    """Close the neurons that are zero, for good."""
    from dualprune.stages.solver import gating

    parameters, found, gone = run.targets.parameters, [], {}
    for _, penalised in _groups(run):
        whole = gating.gates(penalised.share, parameters)
        dead = (gating.norms(whole, run.engine.get) == 0).cpu().numpy()
        found.append(whole)
        gone[whole.share.number] = dead
        run.state.neurons[whole.share.space.name] = [len(dead), penalised.count, int(dead.sum())]
    gating.close(run.engine, found, gone, parameters)
    return {"dead": sum(dead for _, _, dead in run.state.neurons.values())}


def _facts(run: Run[PartialSpec]) -> dict[str, Any]:
    return {"neurons": run.state.neurons}


KIND = Kind(
    settings=PartialSpec,
    version=1,
    phases=_phases,
    state=_State,
    varies=("constraints", "train", "distill"),
    constraints=lambda spec: [every(one) for one in spec.constraints],
    enter=_enter,
    stepped=_stepped,
    leave=_leave,
    facts=_facts,
)
