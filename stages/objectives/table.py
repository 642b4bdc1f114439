"""The table of objectives. To add one: a file beside this one, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from dualprune.stages.objectives.base import Objective
from dualprune.stages.objectives.classify import classify
from dualprune.stages.settings.training import StageSpec

OBJECTIVES: dict[str, Callable[[StageSpec], Objective]] = {"classify": classify}


def objective(spec: StageSpec) -> Objective:
    """A stage's objective."""
    return OBJECTIVES[spec.objective](spec)
