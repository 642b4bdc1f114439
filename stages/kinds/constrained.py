"""What a stage constrains, whatever its kind: its settings meet its network. Torch is imported by who asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dualprune.stages.kinds.table import KINDS
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import Model, StageSpec

if TYPE_CHECKING:
    from dualprune.stages.coupling.cut import Cut
    from dualprune.stages.networks.parameters import Parameters
    from dualprune.stages.solver.bounds import Room
    from dualprune.stages.solver.targets import Held, Targets


def targets_of(spec: StageSpec, parameters: Parameters, cut: Callable[[], Cut] | None = None) -> Targets:
    """What each constrained tensor is held to, in a network of these parameters; `cut` says what goes together in it.

    Raises SpecError with all that is wrong.
    """
    from dualprune.stages.solver.targets import targets

    kind = KINDS[spec.kind]
    found, problems = targets(kind.constraints(spec), parameters, spec.model.name, cut)
    problems = [*problems, *kind.check(spec, found, parameters)]
    if problems:
        raise SpecError(problems)
    return found


def constrained(spec: StageSpec, cut: Callable[[], Cut] | None = None) -> list[Held]:
    """What each of a stage's constraints holds, for people. Raises SpecError."""
    from dualprune.stages.networks.build import parameters_of
    from dualprune.stages.solver.targets import held

    parameters = parameters_of(spec.model)
    targets_of(spec, parameters, cut)
    kind = KINDS[spec.kind]
    return held([*kind.constraints(spec), *kind.removes(spec)], parameters, cut)


def check(spec: StageSpec, cut: Callable[[], Cut] | None = None) -> Room:
    """Everything that can be said of a stage's settings without data, and what may stay. Raises SpecError.

    The network is built without memory for its weights, once for all stages that have it. What goes together in it,
    `cut` says; without it coupled constraints are not looked at but for their patterns.
    """
    from dualprune.stages.networks.build import parameters_of, sketch
    from dualprune.stages.networks.inside import places
    from dualprune.stages.networks.normalisation import norms
    from dualprune.stages.solver.bounds import room
    from dualprune.stages.solver.targets import targets

    kind, parameters = KINDS[spec.kind], parameters_of(spec.model)
    found = targets_of(spec, parameters, cut)
    _, problems = targets(kind.removes(spec), parameters, spec.model.name, cut)
    if spec.recalibrate is not None and not norms(sketch(spec.model)):
        text = f"{spec.model.name} has no batch normalisation, whose statistics these are; leave it out"
        problems = [*problems, (("recalibrate",), text)]
    if problems:
        raise SpecError(problems)
    if (distill := getattr(spec, "distill", None)) is not None:
        places(sketch(spec.model), distill)
    if kind.shrinks is not None and cut is not None:
        cut()  # that a network can't be followed is told here
    return room(found, parameters)


def check_teacher(spec: StageSpec, teacher: Model) -> None:
    """Whether what a stage compares within networks is in a teacher too, as both are built. Raises SpecError."""
    from dualprune.stages.networks.build import sketch
    from dualprune.stages.networks.inside import THEIRS, places, unlike

    distill = getattr(spec, "distill", None)
    if distill is None or spec.model.network == teacher.network:
        return
    if problems := unlike(places(sketch(spec.model), distill), places(sketch(teacher), distill, THEIRS)):
        raise SpecError(problems)
