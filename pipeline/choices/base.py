"""Stages that train nothing: they take one of their parents' results, or look for the best settings. Pure.

A select takes the best of its parents. A replace is a place in a beam's pool: it takes its candidate where
that is the best of all candidates, and else what it held before. A search prunes harder and harder, by
bisection, for as long as validation accuracy holds. None of them ever sees a test accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.sets import Amount
from dualprune.stages.settings.spec import PruneSpec

METHOD_VERSION = 1
"""Raised when a choice starts to fall differently for the same settings: its keys change."""

Metric = Literal["val_accuracy", "rate", "val_loss", "nonzeros", "total_bits"]
HIGHER: tuple[Metric, ...] = ("val_accuracy", "rate")
"""Metrics of which more is better; of the others less is."""

CLOSE = 1.02
"""A search ends when the harshest factor that holds and the mildest that does not are this close."""


class ChoiceError(ValueError):
    """There is nothing to choose: the sentence says why, with the figures."""


class Select(Settings):
    """The best of several parents."""

    kind: Literal["select"]
    metric: Metric = "val_accuracy"
    """By what; among equals the first parent is taken."""
    budget: dict[Metric, float] = Field(default={})
    """Parents beyond one of these are out: at least so much `val_accuracy` or `rate`, at most so many of the others.
    `rate` and `nonzeros` are over each parent's own constrained tensors."""


class Replace(Settings):
    """A place in a beam's pool after a round. Its parents: what it held, then the round's candidates."""

    kind: Literal["replace"]
    metric: Metric
    candidate: int = Field(ge=0)
    """Which of the candidates came from this place."""


class Search(Settings):
    """Rates by bisection: all amounts shrink in proportion while accuracy holds (Zhang et al. 2018, section 6.2)."""

    kind: Literal["search"]
    stage: PruneSpec
    """What is tried; its amounts are those of factor 1."""
    tolerance: float = Field(ge=0, le=100)
    """How far validation accuracy may fall below the parent's, in points."""
    trials: int = Field(ge=2)
    """Most stages that are run."""
    most: float = Field(gt=1)
    """The largest factor on the rates that is tried."""

    @field_validator("stage")
    @classmethod
    def _can_shrink(cls, stage: PruneSpec) -> PruneSpec:
        if not any(isinstance(constraint, Amount) for constraint in stage.constraints):
            raise ValueError("a search changes `rate`, `keep` or `count`, and no constraint has one of them")
        return stage


Choice = Select | Replace | Search


@dataclass(frozen=True)
class Option:
    """One of those to choose from."""

    name: str
    metrics: Mapping[str, Any]
    """Of its artefact; `total_bits` of its storage is among them."""


def option(name: str, manifest: Mapping[str, Any]) -> Option:
    """What there is to know of a finished stage for a choice."""
    bits = (manifest.get("storage") or {}).get("total_bits")
    return Option(name, {**manifest["metrics"], "total_bits": bits})


def select(choice: Select, options: Sequence[Option]) -> int:
    """Number of the option that a select takes. Raises ChoiceError if none is within the budget."""
    allowed = [number for number, one in enumerate(options) if _within(choice.budget, one)]
    if not allowed:
        wanted = ", ".join(f"{m} {'at least' if m in HIGHER else 'at most'} {v:g}" for m, v in choice.budget.items())
        there = "; ".join(f"{one.name}: {', '.join(f'{m} {one.metrics[m]}' for m in choice.budget)}" for one in options)
        raise ChoiceError(f"no parent is within the budget ({wanted}): {there}")
    return max(allowed, key=lambda number: (_worth(choice.metric, options[number]), -number))


def replace(choice: Replace, options: Sequence[Option]) -> int:
    """Number of the option (0 is what the place held) that a place in a pool goes on with."""
    best = select(Select(kind="select", metric=choice.metric), options[1:])
    return 1 + best if best == choice.candidate else 0


def next_factor(search: Search, reference: float, tried: Sequence[tuple[float, float]]) -> float | None:
    """The factor that a search tries next, or None when it is over.

    `reference` is the parent's validation accuracy, `tried` factors and the accuracies that they gave. A factor that
    makes of a stage (of few filters, say) what another one made of it is not tried: it counts as that one did.
    Raises ChoiceError if the settings as given lose too much already.
    """
    if not tried:
        return 1.0
    held = [factor for factor, accuracy in tried if _holds(search, reference, accuracy)]
    fell = [factor for factor, accuracy in tried if not _holds(search, reference, accuracy)]
    if not held:
        lost = reference - tried[0][1]
        text = f"its rates as given lose {lost:.2f} points already, and {search.tolerance:g} are allowed"
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
    held = [number for number, (_, accuracy) in enumerate(tried) if _holds(search, reference, accuracy)]
    return max(held, key=lambda number: tried[number][0])


def _holds(search: Search, reference: float, accuracy: float) -> bool:
    """Whether no more than the tolerance is lost; what is lost exactly is no more, however it is rounded."""
    return reference - accuracy <= search.tolerance + 1e-9


def shrunk(stage: PruneSpec, factor: float) -> PruneSpec:
    """The stage with every amount divided by `factor`; what has no amount stays as it is."""
    constraints = [
        constraint.model_copy(
            update={
                "rate": constraint.rate and constraint.rate * factor,
                "keep": constraint.keep and constraint.keep / factor,
                "count": constraint.count and max(1, math.floor(constraint.count / factor)),
            }
        )
        if isinstance(constraint, Amount)
        else constraint
        for constraint in stage.constraints
    ]
    return stage.model_copy(update={"constraints": constraints})


def _within(budget: Mapping[Metric, float], one: Option) -> bool:
    for metric, limit in budget.items():
        value = one.metrics[metric]
        if value is None or (value < limit if metric in HIGHER else value > limit):
            return False
    return True


def _worth(metric: Metric, one: Option) -> float:
    value = one.metrics[metric]
    if value is None:
        return -math.inf
    return float(value) if metric in HIGHER else -float(value)
