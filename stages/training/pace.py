"""How fast a stage trains and how long it will: what is told of it within its epochs and after them. On each rank."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from dualprune.stages.kinds.base import Phase, learning_rate
from dualprune.stages.objectives.base import Batch
from dualprune.stages.training.run import Run

EVERY = 2.0
"""Seconds between two tellings within an epoch, at least."""


@dataclass
class _Span:
    """Steps from a moment on."""

    began: float
    steps: int
    loss: float
    waited: float = 0.0
    """Seconds."""


class Pace:
    """What a rank needs to know of the time, while a stage is trained on it."""

    def __init__(self, run: Run[Any]) -> None:
        self.run, self.before, self.first = run, run.progress.seconds, run.progress.steps
        self.began = time.monotonic()
        self._warm: _Span | None = None
        """From the first step's end on: that one may have compiled the network."""
        self._epoch = self._told = self._span()

    def enter(self) -> None:
        """An epoch, or what is left of one, begins."""
        self._epoch, self._told = self._span(), self._span()

    def batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, while the time that is waited for them is added up."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            waited = time.monotonic() - began
            self._epoch.waited += waited
            self._told.waited += waited
            if batch is None:
                return
            yield batch

    @property
    def seconds(self) -> float:
        """Since the stage began, without what was lost."""
        return self.before + time.monotonic() - self.began

    def left(self) -> float:
        """Seconds to the stage's end, at the pace of this attempt."""
        run, progress = self.run, self.run.progress
        began, first = self.began, self.first
        if self._warm is not None and progress.steps > self._warm.steps:
            began, first = self._warm.began, self._warm.steps
        spent = (time.monotonic() - began) / max(1, progress.steps - first)
        epochs = sum(phase.epochs for phase in run.phases[progress.phase :]) - progress.epoch
        return spent * (run.per_epoch * epochs - progress.step)

    def speed(self) -> dict[str, float]:
        """Of the epoch's steps in this attempt: samples a second, seconds a step, the share of them that was waited
        for data, and bytes of memory."""
        return self._speed(self._epoch)

    def tell(self, phase: Phase) -> None:
        """Tell where within an epoch the stage is, unless that was told a moment ago. Only rank 0 is heard."""
        if self._warm is None:
            self._warm = self._span()
        if time.monotonic() - self._told.began < EVERY:
            return
        run, progress, told = self.run, self.run.progress, self._told
        samples = (progress.steps - told.steps) * run.spec.batch / run.world
        done = progress.step / run.per_epoch
        self._told = self._span()
        run.log(
            {
                "event": "steps",
                "phase": phase.name,
                "epoch": sum(one.epochs for one in run.phases[: progress.phase]) + progress.epoch + 1,
                "epochs": sum(one.epochs for one in run.phases),
                "done": done,
                "steps": progress.steps,
                "loss": (self._told.loss - told.loss) / samples,
                "lr": learning_rate(phase, progress.epoch + done),
                "seconds": self.seconds,
                "seconds_left": self.left(),
                **self._speed(told),
            }
        )

    def _span(self) -> _Span:
        progress = self.run.progress
        return _Span(time.monotonic(), progress.steps, float(progress.loss) if self.run.rank == 0 else 0.0)

    def _speed(self, span: _Span) -> dict[str, float]:
        steps, passed = max(1, self.run.progress.steps - span.steps), time.monotonic() - span.began
        return {
            "samples_per_second": steps * self.run.spec.batch / passed,
            "step_seconds": passed / steps,
            "waited": span.waited / passed,
            "memory_bytes": float(_memory(self.run.engine.engine.device)),
        }


def _memory(device: torch.device) -> int:
    """The most that this process has had at once: of its GPU's memory, or where it has none, of the machine's; then no
    less than what had the process that started it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
