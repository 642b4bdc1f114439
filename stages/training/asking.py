"""Whether a stage is to stop, which one rank may know of and all have to: they ask each other, about twice a second."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from dualprune.stages.training.run import Run

EVERY = 0.5
"""Seconds from one asking to the next, about."""
MOST = 64
"""Steps from one asking to the next: they may become slower meanwhile."""


class Asking:
    """When ranks ask each other: after the same steps on all of them, for they reckon with the same time of a step."""

    def __init__(self, run: Run[Any]) -> None:
        self.run = run
        self.due = self._steps = run.progress.steps
        """After which optimizer step of the stage the next asking is."""
        self._began = time.monotonic()

    def after_step(self) -> bool:
        """Whether to stop, after an optimizer step; False where nobody was asked. On all ranks together."""
        return (self.run.world == 1 or self.run.progress.steps >= self.due) and self.now()

    def now(self) -> bool:
        """Whether any rank is to stop: the same answer on all of them. On all together."""
        run = self.run
        if run.world == 1:
            return run.stopping()
        now, steps = time.monotonic(), run.progress.steps
        own = [float(run.stopping()), (now - self._began) / max(1, steps - self._steps)]
        told = torch.tensor(own, device=run.engine.engine.device)
        dist.all_reduce(told)
        stop, seconds = told.tolist()
        self.due = steps + min(MOST, max(1, int(EVERY * run.world / seconds)))
        self._began, self._steps = now, steps
        return bool(stop)
