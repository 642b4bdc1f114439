"""The optimizer steps of an epoch, and what is said when one of them meets numbers that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch.distributed as dist

from dualprune.stages.data.order import Indices, global_batch, micro_batches, share
from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.seeding import seeded
from dualprune.stages.kinds.base import Phase, learning_rate
from dualprune.stages.networks.weightsfile import some
from dualprune.stages.objectives.base import Batch
from dualprune.stages.training.pace import Pace
from dualprune.stages.training.passes import batch_loss, stepped
from dualprune.stages.training.run import Run


class NonFinite(ArithmeticError):
    """A loss or a gradient that is not a number: training can't go on from here. No parameter was moved by it."""


def steps(run: Run[Any], phase: Phase, epoch: int, pace: Pace) -> Iterator[None]:
    """Train on what is left of an epoch; yields after each optimizer step. Raises NonFinite."""
    engine, spec, progress, data = run.engine, run.spec, run.progress, run.splits["train"]
    order = data.order(epoch)

    def parts(step: int) -> list[Indices]:
        """What this rank's micro-batches of a step hold."""
        return micro_batches(share(global_batch(order, spec.batch, step), run.rank, run.world), engine.accumulate)

    def draw(step: int) -> None:
        """Randomness inside the network (dropout) depends on where we are, not on how we got here."""
        seeded(((spec.seed * 1_000_003 + epoch) * 1_000_003 + step * run.world + run.rank) % 2**64)

    last = run.per_epoch
    batches = pace.batches(data.epoch((part for step in range(progress.step, last) for part in parts(step)), epoch))
    engine.module.train()
    for step in range(progress.step, last):
        lr = learning_rate(phase, progress.epoch + step / last)
        run.batches.clear()
        if not stepped(run, phase, islice(batches, engine.accumulate), lr, partial(draw, step)):
            draw(step)
            raise NonFinite(_explained(run, parts(step), epoch))
        progress.step, progress.steps = step + 1, progress.steps + 1
        yield


def _explained(run: Run[Any], parts: list[Indices], epoch: int) -> str:
    """What is not finite in a step, whose micro-batches are computed once more for that: in the loop, looking at each
    loss would stop the device each time."""
    engine, trouble = run.engine, ""
    where = f"step {run.progress.steps + 1} (epoch {epoch + 1}"
    for number, batch in enumerate(run.splits["train"].epoch(parts, epoch), 1):
        loss = batch_loss(run, batch)
        value = float(loss.detach())
        if not math.isfinite(value) and not trouble:
            trouble = f"the loss is {value} at {where}, rank {run.rank}): {_spoilt(engine, batch)}"
        engine.backward(loss)
        if number < engine.accumulate:
            engine.step(0.0)
    every = [""] * run.world
    dist.all_gather_object(every, trouble)
    first = next(filter(None, every), "")  # the same on all ranks
    if first:
        return first
    names = some(engine.not_finite()) or "of no tensor when it is computed once more"
    return f"the gradient is not finite at {where}): {names}"


def _spoilt(engine: Engine, batch: Batch) -> str:
    """What of all that went into a loss is not finite: inputs, weights and buffers, or only what comes of them."""
    whole = {} if engine.zero == 3 else engine.module.state_dict()
    given = {f"the {name}s": tensor for name, tensor in batch.items()}
    bad = [name for name, tensor in {**given, **whole}.items() if not bool(tensor.isfinite().all())]
    if bad:
        return f"not finite: {some(bad)}"
    return "the inputs are finite" + (", and so is every weight: activations overflow" if whole else "")
