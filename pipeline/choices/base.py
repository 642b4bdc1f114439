"""What a choice is: a stage that trains nothing itself, and decides by value. Pure.

A choice takes what one of its parents, or a trial of its own, has left. None ever sees a test accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from dualprune.pipeline.node import Node

Manifest = Mapping[str, Any]
Metric = Literal["val_accuracy", "rate", "val_loss", "nonzeros", "total_bits"]
HIGHER: tuple[Metric, ...] = ("val_accuracy", "rate")
"""Metrics of which more is better; of the others less is."""


class ChoiceError(ValueError):
    """There is nothing to choose: the sentence says why, with the figures."""


class ChoiceSettings(Settings):
    """Base of the settings of all choices."""

    kind: str
    """Its name in the table of choices."""


@dataclass(frozen=True)
class Option:
    """One of those to choose from."""

    name: str
    metrics: Mapping[str, Any]
    """Of its artefact; `total_bits` of its storage is among them."""


def option(name: str, manifest: Manifest) -> Option:
    """What there is to know of a finished stage for a choice."""
    bits = (manifest.get("storage") or {}).get("total_bits")
    return Option(name, {**manifest["metrics"], "total_bits": bits})


def worth(metric: Metric, one: Option) -> float:
    """More is better, whatever the metric; an option that has no such number comes last."""
    value = one.metrics[metric]
    if value is None:
        return -math.inf
    return float(value) if metric in HIGHER else -float(value)


@dataclass(frozen=True)
class Tried:
    """A trial that is done."""

    node: Node
    manifest: Manifest


@dataclass(frozen=True)
class Take:
    """The choice is made: its artefact is that of a parent, or of one of its trials."""

    name: str
    tried: tuple[Tried, ...] = ()
    """Trials that are done, in order."""


@dataclass(frozen=True)
class Try:
    """These trials have to be run first. A trial goes by its name: one that is at work already is named again."""

    trials: tuple[Node, ...]
    tried: tuple[Tried, ...] = ()
    """Trials that are done, in order."""


@dataclass(frozen=True)
class Refuse:
    """There is nothing to take."""

    reason: str


Decision = Take | Try | Refuse
Decide = Callable[["Node", Sequence["Node"], Mapping[str, Manifest], Callable[[str], Manifest | None]], Decision]
"""Of a choice's node, its parents, manifests by name (the parents' are there) and a look at the store by key."""

S = TypeVar("S", bound=ChoiceSettings)


@dataclass(frozen=True)
class Trials(Generic[S]):
    """Of a choice that runs stages of its own: they are made of its setting `stage`."""

    kind: str
    """The kind of stage that it tries; an entry of a file asks for the choice by a setting of its name."""
    stage: Callable[[S], StageSpec]
    """The stage as it is given."""
    most: Callable[[S], int]
    """How many trials are run at most."""
    harshest: Callable[[S], tuple[StageSpec, str]]
    """The stage that differs most from the one given, and in brackets what it is called."""


def as_it_is(settings: S) -> S:
    """Settings that nothing has to be changed in."""
    return settings


@dataclass(frozen=True)
class Choice(Generic[S]):
    """A kind of choice."""

    settings: type[S]
    version: int
    """Raised when the choice starts to fall differently for the same settings: its keys change."""
    decide: Decide
    small: Callable[[S], S] = as_it_is
    """Settings with which a few steps of training are enough."""
    written: bool = True
    """Whether a file may have an entry of this kind; else it comes of recipes alone."""
    trials: Trials[S] | None = None
