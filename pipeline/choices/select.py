"""Choices among parents: the best of them, and a place in a beam's pool.

A place in a pool takes its candidate where that is the best of all candidates, and else what it held before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from dualprune.pipeline.choices.base import (
    SIZES,
    TIMED,
    Choice,
    ChoiceError,
    ChoiceSettings,
    Decision,
    Kept,
    Latency,
    Manifest,
    Metric,
    Option,
    Refuse,
    Stored,
    Take,
    Time,
    choosable,
    option,
    worth,
)

if TYPE_CHECKING:
    from dualprune.pipeline.node import Node


class Select(ChoiceSettings):
    """The best of several parents."""

    kind: Literal["select"]
    """The name of the kind."""
    metric: Metric = "val_accuracy"
    """By what; among equals the first parent is taken. Left out, it is the best of the parents' objective, on `val`:
    accuracy of `classify`."""
    budget: dict[Metric, float] = Field(default={})
    """Parents beyond one of these are out: at least so much of `rate` and of metrics of which more is better, at most
    so much of the others. `rate` and `nonzeros` are over each parent's own constrained tensors."""
    latency: Latency | None = None
    """Where parents are timed, side by side, for `milliseconds` of a call."""

    @model_validator(mode="after")
    def _timed(self) -> Select:
        if (TIMED in {self.metric, *self.budget}) != (self.latency is not None):
            raise ValueError(f"`{TIMED}` as budget or metric, and `latency`, which says where, go together")
        return self


class Replace(ChoiceSettings):
    """A place in a beam's pool after a round. Its parents: what it held, then the round's candidates."""

    kind: Literal["replace"]
    """The name of the kind."""
    metric: Kept | None = None
    """Left out, it is the best of the parents' objective."""
    candidate: int = Field(ge=0)
    """Which of the candidates came from this place."""


def select(choice: Select, options: Sequence[Option]) -> int:
    """Number of the option that a select takes. Raises ChoiceError if none is within the budget."""
    allowed = [number for number, one in enumerate(options) if _within(choice.budget, one)]
    if not allowed:
        higher = choosable(options[0].measures)
        wanted = ", ".join(f"{m} {'at least' if higher[m] else 'at most'} {v:g}" for m, v in choice.budget.items())
        there = "; ".join(
            f"{one.name}: {', '.join(f'{m} {one.metrics.get(m)}' for m in choice.budget)}" for one in options
        )
        raise ChoiceError(f"no parent is within the budget ({wanted}): {there}")
    return max(allowed, key=lambda number: (worth(choice.metric, options[number]), -number))


def replace(choice: Replace, options: Sequence[Option]) -> int:
    """Number of the option (0 is what the place held) that a place in a pool goes on with."""
    metric = choice.metric or options[0].measures.of("val")
    best = select(Select(kind="select", metric=metric), options[1:])
    return 1 + best if best == choice.candidate else 0


def _within(budget: Mapping[str, float], one: Option) -> bool:
    higher = choosable(one.measures)
    for metric, limit in budget.items():
        value = one.metrics.get(metric)
        if value is None or (value < limit if higher[metric] else value > limit):
            return False
    return True


def _selected(node: Node, parents: Sequence[Node], manifests: Mapping[str, Manifest], stored: Stored) -> Decision:
    assert isinstance(node.spec, Select)
    times: list[float | None] = [None for _ in parents]
    if (latency := node.spec.latency) is not None:
        rows = [latency.row(stored.speeds(parent.key)) for parent in parents]
        if None in rows:
            return Time(tuple(parents), latency)
        times = [1000 * row["latency"]["middle"] for row in rows if row is not None]
    options = [option(one.name, manifests[one.name], time) for one, time in zip(parents, times, strict=True)]
    try:
        return Take(parents[select(node.spec, options)].name)
    except ChoiceError as error:
        return Refuse(str(error))


def _replaced(node: Node, parents: Sequence[Node], manifests: Mapping[str, Manifest], stored: Stored) -> Decision:
    assert isinstance(node.spec, Replace)
    options = [option(parent.name, manifests[parent.name]) for parent in parents]
    return Take(parents[replace(node.spec, options)].name)


def _small(choice: Select) -> Select:
    """Without limits that a few steps can't reach."""
    budget = {metric: limit for metric, limit in choice.budget.items() if metric in SIZES and metric != TIMED}
    latency = choice.latency if choice.metric == TIMED else None
    return choice.model_copy(update={"budget": budget, "latency": latency})


SELECT = Choice(Select, version=1, decide=_selected, small=_small)
REPLACE = Choice(Replace, version=1, decide=_replaced, written=False)
