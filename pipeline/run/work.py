"""What a stage at work has told of itself: facts, as they lie in the store, and the line that they make. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dualprune.pipeline.measured import validated
from dualprune.pipeline.store.progress import Left

KEPT = 60
"""Residuals that are kept: more than a terminal has room for."""
WAITS = "waits for its workers"
FACTS = ("phase", "epoch", "epochs", "loss", "seconds_left", "samples_per_second", "waited", "memory_bytes", "world")
"""What is taken from an event as it is, where it has it."""


@dataclass(frozen=True)
class Work:
    """One stage at work. Times are seconds since 1970."""

    said: str = WAITS
    """What it does, where there is no epoch to tell of."""
    trains: bool = False
    """Whether its workers have begun."""
    asked: float | None = None
    """When workers were asked for."""
    began: float | None = None
    """When they began, or went on."""
    heard: float | None = None
    """When it told something last."""
    phase: str = ""
    epoch: int | None = None
    """The one at work, or the last one that ended; from 1."""
    epochs: int | None = None
    done: float = 0.0
    """The share of that epoch."""
    ended: int = 0
    """How many epochs are over, and validated."""
    loss: float | None = None
    value: float | None = None
    """Of what it is measured by, on validation, after the last epoch."""
    best: str = ""
    """What that is."""
    unit: str = ""
    residuals: tuple[float, ...] = ()
    """At ADMM's last updates."""
    seconds_left: float | None = None
    samples_per_second: float | None = None
    waited: float | None = None
    """The share of time in which it waited for data."""
    memory_bytes: float | None = None
    world: int | None = None
    """Its workers."""

    @property
    def share(self) -> float | None:
        """How much of all epochs is done; None if that is not known."""
        if self.epoch is None or not self.epochs:
            return None
        return min(1.0, max(0.0, (self.epoch - 1 + self.done) / self.epochs))

    @property
    def within(self) -> bool:
        """Whether an epoch is at work that has told how far it is."""
        return self.epoch is not None and self.ended < self.epoch

    def after(self, row: Mapping[str, Any], now: float) -> Work:
        """The same once it has told this: an event `training`, `resumed`, `steps` or `epoch`."""
        facts = {name: row[name] for name in FACTS if row.get(name) is not None}
        if "best" in row:
            facts |= {"best": row["best"], "unit": row["unit"], "value": row.get(f"val_{row['best']}")}
        told = [one["residual"] for one in (*row.get("rows", ()), row) if one.get("residual") is not None]
        before = () if "rows" in row else self.residuals
        if row.get("epoch") is not None:
            facts |= {"done": row.get("done", 1.0), "ended": row["epoch"] - ("done" in row)}
        return replace(self, trains=True, heard=now, residuals=(*before, *told)[-KEPT:], **facts)

    def begins(self, said: str, row: Mapping[str, Any], now: float) -> Work:
        """The same once its workers have begun, or go on with what was done before."""
        rows = row.get("rows") or ()
        last = {name: value for name, value in (rows[-1] if rows else {}).items() if name != "residual"}
        found = replace(self, said=said, began=now, epoch=None, done=0.0, seconds_left=None)
        return found.after({**last, **row}, now)

    def again(self, now: float) -> Work:
        """The same after its workers were lost, say: it waits for others."""
        return replace(Work(asked=now), residuals=self.residuals, value=self.value, best=self.best, unit=self.unit)

    @property
    def line(self) -> str:
        """All that is worth a line of text."""
        if self.epoch is None or self.loss is None:
            return self.said
        percent = f" {100 * self.done:.0f} %" if self.within else ""
        measured = {f"val_{self.best}": self.value}
        parts = [f"{self.phase} epoch {self.epoch}/{self.epochs}{percent}", f"loss {self.loss:.4f}"]
        parts += [validated(measured, self.best, self.unit)] if self.best else []
        parts += [f"residual {self.residuals[-1]:.3f}"] if self.residuals else []
        parts += [f"{clock(self.seconds_left)} left"] if self.seconds_left is not None else []
        return "  ".join(parts)


def told(left: Left) -> dict[str, Work]:
    """What a run has left of each stage at work, by name; of one by another version at least the line."""
    found = {}
    for name in left.lines:
        work = _read(left.works.get(name))
        found[name] = work or Work(left.line(name) or "", trains=name in left.since)
    return found


def kept(works: Mapping[str, Work]) -> dict[str, Any]:
    """The same as JSON."""
    return {name: asdict(work) for name, work in works.items()}


def _read(found: Any) -> Work | None:
    try:
        return _adapter().validate_python(found)
    except ValidationError:
        return None


@cache
def _adapter() -> TypeAdapter[Work]:
    return TypeAdapter(Work)


def clock(seconds: float) -> str:
    """Seconds as `1:02:03`."""
    if not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
