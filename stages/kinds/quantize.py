"""`kind: quantize`: ADMM onto shared values; then weights take them, by and by, or at once, and the values train on.

Ye et al. 2018b, Algs. 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dualprune.stages.kinds import proximal
from dualprune.stages.kinds.base import Kind, Phase, Row
from dualprune.stages.settings.spec import QuantizeSpec, Rate

if TYPE_CHECKING:
    from dualprune.stages.training.run import Run

SNAP, CENTROIDS = "snap", "centroids"


@dataclass
class _State(proximal.Solving):
    values: dict[str, list[float]] = field(default_factory=dict)
    """Shared values of each tensor, once they were fitted."""
    tied: int = 0
    """Clusters whose members train together; 0 while none do."""


def _phases(spec: QuantizeSpec) -> list[Phase]:
    plan = proximal.phases(spec.admm)
    if spec.snap is not None:
        rate = Rate(lr=spec.snap.lr, schedule="constant")
        plan += [Phase(SNAP, spec.snap.epochs, rate)] * spec.snap.rounds
    if spec.centroids is not None:
        plan.append(Phase(CENTROIDS, spec.centroids.epochs, spec.centroids))
    return [*plan, Phase("retrain", spec.retrain.epochs, spec.retrain)]


def _start(run: Run[QuantizeSpec]) -> None:
    proximal.start(run, run.spec.admm, {})


def _enter(run: Run[QuantizeSpec], phase: Phase) -> None:
    proximal.enter(run, phase)
    run.engine.optimizer.tied = run.state.tied if phase.name == CENTROIDS else 0


def _leave(run: Run[QuantizeSpec], phase: Phase) -> Row:
    from dualprune.stages.solver import snapping

    if phase.name == proximal.ADMM:
        residual, row = proximal.update(run, run.spec.admm)
        if not proximal.goes_on(run):
            run.state.residual = {"total": residual.total, "tensors": residual.tensors}
            _fit(run)
        return row
    if phase.name == SNAP:
        assert run.spec.snap is not None
        more = run.next_phase is not None and run.next_phase.name == SNAP
        snapping.snap(run.engine, run.state.values, run.spec.snap.share if more else None)
        run.engine.optimizer.reset_inner()
    if phase.name == CENTROIDS:
        snapping.settle(run.engine, run.targets)
        run.state.tied = 0
    return {}


def _fit(run: Run[QuantizeSpec]) -> None:
    """Fit each tensor's values, and put the first share of the weights on them, or all of them in clusters."""
    from dualprune.stages.solver import snapping

    spec = run.spec
    run.state.values = snapping.fit(run.engine, run.targets)
    if spec.centroids is not None and spec.centroids.epochs:
        run.state.tied = snapping.tie_values(run.engine, run.state.values)
    else:
        snapping.snap(run.engine, run.state.values, spec.snap.share if spec.snap else None)


def _facts(run: Run[QuantizeSpec]) -> dict[str, Any]:
    return {**proximal.facts(run), "values": run.state.values}


KIND = Kind(
    settings=QuantizeSpec,
    version=5,
    phases=_phases,
    state=_State,
    varies=("constraints", "admm", "retrain", "snap", "centroids", "distill"),
    start=_start,
    enter=_enter,
    stepped=proximal.stepped,
    leave=_leave,
    facts=_facts,
)
