"""What the tests of objectives share."""

from __future__ import annotations

from typing import Any

import torch

from dualprune.stages.kinds.table import parse
from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.training import StageSpec

STAGE = {
    "kind": "train",
    "model": {"name": "digits_cnn"},
    "data": {"source": "digits"},
    "train": {"epochs": 1, "lr": 1e-3},
}


def stage(name: str, args: dict[str, Any] | None = None, **settings: Any) -> StageSpec:
    """A stage for an objective with arguments; settings that are None are left out."""
    given = {**STAGE, "objective": {"name": name, "args": args or {}}, **settings}
    return parse({setting: value for setting, value in given.items() if value is not None})


def made(name: str, **args: Any) -> Objective:
    """An objective with arguments."""
    return objective(stage(name, args))


def values(objective: Objective, outputs: Any, batch: Batch) -> dict[str, float]:
    """Every metric, as evaluation makes it of three ranks' sums: of samples 0, 3, ..., of 1, 4, ..., of 2, 5, ..."""
    found = {}
    parts = [(outputs[n::3], {name: field[n::3] for name, field in batch.items()}) for n in range(3)]
    good = sum(int(objective.good(batch)) for _, batch in parts)
    for name, metric in objective.metrics.items():
        sums = torch.stack([metric.sums(*part).double() for part in parts]).sum(0)
        found[name] = metric.value(sums if sums.ndim else float(sums), good)
    return found
