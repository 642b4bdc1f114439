"""What kinds of stages have in common that are solved by ADMM: phases, the updates of Z and U, the growth of rho."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dualprune.stages.kinds.base import Phase, Row, State
from dualprune.stages.settings.training import Admm

if TYPE_CHECKING:
    from torch import Tensor

    from dualprune.stages.solver.admm import Residual
    from dualprune.stages.training.run import Run

ADMM = "admm"
"""The name of phases between whose epochs Z and U are updated."""


@dataclass
class Solving(State):
    """Where ADMM stands."""

    rho: float = 0.0
    """The penalty's present weight."""
    residual: dict[str, Any] | None = None
    """That of the final projection, once it was made."""
    budget: dict[str, Any] = field(default_factory=dict)
    """What sharing out global budgets gave each tensor at the projection, and took of memory."""


def phases(settings: Admm | None) -> list[Phase]:
    """A phase for each update."""
    if settings is None:
        return []
    span = 0 if settings.lr_restart else settings.updates * settings.epochs
    return [
        Phase(
            ADMM,
            settings.epochs,
            settings,
            before=0 if settings.lr_restart else number * settings.epochs,
            span=span,
            interval=settings.interval,
        )
        for number in range(settings.updates)
    ]


def start(run: Run[Any], settings: Admm | None, duals: Mapping[str, Tensor]) -> None:
    """Z = Proj(W), U as given."""
    from dualprune.stages.solver import admm

    admm.start(run.engine, run.targets, duals)
    run.state.rho = 0.0 if settings is None else settings.rho


def enter(run: Run[Any], phase: Phase) -> None:
    """The penalty is on in ADMM's phases; masks hold from the final projection on, those of parents always."""
    run.engine.optimizer.rho = run.state.rho if phase.name == ADMM else 0.0
    run.engine.optimizer.masking = run.masked or run.state.residual is not None


def stepped(run: Run[Any], phase: Phase) -> None:
    """Update Z and U within a phase too, where its interval says so."""
    from dualprune.stages.solver import admm

    done = run.progress.epoch * run.per_epoch + run.progress.step
    if phase.interval is not None and done % phase.interval == 0 and done < phase.epochs * run.per_epoch:
        admm.update(run.engine, run.targets)


def update(run: Run[Any], settings: Admm) -> tuple[Residual, Row]:
    """Z and U at a phase's end, and rho for the next one. What is left of ADMM is skipped once it has converged."""
    from dualprune.stages.solver import admm
    from dualprune.stages.solver.seen import Seen

    rho, seen = run.state.rho, Seen()
    residual, run.state.rho = admm.advance(run.engine, run.targets, rho, settings, seen.look)
    row = {"rho": rho, "residual": residual.total, "change": residual.change, **seen.row()}
    if max(residual.total, residual.change) <= settings.tolerance:
        while goes_on(run):
            run.progress.phase += 1
    return residual, row


def goes_on(run: Run[Any]) -> bool:
    """Whether the next phase is one of ADMM's too."""
    return run.next_phase is not None and run.next_phase.name == ADMM


def facts(run: Run[Any]) -> dict[str, Any]:
    """What the manifest says of the solution."""
    return {
        "rho": run.state.rho,
        "residuals": (run.state.residual or {}).get("tensors", {}),
        "budget": run.state.budget,
    }
