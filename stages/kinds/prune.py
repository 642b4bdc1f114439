"""`kind: prune`: ADMM training, one final projection, masked retraining (Ye et al. 2018, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from dualprune.stages.kinds import proximal, schedules
from dualprune.stages.kinds.base import Kind, Phase, Row, plain
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import Support
from dualprune.stages.settings.training import Admm, StageSpec, Training

if TYPE_CHECKING:
    from torch import Tensor

    from dualprune.stages.training.run import Run


class PruneSpec(StageSpec):
    """ADMM training, one final projection, masked retraining (Ye et al. 2018, section 2)."""

    kind: Literal["prune"]
    """The name of the kind."""
    constraints: list[Support] = Field(min_length=1)
    """What stays of which tensors."""
    admm: Admm | None
    """`null` projects the weights as they are, at once, and retrains: magnitude pruning (Han et al. 2015)."""
    retrain: Training
    """After the final projection: what was pruned stays zero."""
    regrow: bool = False
    """Whether weights that the parent pruned may come back. The paper says no (masked ADMM)."""
    duals: Literal["carry", "reset"] = "reset"
    """`carry` starts from the parent's U, rescaled so that rho U is kept; `reset` starts from U = 0."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""

    @model_validator(mode="after")
    def _of_admm(self) -> PruneSpec:
        if self.admm is None and (self.regrow or self.duals == "carry"):
            said = "regrow: true" if self.regrow else "duals: carry"
            raise ValueError(f"`{said}` changes nothing without ADMM, and `admm` is null; leave one of them out")
        if self.duals == "carry" and self.admm is not None and self.admm.rho_schedule is not None:
            raise ValueError(
                "`duals: carry` keeps rho U, which a rho near 0, as `rho_schedule` begins, makes a U that outweighs W;"
                " leave one of them out"
            )
        reason = schedules.refusal(self.constraints, self.admm) or proximal.refusal(self.constraints, self.admm)
        if reason is not None:
            raise ValueError(reason)
        return self


def _phases(spec: PruneSpec) -> list[Phase]:
    return [*proximal.phases(spec.admm), plain("retrain", spec.retrain)]


def _start(run: Run[PruneSpec]) -> None:
    proximal.start(run, run.spec.admm, _duals(run))
    if run.spec.admm is None:
        _project(run)


def _duals(run: Run[PruneSpec]) -> dict[str, Tensor]:
    """U to start from: a prune's. The unscaled dual rho U is what carries over, so U is rescaled to the new rho."""
    parent, spec = run.parent, run.spec
    if spec.duals == "reset" or parent is None:
        return {}
    solved = parent.manifest.get("solved", parent.manifest["spec"]["kind"])
    if solved != spec.kind:  # what a quantisation leaves is the U of other sets
        return {}
    assert spec.admm is not None
    factor = parent.manifest["rho"] / spec.admm.rho
    return {name: u * factor * run.masks.get(name, 1.0) for name, u in parent.duals.items()}


def _leave(run: Run[PruneSpec], phase: Phase) -> Row:
    if phase.name != proximal.ADMM:
        return {}
    assert run.spec.admm is not None
    _, row = proximal.update(run, run.spec.admm)
    return row if proximal.goes_on(run) else row | {"residual": _project(run)}


def _project(run: Run[PruneSpec]) -> float:
    """The final projection, noted; returns how far the weights were from it."""
    from dualprune.stages.solver import admm

    final = admm.project(run.engine, run.targets)
    run.state.residual = {"total": final.residual.total, "tensors": final.residual.tensors}
    if final.kept:
        run.state.budget = {"kept": final.kept, "peak_bytes": final.peak_bytes}
    return final.residual.total


KIND = Kind(
    settings=PruneSpec,
    version=4,
    phases=_phases,
    state=proximal.Solving,
    varies=("constraints", "admm", "retrain", "distill", "regrow", "duals"),
    needs_parent=True,
    constraints=lambda spec: spec.constraints,
    prunes=True,
    check=proximal.check,
    regrows=lambda spec: spec.regrow,
    start=_start,
    enter=proximal.enter,
    stepped=proximal.stepped,
    leave=_leave,
    facts=proximal.facts,
)
