"""`kind: quantize`: ADMM onto shared values; then weights take them, by and by, or at once, and the values train on.

Ye et al. 2018b, Algs. 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dualprune.stages.kinds import proximal, schedules
from dualprune.stages.kinds.base import Kind, Phase, Row, plain
from dualprune.stages.settings.base import Problem, Settings
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import AnySet
from dualprune.stages.settings.training import Admm, Epochs, Rate, StageSpec, Training

if TYPE_CHECKING:
    from dualprune.stages.networks.parameters import Parameters
    from dualprune.stages.solver.targets import Targets
    from dualprune.stages.training.run import Run


class Snap(Settings):
    """Iterative quantise-and-retrain (Ye et al. 2018b, Alg. 2): the rest of the weights adapts to those snapped."""

    rounds: int = Field(ge=1)
    """Then what is still free is snapped too."""
    share: float = Field(default=0.3, gt=0, lt=1)
    """In each round: of the free weights nearest to each level this share, the closest first, is put on it and held."""
    epochs: int = Field(default=1, ge=1)
    """Of training after each round."""
    lr: float = Field(gt=0)
    """The learning rate, which stays."""


class QuantizeSpec(StageSpec):
    """Shared values for the non-zeros: ADMM, then `snap` for levels or `centroids` for clusters."""

    kind: Literal["quantize"]
    """The name of the kind."""
    constraints: list[AnySet] = Field(min_length=1)
    """Which tensors get which values: `levels` or `clusters` on each; sets of what stays may come before."""
    admm: Admm
    """Training towards the values."""
    snap: Snap | None = None
    """For levels; without it all weights are snapped at once."""
    centroids: Epochs | None = None
    """For clusters: train the shared values, each weight held to its cluster; without it they are clusters' means."""
    retrain: Training = Training(epochs=0, lr=1e-3)
    """Last, of what is not quantised: biases, normalisation, weights that no constraint names. None by default."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""

    @model_validator(mode="after")
    def _of_admm(self) -> QuantizeSpec:
        reason = schedules.refusal(self.constraints, self.admm) or proximal.refusal(self.constraints, self.admm)
        if reason is not None:
            raise ValueError(reason)
        return self


SNAP, CENTROIDS = "snap", "centroids"


@dataclass
class _State(proximal.Solving):
    values: dict[str, list[float]] = field(default_factory=dict)
    """Shared values of each tensor, once they were fitted."""
    tied: int = 0
    """Clusters whose members train together; 0 while none do."""


def _check(spec: QuantizeSpec, targets: Targets, parameters: Parameters) -> list[Problem]:
    """Each tensor needs values, of one sort in all, and only these are trained."""
    from dualprune.stages.constraints import SETS, VALUES
    from dualprune.stages.solver.patterns import shown

    problems: list[Problem] = []
    bare = [name for name, sets in targets.kinds.items() if SETS[sets[-1]].place != VALUES]
    if bare:
        text = f"{shown(bare, parameters)}: a quantize stage needs `levels` or `clusters` on each of its tensors"
        problems.append((("constraints",), text))
    first = {sets[-1]: name for name, sets in reversed(list(targets.kinds.items()))}
    if {"levels", "clusters"} <= set(first):
        both = ", ".join(f"`{one}` is on {first[one]}" for one in sorted(first))
        problems.append((("constraints",), f"levels and clusters need a stage each, being trained differently: {both}"))
    for setting, wanted in (("snap", "levels"), ("centroids", "clusters")):
        if getattr(spec, setting) is not None and wanted not in first:
            problems.append(((setting,), f"`{setting}` is for `set: {wanted}`, and no constraint has it"))
    return problems


def _phases(spec: QuantizeSpec) -> list[Phase]:
    plan = proximal.phases(spec.admm)
    if spec.snap is not None:
        rate = Rate(lr=spec.snap.lr, schedule="constant")
        plan += [Phase(SNAP, spec.snap.epochs, rate)] * spec.snap.rounds
    if spec.centroids is not None:
        plan.append(Phase(CENTROIDS, spec.centroids.epochs, spec.centroids))
    return [*plan, plain("retrain", spec.retrain)]


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
    needs_parent=True,
    constraints=lambda spec: spec.constraints,
    check=_check,
    start=_start,
    enter=_enter,
    stepped=proximal.stepped,
    leave=_leave,
    facts=_facts,
)
