"""What kinds of stages have in common that are solved by ADMM: phases, the updates of Z and U, the growth of rho."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dualprune.stages.kinds import schedules
from dualprune.stages.kinds.base import Phase, Row, State
from dualprune.stages.settings.base import Problem
from dualprune.stages.settings.sets import AnySet, Clusters, Levels, LowRank
from dualprune.stages.settings.training import Admm

if TYPE_CHECKING:
    from torch import Tensor

    from dualprune.stages.networks.parameters import Parameters
    from dualprune.stages.solver.admm import Residual
    from dualprune.stages.solver.targets import Targets
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


def refusal(constraints: Sequence[AnySet], settings: Admm | None) -> str | None:
    """Why constraints can't be projected on with entries weighed, if `weigh` asks for that; None where they can."""
    if settings is None or settings.weigh is None:
        return None
    others = sorted({one.set for one in constraints if isinstance(one, LowRank | Levels | Clusters)})
    if not others:
        return None
    return f"`weigh` says which entries stay, and `{'`, `'.join(others)}` is not of that; leave `weigh` out"


def check(spec: Any, targets: Targets, parameters: Parameters) -> list[Problem]:
    """Which of a stage's tensors have no input for each entry, if `weigh` asks for these."""
    if spec.admm is None or spec.admm.weigh != "activation":
        return []
    from dualprune.stages.networks.build import sketch
    from dualprune.stages.solver.unfit import by_squares

    return [(("admm", "weigh"), text) for text in by_squares(sketch(spec.model), targets.names, parameters)]


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
            sam=settings.sam,
            sg=settings.sg,
            weigh=settings.weigh,
        )
        for number in range(settings.updates)
    ]


def start(run: Run[Any], settings: Admm | None, duals: Mapping[str, Tensor]) -> None:
    """Z = Proj(W), U as given."""
    from dualprune.stages.solver import admm

    if settings is None:
        admm.start(run.engine, run.targets, duals)
        return
    admm.start(run.engine, aims(run, settings), duals)
    run.state.rho = _weight(run, settings)


def enter(run: Run[Any], phase: Phase) -> None:
    """The penalty is on in ADMM's phases; masks hold from the final projection on, those of parents always. What
    entries are weighed by is followed in ADMM's phases."""
    run.engine.optimizer.rho = run.state.rho if phase.name == ADMM else 0.0
    run.engine.weigh(phase.weigh is not None)
    run.engine.optimizer.masking = run.masked or run.state.residual is not None


def stepped(run: Run[Any], phase: Phase) -> None:
    """Update Z and U within a phase too, where its interval says so."""
    from dualprune.stages.solver import admm

    done = run.progress.epoch * run.per_epoch + run.progress.step
    if phase.interval is not None and done % phase.interval == 0 and done < phase.epochs * run.per_epoch:
        assert isinstance(phase.rate, Admm)
        admm.update(run.engine, aims(run, phase.rate))
        if phase.rate.rho_schedule is not None:
            _raise(run, phase.rate)
            run.engine.optimizer.rho = run.state.rho


def aims(run: Run[Any], settings: Admm) -> Targets:
    """What tensors are held to now: fewer constraints, or looser ones, where rates rise to what the stage asks for.

    Entries are weighed from the first step on: before it nothing was seen to weigh them by.
    """
    from dualprune.stages.solver.targets import alike, targets

    done = _done(run, settings)
    if settings.rate_from is None or done >= settings.ramp:
        return run.targets if done else replace(run.targets, weigh=None)
    loose = schedules.eased(run.kind.constraints(run.spec), settings, done)
    found, problems = targets(loose, run.targets.parameters, run.spec.model.name)
    assert not problems, problems  # what is held to less is right where the stage's own constraints are
    return replace(alike(found, run.targets), weigh=run.targets.weigh if done else None)


def _done(run: Run[Any], settings: Admm, more: int = 0) -> float:
    """The share of all of ADMM's steps that are done, and so many more. ADMM's phases are a stage's first."""
    per_phase, progress = settings.epochs * run.per_epoch, run.progress
    done = progress.phase * per_phase + progress.epoch * run.per_epoch + progress.step
    return (done + more) / (settings.updates * per_phase)


def _weight(run: Run[Any], settings: Admm) -> float:
    """rho until the next update of Z and U."""
    per_phase, within = settings.epochs * run.per_epoch, run.progress.epoch * run.per_epoch + run.progress.step
    interval = settings.interval or per_phase
    following = min((within // interval + 1) * interval, per_phase)
    return schedules.weight(settings, min(1.0, _done(run, settings, following - within)))


def _raise(run: Run[Any], settings: Admm) -> None:
    """Let rho rise as its schedule says, and U with it: rho U stays."""
    from dualprune.stages.solver import admm

    rho = _weight(run, settings)
    admm.rescale(run.engine, run.targets, rho / run.state.rho)
    run.state.rho = rho


def update(run: Run[Any], settings: Admm) -> tuple[Residual, Row]:
    """Z and U at a phase's end, and rho for the next one. What is left of ADMM is skipped once it has converged."""
    from dualprune.stages.solver import admm
    from dualprune.stages.solver.seen import Seen

    rho, seen, held = run.state.rho, Seen(), aims(run, settings)
    if settings.rho_schedule is None:
        residual, run.state.rho = admm.advance(run.engine, held, rho, settings, seen.look)
    else:
        residual = admm.update(run.engine, held, seen.look).residual
        _raise(run, settings)
    row = {"rho": rho, "residual": residual.total, "change": residual.change, **seen.row()}
    if held is run.targets and max(residual.total, residual.change) <= settings.tolerance:
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
