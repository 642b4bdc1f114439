"""What a plan says of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dualprune.pipeline.node import Node
from dualprune.pipeline.plan.counts import Counts


@dataclass(frozen=True)
class Planned:
    """One stage of a plan."""

    node: Node
    state: Literal["cached", "resume", "run"]
    why: str
    manifest: Mapping[str, Any] | None
    """Of its artefact, if it is `cached`."""
    size: Size | None = None
    search: str | None = None
    """Of a trial that is done: the search that it is of."""
    trials: tuple[Node, ...] = ()
    """Of a search: those that it would run now, if its parents are done."""
    gone: bool = False
    """Of `run`: whether it was done before, and its artefact is damaged or away."""
    begun: int = 0
    """Of `resume`: the optimizer steps that its checkpoint has behind it."""
    notes: tuple[str, ...] = ()
    """What a user may not expect of it."""

    @property
    def left(self) -> int:
        """Optimizer steps that are to be done, as far as that can be told."""
        return 0 if self.size is None or self.state == "cached" else max(self.size.steps - self.begun, 0)


@dataclass(frozen=True)
class Size:
    """How much work a stage is, as far as its settings tell."""

    epochs: int
    steps: int
    rate: float | None
    """Weights over weights left, of the constrained tensors of a kind that prunes."""
    counts: Counts | None
    """Of such a kind: weights of these and of the whole network."""
