"""The training loop: the file to read first.

A stage is a list of stretches of epochs (`stages/schedule.py`). Between them stands what makes it a prune: after each
stretch of ADMM training, Z and U are updated; after the last, weights are projected once and masked, and the rest is
retraining. Quantising puts weights onto shared values in place of the projection. A plain training stage is one
stretch with nothing after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from dualprune.stages.artefacts.checkpoint import Checkpoints, Progress
from dualprune.stages.data.mix import mixed
from dualprune.stages.data.order import Indices, global_batch, micro_batches, share, steps_per_epoch
from dualprune.stages.data.read.memory import Batches
from dualprune.stages.data.read.stream import IGNORED, Stream
from dualprune.stages.engine.engine import Engine
from dualprune.stages.kinds.schedule import Stretch, learning_rate, stretches
from dualprune.stages.settings.spec import Distill, QuantizeSpec, Spec, TrainSpec
from dualprune.stages.solver import admm
from dualprune.stages.solver import snapping as quantize
from dualprune.stages.solver.targets import Targets
from dualprune.stages.training.evaluate import evaluate

Log = Callable[[dict[str, Any]], None]
Teacher = Callable[[Tensor], Tensor]
"""From pictures to the logits that are learnt from, without a graph."""
Stopping = Callable[[], bool]
"""Whether this rank was told to save and leave. One rank that was is enough."""

AGREEING = 4
"""Steps from one asking of all ranks whether to stop to the next."""
NAMED = 5
"""Tensors that an error names at most, and bad samples an epoch's row."""


class NonFinite(ArithmeticError):
    """A loss or a gradient that is not a number: training can't go on from here. No parameter was moved by it."""


def train(
    engine: Engine,
    spec: Spec,
    targets: Targets,
    data: Batches | Stream,
    validation: Batches | Stream,
    teacher: Teacher | None,
    progress: Progress,
    checkpoints: Checkpoints,
    checkpoint_steps: int | None,
    log: Log,
    stopping: Stopping,
) -> bool:
    """Train from where `progress` stands to the end, on all ranks together. `teacher` is what is distilled from.

    False if it was stopped before the end; then where it stood is saved.
    """
    plan = stretches(spec)
    per_epoch = steps_per_epoch(len(data), spec.batch)
    epochs = sum(stretch.epochs for stretch in plan)
    rank, world = dist.get_rank(), dist.get_world_size()
    before, began, resumed = progress.seconds, time.monotonic(), progress.steps
    told: set[str] = set()
    while progress.stretch < len(plan):
        stretch = plan[progress.stretch]
        engine.optimizer.rho = progress.rho if stretch.phase == "admm" else 0.0
        engine.optimizer.sharing = progress.sharing if stretch.phase == "centroids" else 0
        epoch = sum(s.epochs for s in plan[: progress.stretch]) + progress.epoch
        for _ in _epoch(engine, spec, stretch, data, teacher, epoch, progress):
            if _within(stretch, progress, per_epoch):
                admm.update(engine, targets)
            if progress.step == per_epoch:
                continue  # what follows ends with a checkpoint
            stop = progress.steps % (AGREEING if world > 1 else 1) == 0 and _agreed(stopping, engine)
            if stop or (checkpoint_steps and progress.steps % checkpoint_steps == 0):
                progress.seconds = before + time.monotonic() - began
                checkpoints.save(engine, progress)
            if stop:
                return _stopped(progress, checkpoints, log)
        engine.average_buffers()
        loss = _summed(float(progress.loss), engine) / (per_epoch * spec.batch)
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "phase": stretch.phase,
            "steps": progress.steps,
            "loss": loss,
            "lr": learning_rate(stretch, progress.epoch),
        }
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        if progress.epoch == stretch.epochs:
            row |= _after(engine, spec, plan, targets, progress)
            progress.epoch = 0
        engine.module.eval()
        size = engine.settings.evaluated(spec.batch, world)
        row["val_accuracy"] = evaluate(engine.forward, validation, rank, world, size).accuracy
        for split in (data, validation):
            share_bad(split)
        if data.bad:
            row["bad"] = len(data.bad)  # since this attempt began
        new = sorted({*data.bad.values(), *validation.bad.values()} - told)
        if new:
            told.update(new)
            row["left_out"] = first_of(new)
        progress.metrics.append(row)
        progress.seconds = before + time.monotonic() - began
        spent = (time.monotonic() - began) / (progress.steps - resumed)
        left = spent * per_epoch * (sum(stretch.epochs for stretch in plan[progress.stretch :]) - progress.epoch)
        log({"event": "epoch", **row, "epochs": epochs, "seconds": progress.seconds, "seconds_left": left})
        if progress.stretch < len(plan):
            checkpoints.save(engine, progress)
            if _agreed(stopping, engine):
                return _stopped(progress, checkpoints, log)
    checkpoints.wait()
    return True


def first_of(reasons: Sequence[str]) -> list[str]:
    """The first of many bad samples, for people, and how many more there are."""
    more = len(reasons) - NAMED
    return [*reasons[:NAMED], *([f"and {more} more"] if more > 0 else [])]


def share_bad(split: Batches | Stream) -> None:
    """Let every rank know which of a split's samples others have met as bad. Raises DataError for too many of them."""
    if dist.get_world_size() > 1 and isinstance(split, Stream):
        every: list[dict[int, str]] = [{}] * dist.get_world_size()
        dist.all_gather_object(every, split.bad)
        for bad in every:
            split.bad.update(bad)
        split.tolerate()


def _within(stretch: Stretch, progress: Progress, per_epoch: int) -> bool:
    """Whether Z and U are updated at this step, before the stretch's end."""
    done = progress.epoch * per_epoch + progress.step
    return stretch.interval is not None and done % stretch.interval == 0 and done < stretch.epochs * per_epoch


def _stopped(progress: Progress, checkpoints: Checkpoints, log: Log) -> bool:
    checkpoints.finish()
    log({"event": "stopped", "steps": progress.steps})
    return False


def _agreed(stopping: Stopping, engine: Engine) -> bool:
    """Whether any rank is to stop: the same answer on all of them."""
    if engine.world == 1:
        return stopping()
    asked = torch.tensor([float(stopping())], device=engine.engine.device)
    dist.all_reduce(asked)
    return bool(asked[0])


def _epoch(
    engine: Engine,
    spec: Spec,
    stretch: Stretch,
    data: Batches | Stream,
    teacher: Teacher | None,
    epoch: int,
    progress: Progress,
) -> Iterator[None]:
    """Train on what is left of an epoch; yields after each optimizer step."""
    rank, world = dist.get_rank(), dist.get_world_size()
    per_epoch = steps_per_epoch(len(data), spec.batch)
    order = data.order(epoch)

    def parts(step: int) -> list[Indices]:
        """What this rank's micro-batches of a step hold."""
        return micro_batches(share(global_batch(order, spec.batch, step), rank, world), engine.accumulate)

    def draw(step: int) -> None:
        """Randomness inside the network (dropout) depends on where we are, not on how we got here."""
        torch.manual_seed(((spec.seed * 1_000_003 + epoch) * 1_000_003 + step * world + rank) % 2**64)

    batches = data.epoch((part for step in range(progress.step, per_epoch) for part in parts(step)), epoch)
    engine.module.train()
    for step in range(progress.step, per_epoch):
        lr = learning_rate(stretch, progress.epoch + step / per_epoch)
        draw(step)
        for pictures, labels in islice(batches, engine.accumulate):
            loss = _batch_loss(engine, spec, teacher, pictures, labels)
            value = loss.detach()
            # The gradient of a loss that is not finite is none either, on every rank: all stop before the step.
            loss = loss * torch.where(value.isfinite(), 1.0, math.nan)
            # DeepSpeed averages over ranks and micro-batches; what is wanted is the mean over the batch.
            engine.backward(loss * (world * engine.accumulate / spec.batch))
            progress.loss = progress.loss + value.double()
            if not engine.step(lr):
                draw(step)
                where = f"step {progress.steps + 1} (epoch {epoch + 1}"
                raise NonFinite(_explained(engine, spec, teacher, data.epoch(parts(step), epoch), where))
        progress.step, progress.steps = step + 1, progress.steps + 1
        yield


def _explained(
    engine: Engine, spec: Spec, teacher: Teacher | None, batches: Iterable[tuple[Tensor, Tensor]], where: str
) -> str:
    """What is not finite in a step, whose micro-batches are computed once more for that: in the loop, looking at each
    loss would stop the device each time."""
    trouble = ""
    for number, (pictures, labels) in enumerate(batches, 1):
        loss = _batch_loss(engine, spec, teacher, pictures, labels)
        value = float(loss.detach())
        if not math.isfinite(value) and not trouble:
            trouble = f"the loss is {value} at {where}, rank {dist.get_rank()}): {_spoilt(engine, pictures)}"
        engine.backward(loss)
        if number < engine.accumulate:
            engine.step(0.0)
    if trouble := _first(trouble):
        return trouble
    names = _named(engine.not_finite()) or "of no tensor when it is computed once more"
    return f"the gradient is not finite at {where}): {names}"


def _first(trouble: str) -> str:
    """What the first rank that has met something says of it: the same on all."""
    every = [""] * dist.get_world_size()
    dist.all_gather_object(every, trouble)
    return next(filter(None, every), "")


def _batch_loss(engine: Engine, spec: Spec, teacher: Teacher | None, pictures: Tensor, labels: Tensor) -> Tensor:
    """A micro-batch's loss, summed over its samples."""
    if spec.mix is not None:
        pictures, others, own = mixed(pictures, labels, spec.mix)
    logits = engine.forward(pictures)
    loss = _loss(logits, labels, spec)
    if spec.mix is not None:
        loss = own * loss + (1 - own) * _loss(logits, others, spec)
    if teacher is not None and not isinstance(spec, TrainSpec) and spec.distill is not None:
        loss = _distilled(loss, logits, teacher, pictures, labels, spec.distill)
    return loss


def _loss(logits: Tensor, labels: Tensor, spec: Spec) -> Tensor:
    """Cross entropy, summed over the samples that are good."""
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=spec.smoothing)


def _spoilt(engine: Engine, pictures: Tensor) -> str:
    """What of all that went into a loss is not finite: pictures, weights and buffers, or only what comes of them."""
    whole = {} if engine.zero == 3 else engine.module.state_dict()
    into = {"the pictures": pictures, **whole}
    bad = [name for name, tensor in into.items() if not bool(tensor.isfinite().all())]
    if bad:
        return f"not finite: {_named(bad)}"
    return "the pictures are finite" + (", and so is every weight: activations overflow" if whole else "")


def _named(tensors: list[str]) -> str:
    return ", ".join(tensors[:NAMED]) + (f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else "")


def _after(engine: Engine, spec: Spec, plan: list[Stretch], targets: Targets, progress: Progress) -> dict[str, Any]:
    """What stands at the end of a stretch, and where to go on; returns what it adds to the epoch's metrics."""
    stretch = plan[progress.stretch]
    progress.stretch += 1
    row: dict[str, Any] = {}
    then = stretch.then
    if stretch.phase == "centroids":
        quantize.settle(engine, targets)
        progress.sharing = 0
    if stretch.phase == "admm":
        assert not isinstance(spec, TrainSpec)
        assert spec.admm is not None
        update = admm.update(engine, targets)
        residual = update.residual
        row = {"rho": progress.rho, "residual": residual.total, "change": residual.change}
        factor = admm.balance(residual) if spec.admm.rho_balance else spec.admm.rho_growth
        admm.rescale(engine, targets, factor)
        progress.rho *= factor
        if then == "update" and max(residual.total, residual.change) <= spec.admm.tolerance:
            while plan[progress.stretch].phase == "admm":
                then = plan[progress.stretch].then
                progress.stretch += 1
                if progress.stretch == len(plan):
                    break
    if then == "project":
        row["residual"] = project(engine, targets, progress)
    elif then == "fit":
        assert isinstance(spec, QuantizeSpec)
        progress.residual = {"total": residual.total, "tensors": residual.tensors}
        progress.values = quantize.fit(engine, targets)
        if spec.centroids is not None and spec.centroids.epochs:
            progress.sharing = quantize.share_values(engine, progress.values)
        else:
            quantize.snap(engine, progress.values, spec.snap.share if spec.snap else None)
    elif then in ("snap", "snap the rest"):
        assert isinstance(spec, QuantizeSpec)
        assert spec.snap is not None
        quantize.snap(engine, progress.values, spec.snap.share if then == "snap" else None)
    if then not in ("nothing", "update"):
        engine.optimizer.holding = True
    if then not in ("nothing", "update") or (
        progress.stretch < len(plan) and plan[progress.stretch].phase != stretch.phase
    ):
        engine.optimizer.reset_inner()
    return row


def project(engine: Engine, targets: Targets, progress: Progress) -> float:
    """The final projection, noted in `progress`; returns how far the weights were from it."""
    final = admm.project(engine, targets)
    progress.residual = {"total": final.residual.total, "tensors": final.residual.tensors}
    if final.kept:
        progress.budget = {"kept": final.kept, "peak_bytes": final.peak_bytes}
    return final.residual.total


def _distilled(
    loss: Tensor, logits: Tensor, teacher: Teacher, pictures: Tensor, labels: Tensor, settings: Distill
) -> Tensor:
    """(1 - a) cross entropy + a T^2 KL(teacher || student) at temperature T, summed over the batch."""
    wanted = F.log_softmax(teacher(pictures) / settings.temperature, dim=1)
    given = F.log_softmax(logits / settings.temperature, dim=1)
    counts = labels != IGNORED
    if not bool(counts.all()):
        wanted, given = wanted[counts], given[counts]
    apart = F.kl_div(given, wanted, reduction="sum", log_target=True) * settings.temperature**2
    return (1 - settings.weight) * loss + settings.weight * apart


def _summed(value: float, engine: Engine) -> float:
    """A sum over ranks."""
    if engine.world == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64, device=engine.engine.device)
    dist.all_reduce(total)
    return float(total[0])
