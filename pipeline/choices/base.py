"""What a choice is: a stage that trains nothing itself, and decides by value. Pure: what it wants timed others time.

A choice takes what one of its parents, or a trial of its own, has left. None ever sees what was measured on test.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, Field

from dualprune.stages.objectives.measures import CLASSIFY, Measures, measures
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from dualprune.pipeline.node import Node

Manifest = Mapping[str, Any]
Speeds = Sequence[Mapping[str, Any]]
"""How fast a finished stage's network was, as `dualprune speed` left it (pipeline.store.speeds)."""
TIMED = "milliseconds"
"""Of a call: what is chosen by that no artefact has, for it depends on the machine."""
SIZES = {
    **{"rate": True, "nonzeros": False, "total_bits": False},
    **{"macs": False, "network_weights": False, "dense_bytes": False, TIMED: False},
}
"""What may be chosen by, whatever the objective, and whether more of it is better."""
VALIDATED = "val_"
"""What the names of an objective's metrics begin with on the split that is chosen on."""


def _known(metric: str, sizes: Collection[str] = SIZES) -> str:
    if metric not in sizes and not re.fullmatch(f"{VALIDATED}.+", metric):
        raise ValueError(f"must be {', '.join(sizes)}, or `{VALIDATED}` and a metric of the objective, not {metric!r}")
    return metric


def _kept(metric: str) -> str:
    return _known(metric, [name for name in SIZES if name != TIMED])


Metric = Annotated[str, AfterValidator(_known)]
"""What is chosen by."""
Kept = Annotated[str, AfterValidator(_kept)]
"""What is chosen by without timing anything."""


def choosable(of: Measures) -> dict[str, bool]:
    """All that may be chosen by among stages that were measured so, and whether more of it is better."""
    return {f"{VALIDATED}{name}": one.higher for name, one in of.metrics.items()} | SIZES


class Latency(Settings):
    """Where networks are timed for a budget: what is fast there may be slow elsewhere."""

    machine: str = Field(min_length=1)
    """The name of the processor, or of the GPU, as `dualprune speed` prints it. On another one the choice is refused:
    give that one's name, and all is timed anew."""
    backend: Literal["torch", "compile", "csr", "onnx"] = "onnx"
    """What runs the networks."""
    device: Literal["cpu", "cuda"] = "cpu"
    """On what."""
    batch: int = Field(default=1, ge=1)
    """Samples of a call."""
    threads: int = Field(default=1, ge=1)
    """Of a CPU."""

    def __str__(self) -> str:
        where = f"{self.threads} thread{'' if self.threads == 1 else 's'}" if self.device == "cpu" else self.device
        return f"{self.backend} on {self.machine}, {where}, batch {self.batch}"

    def row(self, speeds: Speeds) -> Mapping[str, Any] | None:
        """What was measured there; None if nothing was."""
        place = self.model_dump()
        return next((row for row in speeds if all(row.get(name) == value for name, value in place.items())), None)


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
    measures: Measures = CLASSIFY


def option(name: str, manifest: Manifest, milliseconds: float | None = None) -> Option:
    """What there is to know of a finished stage for a choice."""
    bits = (manifest.get("storage") or {}).get("total_bits")
    return Option(name, {**manifest["metrics"], "total_bits": bits, TIMED: milliseconds}, measures(manifest))


def worth(metric: str, one: Option) -> float:
    """More is better, whatever the metric; an option that has no such number comes last."""
    value = one.metrics.get(metric)
    if value is None:
        return -math.inf
    return float(value) if choosable(one.measures)[metric] else -float(value)


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
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What led to it, as JSON for the artefact."""
    said: str = ""
    """The same in a line for people."""


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


@dataclass(frozen=True)
class Time:
    """These stages, which are done, have to be timed first, side by side."""

    stages: tuple[Node, ...]
    at: Latency
    tried: tuple[Tried, ...] = ()
    """Trials that are done, in order."""


@dataclass(frozen=True)
class Stored:
    """A look at what the store has, by key."""

    artefact: Callable[[str], Manifest | None]
    """The manifest of a stage that is done."""
    speeds: Callable[[str], Speeds] = lambda key: ()


Decision = Take | Try | Time | Refuse
Decide = Callable[["Node", Sequence["Node"], Mapping[str, Manifest], Stored], Decision]
"""Of a choice's node, its parents, manifests by name (the parents' are there) and a look at the store."""

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
    outline: Callable[[S], str] | None = None
    """For plans: what is tried, where that is known before anything is."""


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
