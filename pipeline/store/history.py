"""What a run's events come to, stage by stage: its attempts, its series without holes or doubles, its end. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from dualprune.pipeline.store.events import Event

Row = dict[str, Any]
"""What is told of an epoch, or of a place within one; `steps` are the optimizer steps that are behind it."""


@dataclass
class Attempt:
    """One time that a stage was trained, from its beginning or a checkpoint on."""

    began: float
    """Seconds since 1970."""
    first: int
    """Optimizer steps that were behind it then."""
    world: int | None = None
    """Ranks."""
    last: float = 0.0
    """When it was heard of last."""
    ended: Literal["done", "stopped", "lost", "failed"] | None = None
    """None while it goes on, and if its driver was killed."""
    why: str | None = None
    """It was lost, or failed."""


@dataclass
class History:
    """Of one stage."""

    name: str
    key: str
    kind: str | None = None
    submitted: float | None = None
    """When it was given to the lanes last."""
    attempts: list[Attempt] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    """Of epochs, in order, each once."""
    places: list[Row] = field(default_factory=list)
    """Within epochs, likewise."""
    retries: list[tuple[float, str]] = field(default_factory=list)
    """When it was tried again, and why."""
    failures: list[tuple[float, str]] = field(default_factory=list)
    """When it failed for good, and why; another driver may have begun it again."""
    failed: str | None = None
    """Why it failed for good, if that is the last that was heard of it."""
    done: float | None = None
    """When it was done."""
    chosen: str | None = None
    """Of a choice: whose result it took."""
    metrics: dict[str, Any] | None = None
    """Of its artefact, when it was done."""

    @property
    def attempt(self) -> Attempt | None:
        """The last one."""
        return self.attempts[-1] if self.attempts else None

    def hear(self, event: Event) -> None:
        """Take in what happened next."""
        what, at = event["event"], event["at"]
        if self.attempt is not None and self.attempt.ended is None:
            self.attempt.last = at
        if what in _HEARD:
            _HEARD[what](self, event)

    def _submitted(self, event: Event) -> None:
        self.submitted, self.failed, self.kind = event["at"], None, event.get("kind", self.kind)

    def _begun(self, event: Event) -> None:
        """What was told of steps after those that an attempt goes on from comes again."""
        at, steps = event["at"], event["steps"]
        self.attempts.append(Attempt(at, steps, event.get("world"), at))
        self.failed = None
        self.rows = list(event.get("rows") or [row for row in self.rows if row["steps"] <= steps])
        self.places = [row for row in self.places if row["steps"] <= steps]

    def _epoch(self, event: Event) -> None:
        self.rows = [*(row for row in self.rows if row["steps"] < event["steps"]), event]

    def _place(self, event: Event) -> None:
        self.places.append(event)

    def _ended(self, event: Event) -> None:
        what, attempt = event["event"], self.attempt
        if attempt is not None and attempt.ended is None:
            attempt.ended, attempt.why = "lost" if what == "retry" else what, event.get("reason")
        if what == "retry":
            self.retries.append((event["at"], event["reason"]))
        elif what == "failed":
            self.failed = event["reason"]
            self.failures.append((event["at"], event["reason"]))
        elif what == "done":
            self.done, self.failed, self.chosen = event["at"], None, event.get("chosen")
            self.metrics = event.get("metrics")


_HEARD = {
    "submitted": History._submitted,
    "training": History._begun,
    "resumed": History._begun,
    "epoch": History._epoch,
    "steps": History._place,
    **dict.fromkeys(("stopped", "retry", "failed", "done"), History._ended),
}


def histories(events: Iterable[Event]) -> dict[str, History]:
    """By key. Events of no stage are passed over."""
    found: dict[str, History] = {}
    for event in events:
        key = event.get("key")
        if key is not None:
            found.setdefault(key, History(event["stage"], key)).hear(event)
    return found
