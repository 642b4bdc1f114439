"""What a run's event log says of each stage: attempts, retries, epochs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dualprune.pipeline.reports.page.facts import Attempt

Event = Mapping[str, Any]


@dataclass
class Told:
    """All that was told of one stage."""

    key: str = ""
    kind: str | None = None
    submitted: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    retries: list[tuple[float | None, str]] = field(default_factory=list)
    failed_at: float | None = None
    failure: str | None = None
    done_at: float | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    chosen: str | None = None
    tried: tuple[str, ...] = ()
    epochs: int | None = None
    rows: list[Event] = field(default_factory=list)
    """One an epoch."""
    last: Event = field(default_factory=dict)
    """The last that was told of its training: an epoch, or steps."""

    def begins(self, event: Event) -> None:
        """It is trained, or goes on."""
        self.ends(event.get("at"), "broke off; nothing says why")
        self.attempts.append(Attempt(event.get("at"), None, "", event.get("world")))
        self.epochs = event.get("epochs") or self.epochs

    def ends(self, at: float | None, how: str) -> None:
        """An attempt is over, if one was going on."""
        if self.attempts and self.attempts[-1].ended is None and not self.attempts[-1].how:
            begun = self.attempts[-1]
            self.attempts[-1] = Attempt(begun.begun, at, how, begun.world)


def told(events: Iterable[Event]) -> dict[str, Told]:
    """By stage, in the order in which they were first told of."""
    found: dict[str, Told] = {}
    for event in events:
        kind, name = event.get("event"), event.get("stage")
        if kind == "begun":
            _cut_short(found, event)
        elif kind == "ended":
            for one in found.values():
                one.ends(event.get("at"), "stopped with its run")
        elif name is not None:
            one = found.setdefault(str(name), Told())
            one.key = event.get("key") or one.key
            _take(one, str(kind), event)
    return found


def _cut_short(found: Mapping[str, Told], event: Event) -> None:
    """Another driver begins: what the one before it had at work has ended, if nobody said so, with its last word."""
    for one in found.values():
        one.ends(one.last.get("at"), "its run was killed")


def _take(one: Told, kind: str, event: Event) -> None:
    at = event.get("at")
    if kind == "submitted":
        one.submitted, one.kind = at, event.get("kind") or one.kind
        one.failure = one.failed_at = None
    elif kind in ("training", "resumed"):
        one.begins(event)
        one.rows, one.last = list(event.get("rows") or ()), event
    elif kind in ("steps", "epoch"):
        if kind == "epoch":
            one.rows.append(event)
        one.epochs, one.last = event.get("epochs") or one.epochs, event
    elif kind == "stopped":
        one.ends(at, "stopped, and saved where it was")
    elif kind == "retry":
        one.ends(at, str(event.get("reason", "")))
        one.retries.append((at, str(event.get("reason", ""))))
    elif kind == "failed":
        one.ends(at, "failed")
        one.failed_at, one.failure = at, str(event.get("reason", ""))
    elif kind == "done":
        one.ends(at, "done")
        one.done_at, one.metrics = at, event.get("metrics") or {}
        one.failure = one.failed_at = None
    elif kind == "chosen":
        one.chosen, one.tried = event.get("chosen"), tuple(event.get("tried") or ())


def begun(events: Sequence[Event]) -> Event | None:
    """How the last driver began."""
    return next((event for event in reversed(events) if event.get("event") == "begun"), None)


def ended(events: Sequence[Event]) -> Event | None:
    """How the last driver ended; None where it is still at work, or was killed."""
    for event in reversed(events):
        if event.get("event") == "ended":
            return event
        if event.get("event") == "begun":
            return None
    return None
