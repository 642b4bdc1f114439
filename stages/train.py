"""The training loop: the file to read first.

A stage is a list of stretches of epochs. Between them stands what makes it a prune: after each
stretch of ADMM training, Z and U are updated; after the last, weights are projected once and masked,
and the rest is retraining. A plain training stage is one stretch with nothing after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.nn import functional as F

from stages import admm
from stages.checkpoint import Checkpoints, Progress
from stages.constraints import Constraint
from stages.data.batches import Batches
from stages.data.order import epoch_order, global_batch, micro_batches, share, steps_per_epoch
from stages.engine import Engine
from stages.evaluate import evaluate
from stages.spec import Spec, TrainSpec

Log = Callable[[dict[str, Any]], None]


class NonFinite(ArithmeticError):
    """A loss that is not a number: training can't go on from here."""


@dataclass(frozen=True)
class Stretch:
    """Epochs of training under one penalty, and what is done after them."""

    phase: Literal["train", "admm", "retrain"]
    epochs: int
    lr: float
    schedule: str
    rho: float = 0.0
    growth: float = 1.0
    then: Literal["nothing", "update", "update and project"] = "nothing"


def stretches(spec: Spec) -> list[Stretch]:
    """A stage's epochs in order."""
    if isinstance(spec, TrainSpec):
        plan = [Stretch("train", spec.train.epochs, spec.train.lr, spec.train.schedule)]
    else:
        settings = spec.admm
        plan = [
            Stretch(
                "admm",
                settings.epochs,
                settings.lr,
                settings.schedule,
                rho=settings.rho * settings.rho_growth**number,
                growth=settings.rho_growth,
                then="update" if number < settings.updates - 1 else "update and project",
            )
            for number in range(settings.updates)
        ]
        plan.append(Stretch("retrain", spec.retrain.epochs, spec.retrain.lr, spec.retrain.schedule))
    return [stretch for stretch in plan if stretch.epochs]


def learning_rate(stretch: Stretch, done: float) -> float:
    """The rate after the share `done` of a stretch, in [0, 1)."""
    if stretch.schedule == "constant":
        return stretch.lr
    return stretch.lr * 0.5 * (1 + math.cos(math.pi * done))


def train(
    engine: Engine,
    spec: Spec,
    sets: Mapping[str, Constraint],
    data: Batches,
    validation: Batches,
    progress: Progress,
    checkpoints: Checkpoints,
    checkpoint_steps: int | None,
    log: Log,
) -> None:
    """Train from where `progress` stands to the end, on all ranks together."""
    plan = stretches(spec)
    per_epoch = steps_per_epoch(len(data), spec.batch)
    epochs = sum(stretch.epochs for stretch in plan)
    rank, world = dist.get_rank(), dist.get_world_size()
    before, began, resumed = progress.seconds, time.monotonic(), progress.steps
    while progress.stretch < len(plan):
        stretch = plan[progress.stretch]
        engine.optimizer.rho = stretch.rho
        epoch = sum(s.epochs for s in plan[: progress.stretch]) + progress.epoch
        for _ in _epoch(engine, spec, stretch, data, epoch, progress):
            if checkpoint_steps and progress.steps % checkpoint_steps == 0 and progress.step < per_epoch:
                engine.average_buffers()
                progress.loss = _gathered(progress.loss, rank, engine)
                progress.seconds = before + time.monotonic() - began
                checkpoints.save(engine, progress)
        engine.average_buffers()
        loss = _gathered(progress.loss, 0, engine) / (per_epoch * spec.batch)
        row = {
            "epoch": epoch + 1,
            "phase": stretch.phase,
            "steps": progress.steps,
            "loss": loss,
            "lr": stretch.lr,
        }
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        if progress.epoch == stretch.epochs:
            row |= _after(engine, stretch, sets, progress)
            progress.stretch, progress.epoch = progress.stretch + 1, 0
            if progress.stretch < len(plan) and plan[progress.stretch].phase != stretch.phase:
                engine.optimizer.reset_inner()
        engine.module.eval()
        row["val_accuracy"] = evaluate(engine.forward, validation, rank, world).accuracy
        progress.metrics.append(row)
        progress.seconds = before + time.monotonic() - began
        spent = (time.monotonic() - began) / (progress.steps - resumed)
        left = spent * (epochs * per_epoch - progress.steps)
        log({"event": "epoch", **row, "epochs": epochs, "seconds": progress.seconds, "seconds_left": left})
        if progress.stretch < len(plan):
            checkpoints.save(engine, progress)
    checkpoints.wait()


def _epoch(
    engine: Engine, spec: Spec, stretch: Stretch, data: Batches, epoch: int, progress: Progress
) -> Iterator[None]:
    """Train on what is left of an epoch; yields after each optimizer step."""
    rank, world = dist.get_rank(), dist.get_world_size()
    per_epoch = steps_per_epoch(len(data), spec.batch)
    order = epoch_order(len(data), spec.seed, epoch)
    engine.module.train()
    for step in range(progress.step, per_epoch):
        lr = learning_rate(stretch, (progress.epoch * per_epoch + step) / (stretch.epochs * per_epoch))
        own = share(global_batch(order, spec.batch, step), rank, world)
        # Randomness inside the network (dropout) depends on where we are, not on how we got here.
        torch.manual_seed((spec.seed * 1_000_003 + epoch) * 1_000_003 + step * world + rank)
        for part in micro_batches(own, engine.accumulate):
            pictures, labels = data.train(part, epoch)
            loss = F.cross_entropy(engine.forward(pictures), labels, reduction="sum")
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFinite(f"the loss is {value} at step {progress.steps + 1} (epoch {epoch + 1}, rank {rank})")
            # DeepSpeed averages over ranks and micro-batches; what is wanted is the mean over the batch.
            engine.backward(loss * (world * engine.accumulate / spec.batch))
            progress.loss += value
            engine.step(lr)
        progress.step, progress.steps = step + 1, progress.steps + 1
        yield


def _after(engine: Engine, stretch: Stretch, sets: Mapping[str, Constraint], progress: Progress) -> dict[str, Any]:
    """What stands at the end of a stretch; returns what it adds to the epoch's metrics."""
    if stretch.then == "nothing":
        return {}
    residual = admm.update(engine, sets, stretch.growth)
    row: dict[str, Any] = {"rho": stretch.rho, "residual": residual.total}
    if stretch.then == "update and project":
        final = admm.project(engine, sets)
        engine.optimizer.holding = True
        progress.residual = {"total": final.total, "tensors": final.tensors}
        row["residual"] = final.total
    return row


def _gathered(value: float, rank: int, engine: Engine) -> float:
    """A sum over ranks: on rank 0 all of it, on others nothing, so that it can be gathered again."""
    if engine.world == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64, device=engine.engine.device)
    dist.all_reduce(total)
    return float(total[0]) if rank == 0 else 0.0
