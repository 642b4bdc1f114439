"""A run's events as rows of series, by the names that trackers show them under. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dualprune.pipeline.store.events import Event
from dualprune.pipeline.trackers.base import Histogram, Row

SPEED = ("samples_per_second", "step_seconds", "waited", "memory_bytes", "seconds")
EPOCH = ("epoch", "loss", "lr", "rho", "left", "churn", *SPEED)
"""What is shown of an epoch under the name that events give it, beside metrics on validation."""
NAMES = {"residual": "primal", "change": "dual"}
"""What is shown of it under another name: that of its parts by tensor."""
TENSOR = ("primal", "dual", "left", "churn")
"""What is shown of each tensor at an update; and its sparsity, and a histogram of its weights."""
WITHIN = {"loss": "step_loss", **{name: name for name in ("lr", *SPEED)}}
"""What is shown of a place within an epoch. Its loss is of the last seconds, on one rank."""
WEIGHTS = "weights"
"""The name of histograms."""


def of_epoch(event: Mapping[str, Any]) -> Row:
    """What was told of an epoch, or of an update at its end."""
    shown = {name: event.get(name) for name in EPOCH} | {name: event.get(of) for of, name in NAMES.items()}
    shown |= {name: value for name, value in event.items() if name.startswith("val_")}
    tensors = event.get("tensors") or {}
    if tensors:
        shown["sparsity"] = _sparsity(tensors.values())
    for name, one in tensors.items():
        shown |= {f"{what}/{name}": one.get(what) for what in TENSOR}
        shown[f"sparsity/{name}"] = _sparsity([one])
    histograms = {
        f"{WEIGHTS}/{name}": Histogram(one["low"], one["high"], one["counts"])
        for name, one in (event.get("histograms") or {}).items()
    }
    return Row(event["steps"], _numbers(shown), histograms, event.get("phase"))


def of_place(event: Mapping[str, Any]) -> Row | None:
    """What was told within an epoch; None at its end, of which more is told in a moment."""
    if event.get("done", 0.0) >= 1.0:
        return None
    return Row(event["steps"], _numbers({name: event.get(of) for of, name in WITHIN.items()}), phase=event.get("phase"))


def merged(epochs: Iterable[Event], places: Iterable[Event]) -> list[Row]:
    """Both in order, each step once."""
    found = {row.steps: row for event in places if (row := of_place(event)) is not None}
    found |= {row.steps: row for row in map(of_epoch, epochs)}
    return [found[steps] for steps in sorted(found)]


def _numbers(shown: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in shown.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _sparsity(tensors: Iterable[Mapping[str, Any]]) -> float | None:
    left = size = 0
    for one in tensors:
        left, size = left + one.get("left", 0), size + one.get("size", 0)
    return 1 - left / size if size else None
