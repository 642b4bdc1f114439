"""One optimizer step: a pass over its micro-batches, or several, of which each is at other weights.

Every pass is over the same batch, with the same random changes to it and the same dropout. Its statistics (batch
normalisation's) and its loss are those of the weights themselves, whatever else the network is run with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.data.fields import mask_of
from dualprune.stages.kinds import proximal
from dualprune.stages.kinds.base import Phase
from dualprune.stages.objectives.base import Batch, StandIn
from dualprune.stages.settings.training import Admm
from dualprune.stages.training.run import Run


def stepped(run: Run[Any], phase: Phase, batches: Iterable[Batch], lr: float, draw: Callable[[], None]) -> bool:
    """Take an optimizer step on these micro-batches; False, with nothing moved, where a gradient is not finite.

    `draw` has torch's generators draw what they draw in this step, from its beginning.
    """
    engine, sam = run.engine, phase.sam
    if sam is None and not phase.sg:
        draw()
        return _pass(run, batches, partial(engine.step, lr), counts=True)
    again = list(batches)
    if phase.sg:
        draw()
        with unchanged(engine.module):
            _projected(run, phase)
            if not _pass(run, again, engine.keep, counts=False):
                return False
    draw()
    if sam is None:
        return _pass(run, again, partial(engine.step, lr), counts=True)
    if not _pass(run, again, partial(engine.ascend, sam), counts=True):
        return False
    draw()
    with unchanged(engine.module):
        return _pass(run, again, partial(engine.step, lr), counts=False)


def _pass(run: Run[Any], batches: Iterable[Batch], close: Callable[[], bool], counts: bool) -> bool:
    """Run the network forward and back on each micro-batch, which `close` ends; whether its loss `counts`."""
    engine, progress = run.engine, run.progress
    for batch in batches:
        if run.kind.rereads and counts:
            run.batches.append(batch)
        with engine.inputs.looking(counts and not isinstance(batch, StandIn), mask_of(batch)):
            loss = batch_loss(run, batch)
        value = loss.detach()
        # The gradient of a loss that is not finite is none either, on every rank: all stop before the step.
        loss = loss * torch.where(value.isfinite(), 1.0, torch.nan)
        # DeepSpeed averages over ranks and micro-batches; what is wanted is the mean over the batch.
        engine.backward(loss * (run.world * engine.accumulate / run.spec.batch))
        if counts:
            progress.loss = progress.loss + value.double()
        if not close():
            return False
    return True


def batch_loss(run: Run[Any], batch: Batch) -> Tensor:
    """A micro-batch's loss, summed over its samples; with a teacher, (1 - a) of it and a of how far apart they are."""
    if isinstance(batch, StandIn):
        return 0 * _loss(run, dict(batch))
    return _loss(run, batch)


def _loss(run: Run[Any], batch: Batch) -> Tensor:
    batch = run.objective.augment(batch)
    if run.teacher is None:
        return run.objective.loss(run.objective.call(run.engine.forward, batch), batch)
    with run.teacher.looking():
        outputs = run.objective.call(run.engine.forward, batch)
    loss, share = run.objective.loss(outputs, batch), run.spec.distill.weight
    whole: Tensor = (1 - share) * loss + share * run.teacher.apart(outputs, batch)
    return whole


def _projected(run: Run[Any], phase: Phase) -> None:
    """Put weights where they would be projected to now, until the pass is over."""
    from dualprune.stages.solver import admm

    assert isinstance(phase.rate, Admm)
    run.engine.leave()
    admm.put(run.engine, proximal.aims(run, phase.rate))


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """Leave a network's buffers as they are, whatever it is run on."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    yield
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
