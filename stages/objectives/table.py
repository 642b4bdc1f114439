"""The table of objectives. To add one: a file beside this one, and a line here. Others are users' own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from dualprune.stages.files.source import load, unchanged
from dualprune.stages.objectives.base import Objective
from dualprune.stages.objectives.classify import classify
from dualprune.stages.objectives.landmarks import landmarks
from dualprune.stages.objectives.multilabel import multilabel
from dualprune.stages.objectives.regress import regress
from dualprune.stages.objectives.tokens import tokens
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.objective import Named
from dualprune.stages.settings.training import StageSpec

OBJECTIVES: dict[str, Callable[[StageSpec], Objective]] = {
    "classify": classify,
    "multilabel": multilabel,
    "regress": regress,
    "tokens": tokens,
    "landmarks": landmarks,
}


def objective(spec: StageSpec) -> Objective:
    """A stage's objective. Torch is imported for one of a user's own only. Raises SpecError."""
    name = spec.objective.name
    if ":" in name:
        found = _own(spec.objective)
    elif name in OBJECTIVES:
        found = OBJECTIVES[name](spec)
    else:
        text = f"must be one of {', '.join(OBJECTIVES)}, or `package.module:NAME` of your own, not {name!r}"
        raise SpecError([(_place(spec.objective), text)])
    _check(spec, found)
    return found


def _own(aim: Named) -> Objective:
    """An objective that is not in the table. Raises SpecError, of which an error of the user's code is the cause."""
    at = _place(aim)
    try:
        if aim.source is not None:
            unchanged(aim.name, aim.source)
        found = load(aim.name)
    except Exception as error:
        ours = type(error).__module__.startswith("dualprune.")
        raise SpecError([(at, str(error) if ours else f"{aim.name} can't be imported: {_line(error)}")]) from error
    if not isinstance(found, Objective) and callable(found):
        found = _made(found, aim)
    elif aim.args:
        raise SpecError([(("objective", "args"), f"{aim.name} takes none: it is no function")])
    if not isinstance(found, Objective):
        text = f"{aim.name} is no `Objective`, and no function that makes one, but a {type(found).__name__}"
        raise SpecError([(at, f"{text}; see dualprune.stages.objectives.base")])
    return found


def _made(make: Callable[..., Any], aim: Named) -> Any:
    """What a user's function makes of its arguments. Raises SpecError."""
    try:
        inspect.signature(make).bind(**aim.args)
    except TypeError as error:
        text = f"{aim.name}{inspect.signature(make)} can't be called with these: {error}"
        raise SpecError([(("objective", "args"), text)]) from None
    try:
        return make(**aim.args)
    except Exception as error:
        raise SpecError([(_place(aim), f"{aim.name} raised {_line(error)}")]) from error


def _check(spec: StageSpec, found: Objective) -> None:
    """Whether an objective can do what its stage asks for. Raises SpecError."""
    name, problems = spec.objective.name, list[tuple[tuple[str | int, ...], str]]()
    if found.best not in found.metrics:
        text = f"{name} is chosen by {found.best!r}, which is none of its metrics: {', '.join(found.metrics)}"
        problems.append((_place(spec.objective), text))
    if name != "classify":
        asked = [("smoothing", bool(spec.smoothing)), ("mix", spec.mix is not None)]
        text = f"is for `objective: classify`, and this is {name}; leave it out"
        problems += [((setting,), text) for setting, given in asked if given]
    if getattr(spec, "distill", None) is not None and found.distil is None:
        problems.append((("distill",), f"{name} has no `distil`, which says how far outputs are from a teacher's"))
    if problems:
        raise SpecError(problems)


def _place(aim: Named) -> tuple[str, ...]:
    return ("objective", "name") if aim.args else ("objective",)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
