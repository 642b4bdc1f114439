"""What shows people how a run goes, elsewhere than on its terminal: a tracker, and what it is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dualprune.stages.objectives.measures import CLASSIFY, Measures


class Link(NamedTuple):
    """A stage, as another one names it."""

    name: str
    key: str


@dataclass(frozen=True)
class Stage:
    """A stage that is mirrored."""

    name: str
    key: str
    kind: str
    parents: tuple[Link, ...] = ()
    """Whose results it is made from."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What it was asked for; nothing secret is in it."""
    measures: Measures = CLASSIFY


class Histogram(NamedTuple):
    """How a tensor's entries spread: counts in bins of the same width from `low` to `high`."""

    low: float
    high: float
    counts: Sequence[int]

    def edges(self) -> list[float]:
        """Of the bins, one more than there are; where all entries are the same, they are in the middle."""
        low, high = (self.low, self.high) if self.low < self.high else (self.low - 0.5, self.high + 0.5)
        bins = len(self.counts)
        return [low + (high - low) * number / bins for number in range(bins + 1)]


@dataclass(frozen=True)
class Row:
    """What is known at an optimizer step. Series of tensors are named NAME/TENSOR."""

    steps: int
    numbers: Mapping[str, float]
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    phase: str | None = None


@dataclass(frozen=True)
class End:
    """How a stage came to its end."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] | None = None
    """Its artefact's, if it is done."""
    failed: str | None = None
    """Why it failed."""


@dataclass(frozen=True)
class Summary:
    """How a run came to its end."""

    config: Mapping[str, Any]
    stages: Sequence[Mapping[str, Any]]
    """A row for each stage, all with the same columns."""
    how: str
    """`done`, `failed`, `interrupted` or `broken`."""
    report: Path | None = None
    """A page about it."""


class Tracker(Protocol):
    """What a tracker does. All is called on one thread of its own, and may last, or raise."""

    def begin(self, stage: Stage, before: Sequence[Row]) -> None:
        """A stage begins, or goes on after the rows `before`, all that were told of it: also those of other drivers.

        Called again when it is tried again.
        """
        ...

    def row(self, stage: Stage, row: Row) -> None:
        """What was told of a stage that has begun. Steps increase, but for what is told once more after a retry."""
        ...

    def end(self, stage: Stage, end: End) -> None:
        """A stage is done, or has failed for good; it may never have begun."""
        ...

    def summarize(self, summary: Summary) -> None:
        """The run has ended."""
        ...

    def close(self, patience: float) -> None:
        """Let go of everything, within about `patience` seconds."""
        ...

    def left(self) -> list[str]:
        """Lines for a person about what was left undone. Called at the very end, on another thread, while the
        tracker's may still be at work."""
        ...
