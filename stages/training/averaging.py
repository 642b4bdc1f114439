"""Averaged weights: what a phase that has `ema` is measured on after each epoch, and ends with.

The weights' averages are optimizer state (stages.engine.averages). Those of buffers, which have statistics of the
weights as they were, follow at the same pace on each rank, so that they are statistics of about the same weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from dualprune.stages.engine.averages import AVERAGE
from dualprune.stages.engine.engine import Engine
from dualprune.stages.kinds.base import Phase
from dualprune.stages.training.run import Run


def enter(run: Run[Any], phase: Phase) -> None:
    """Before an epoch, or what is left of one: averages follow from here on, if they are to; a phase begins them."""
    engine, averages = run.engine, run.engine.optimizer.averages
    averages.decay = phase.ema
    if phase.ema is not None and run.progress.epoch == run.progress.step == 0:
        averages.begin(engine.optimizer.state)
        _lerp(engine, 0.0)


@torch.no_grad()
def followed(run: Run[Any]) -> None:
    """A step was taken: buffers' averages follow, as those of the weights have done."""
    decay = run.engine.optimizer.averages.decay
    if decay is not None:
        _lerp(run.engine, decay)


@contextmanager
def shown(run: Run[Any], phase: Phase) -> Iterator[None]:
    """The network is the averaged one, in a phase that is not over; then what is trained again."""
    if phase.ema is None or run.progress.epoch == 0:
        yield
        return
    _exchanged(run.engine, back=True)
    yield
    _exchanged(run.engine, back=True)


def taken(run: Run[Any], phase: Phase) -> None:
    """A phase is over: the network is the averaged one from now on."""
    if phase.ema is not None:
        _exchanged(run.engine, back=False)


def _lerp(engine: Engine, decay: float) -> None:
    for name, average in engine.averages.items():
        average.lerp_(engine.buffers[name], 1 - decay)


def _exchanged(engine: Engine, back: bool) -> None:
    """Put averages in the network's place, and what was there in theirs, if that is to come `back`."""
    for name in engine.parameters:
        average, own = engine.get(name, AVERAGE), engine.get(name)
        engine.set(name, average)
        if back:
            engine.set(name, own, AVERAGE)
    for name, average in engine.averages.items():
        own = engine.buffers[name].clone()
        engine.buffers[name].copy_(average)
        if back:
            average.copy_(own)
