"""A stage's objective tried on one batch before training: what it adds up has to be sums over samples.

A mean looks like a sum until ranks, micro-batches or the last batch of a split are of another size. So each sum is
computed of a few samples, and of the same ones twice in one batch, which has to give it twice. The network is in
evaluation mode, and runs on both; samples that it mixes (by statistics of a batch) it mixes with their like.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualprune.stages.objectives.base import Batch, Objective, StandIn, Summed, sums
from dualprune.stages.settings.base import SpecError
from dualprune.stages.training.run import Run

SAMPLES = 8
"""How many are tried at most."""
ALLOWED = 0.2
"""How far twice the samples may be from twice the sum, as a share of it: a mean is off by half, a root by 0.3."""


def tried(run: Run[Any]) -> None:
    """Raise SpecError for an objective whose sums are none, with the line where the function begins. On all ranks."""
    data = run.splits["val"]
    (batch,) = data.evaluation([np.arange(min(SAMPLES, len(data)))])
    if isinstance(batch, StandIn):
        return
    run.engine.module.eval()
    with torch.no_grad():
        single, double = (_sums(run, one) for one in (batch, _twice(batch)))
    problems = [
        f"its {what} gives {float(one.norm()):.4g} for {_samples(batch)} samples and {float(two.norm()):.4g} for the "
        f"same ones twice, where a sum over samples gives twice as much; a sum is needed, no mean{_where(function)}"
        for (what, function, one), (_, _, two) in zip(single, double, strict=True)
        if _differs(2 * one, two)
    ]
    if problems:
        raise SpecError([(("objective",), text) for text in problems])


def _samples(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _twice(batch: Batch) -> Batch:
    return {name: torch.cat([values, values]) for name, values in batch.items()}


def _sums(run: Run[Any], batch: Batch) -> list[Summed]:
    """All that is added up of a batch, as fp64."""
    objective: Objective = run.objective
    with nullcontext() if run.teacher is None else run.teacher.looking():
        outputs = objective.call(run.engine.forward, batch)
    found = list(sums(objective, outputs, batch))
    if run.teacher is not None and objective.distil is not None:
        found.append(Summed("distillation loss", objective.distil, run.teacher.apart(outputs, batch)))
    wrong = [one for one in found if not isinstance(one.value, Tensor)]
    if wrong:
        raise SpecError([(("objective",), f"its {one.name} is no tensor{_where(one.function)}") for one in wrong])
    return [one._replace(value=one.value.double()) for one in found]


def _differs(wanted: Tensor, found: Tensor) -> bool:
    """Whether a sum is none. Nothing is said of what is no number: training tells that."""
    if wanted.shape != found.shape:
        return True
    if not bool(wanted.isfinite().all() and found.isfinite().all()):
        return False
    return bool((wanted - found).norm() > ALLOWED * wanted.norm())


def _where(function: Any) -> str:
    """Where a function was written; nothing of what has no lines."""
    while isinstance(function, partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return "" if code is None else f", at {code.co_filename}:{code.co_firstlineno}"
