"""What there is to tell of each tensor at an update of ADMM: residuals, what is left, how the mask moves, how weights
spread. Looked at where an epoch's row is made, not at each update within a phase."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

BINS = 32
"""Of histograms."""


@dataclass(frozen=True)
class Histogram:
    """How a tensor's entries spread: counts in BINS bins of the same width from `low` to `high`."""

    low: float
    high: float
    counts: list[int]


@dataclass(frozen=True)
class Solved:
    """One tensor at an update."""

    primal: float
    """|W - Z| / |W|."""
    dual: float
    """|Z - Z before| / |W|."""
    left: int
    """Non-zeros of Z."""
    size: int
    """Entries."""
    churn: float
    """Share of the entries that are zero in one of Z and Z before, and not in the other."""


class Seen:
    """What was seen of each tensor at one update: its `look` is a stages.solver.admm.Watch."""

    def __init__(self) -> None:
        self.tensors: dict[str, Solved] = {}
        self.histograms: dict[str, Histogram] = {}
        """Of W."""

    def look(self, name: str, w: Tensor, z: Tensor, before: Tensor) -> None:
        """Look at W, Z, and Z before."""
        norm = float(w.double().norm()) or 1.0
        primal, dual = (float(x.double().norm()) / norm for x in (w - z, z - before))
        left = z != 0
        flipped = int((left != (before != 0)).sum())
        self.tensors[name] = Solved(primal, dual, int(left.sum()), w.numel(), flipped / w.numel())
        self.histograms[name] = _histogram(w)

    def row(self) -> dict[str, Any]:
        """What an epoch's row says of each tensor, and of all."""
        found, size = self.tensors.values(), sum(one.size for one in self.tensors.values())
        return {
            "left": sum(one.left for one in found),
            "churn": sum(one.churn * one.size for one in found) / size,
            "tensors": {name: asdict(one) for name, one in self.tensors.items()},
            "histograms": {name: asdict(one) for name, one in self.histograms.items()},
        }


def _histogram(w: Tensor) -> Histogram:
    """Of entries that aren't finite nothing is counted."""
    flat = w.detach().flatten()
    low, high = _range(flat)
    if not math.isfinite(low + high):  # which is looked at first: leaving entries out takes longer than counting them
        flat = flat[flat.isfinite()]
        low, high = _range(flat)
    return Histogram(low, high, [int(count) for count in torch.histc(flat, BINS, low, high).tolist()])


def _range(flat: Tensor) -> tuple[float, float]:
    low, high = flat.aminmax() if flat.numel() else (0.0, 0.0)
    return float(low), float(high)
