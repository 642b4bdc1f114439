"""A search: prune harder and harder, by bisection, for as long as what is validated holds. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from dualprune.pipeline.choices.base import ChoiceError, ChoiceSettings
from dualprune.stages.kinds.prune import PruneSpec
from dualprune.stages.settings.sets import Amount, Grouped

CLOSE = 1.02
"""A search ends when the harshest factor that holds and the mildest that does not are this close."""


class Search(ChoiceSettings):
    """Rates by bisection: all amounts shrink in proportion while validation holds (Zhang et al. 2018, section 6.2)."""

    kind: Literal["search"]
    """The name of the choice."""
    stage: PruneSpec
    """What is tried; its amounts are those of factor 1."""
    tolerance: float = Field(ge=0)
    """How much worse than the parent's the objective's best metric may get on `val`: of `classify`, by how many points
    accuracy may fall; of a metric of which less is better, by how much it may rise."""
    trials: int = Field(ge=2)
    """Most stages that are run."""
    most: float = Field(gt=1)
    """The largest factor on the rates that is tried."""

    @field_validator("stage")
    @classmethod
    def _can_shrink(cls, stage: PruneSpec) -> PruneSpec:
        if not any(isinstance(constraint, Amount) for constraint in stage.constraints):
            raise ValueError("a search changes `rate`, `keep`, `count` or `macs`, and no constraint has one of them")
        return stage


def next_factor(
    search: Search, reference: float, tried: Sequence[tuple[float, float]], unit: str = "points"
) -> float | None:
    """The factor that a search tries next, or None when it is over.

    `reference` is what the parent is worth on validation, `tried` factors and what came of them is worth: more is
    better, in the `unit` that messages name. A factor that makes of a stage (of few filters, say) what another one made
    of it is not tried: it counts as that one did. Raises ChoiceError if the settings as given lose too much already.
    """
    if not tried:
        return 1.0
    held = [factor for factor, worth in tried if _holds(search, reference, worth)]
    fell = [factor for factor, worth in tried if not _holds(search, reference, worth)]
    if not held:
        lost = reference - tried[0][1]
        shown = f"{lost:.2f}" if unit == "points" else f"{lost:.4g}"
        text = f"its rates as given lose {shown} {unit} already, and {search.tolerance:g} are allowed"
        raise ChoiceError(f"{text}; start from lower rates, or allow more")
    if search.most in held or len(tried) >= search.trials:
        return None
    low, high = max(held), min(fell, default=math.inf)
    mild = shrunk(search.stage, low)
    if not fell:
        return None if shrunk(search.stage, search.most) == mild else search.most
    harsh = shrunk(search.stage, high)
    while high / low >= CLOSE:
        factor = math.sqrt(low * high)
        stage = shrunk(search.stage, factor)
        if stage == mild:
            low = factor
        elif stage == harsh:
            high = factor
        else:
            return factor
    return None


def best_factor(search: Search, reference: float, tried: Sequence[tuple[float, float]]) -> int:
    """Number of the trial with the largest factor that held."""
    held = [number for number, (_, worth) in enumerate(tried) if _holds(search, reference, worth)]
    return max(held, key=lambda number: tried[number][0])


def _holds(search: Search, reference: float, worth: float) -> bool:
    """Whether no more than the tolerance is lost; what is lost exactly is no more, however it is rounded."""
    return reference - worth <= search.tolerance + 1e-11 * max(abs(reference), abs(worth))


def shrunk(stage: PruneSpec, factor: float) -> PruneSpec:
    """The stage with every amount divided by `factor`; what has no amount stays as it is."""
    constraints = [
        constraint.model_copy(
            update={
                "rate": constraint.rate and constraint.rate * factor,
                "keep": constraint.keep and constraint.keep / factor,
                "count": constraint.count and max(1, math.floor(constraint.count / factor)),
                **_macs(constraint, factor),
            }
        )
        if isinstance(constraint, Amount)
        else constraint
        for constraint in stage.constraints
    ]
    return stage.model_copy(update={"constraints": constraints})


def _macs(constraint: Amount, factor: float) -> dict[str, float]:
    return {"macs": constraint.macs / factor} if isinstance(constraint, Grouped) and constraint.macs else {}
