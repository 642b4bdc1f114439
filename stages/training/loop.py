"""The training loop: the file to read first.

A stage is a list of phases of epochs (stages.kinds). What makes it a prune, say, are the hooks of its kind: before each
epoch (`enter`), after each step (`stepped`), and after the last epoch of a phase (`leave`), where Z and U are updated
and, once, the weights projected and masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from dualprune.stages.data.read.reading import Reader
from dualprune.stages.engine.ranks import here, summed
from dualprune.stages.kinds.base import Phase, learning_rate
from dualprune.stages.training import averaging
from dualprune.stages.training.asking import Asking
from dualprune.stages.training.evaluate import evaluate
from dualprune.stages.training.pace import Pace
from dualprune.stages.training.recalibrate import recalibrate
from dualprune.stages.training.run import Run
from dualprune.stages.training.step import steps

NAMED = 5
"""Bad samples that an epoch's row names at most."""


def train(run: Run[Any]) -> bool:
    """Train from where the run's progress stands to the end, on all ranks together.

    False if it was stopped before the end; then where it stood is saved.
    """
    progress, pace, asking, told = run.progress, Pace(run), Asking(run), set[str]()
    if not run.phases:
        recalibrate(run)
    while (phase := run.next_phase) is not None:
        if not _epoch(run, phase, pace, asking):
            return _stopped(run)
        speed = pace.speed()
        row = _ended(run, phase)
        with averaging.shown(run, phase):
            row = _looked(run, row, told)
        progress.metrics.append(row)
        progress.seconds = pace.seconds
        progress.speeds.append({"epoch": row["epoch"], "seconds": progress.seconds, **speed})
        run.log({"event": "epoch", **run.told(), **row, **progress.speeds[-1], "seconds_left": pace.left()})
        stop = asking.now()
        if stop or run.next_phase is not None:  # the last epoch is measured and committed at once
            run.checkpoints.save(run.engine, progress)
        if stop:
            return _stopped(run)
    run.checkpoints.wait()
    return True


def _epoch(run: Run[Any], phase: Phase, pace: Pace, asking: Asking) -> bool:
    """Train what is left of an epoch; False if it was stopped, and saved, within it."""
    progress, every = run.progress, run.job.engine.checkpoint_steps
    epoch = sum(one.epochs for one in run.phases[: progress.phase]) + progress.epoch
    run.kind.enter(run, phase)
    averaging.enter(run, phase)
    pace.enter()
    for _ in steps(run, phase, epoch, pace):
        averaging.followed(run)
        run.kind.stepped(run, phase)
        pace.tell(phase)
        if progress.step == run.per_epoch:
            continue  # what follows ends with a checkpoint
        stop = asking.after_step()
        if stop or (every and progress.steps % every == 0):
            progress.seconds = pace.seconds
            run.checkpoints.save(run.engine, progress)
        if stop:
            return False
    return True


def _ended(run: Run[Any], phase: Phase) -> dict[str, Any]:
    """An epoch is over, and with it perhaps the phase; the epoch's row."""
    engine, progress = run.engine, run.progress
    engine.average_buffers()
    row: dict[str, Any] = {
        "epoch": sum(one.epochs for one in run.phases[: progress.phase]) + progress.epoch + 1,
        "phase": phase.name,
        "steps": progress.steps,
        "loss": _summed(float(progress.loss)) / (run.per_epoch * run.spec.batch),
        "lr": learning_rate(phase, progress.epoch),
    }
    progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
    if progress.epoch == phase.epochs:
        progress.phase, progress.epoch = progress.phase + 1, 0
        averaging.taken(run, phase)
        row |= run.kind.leave(run, phase)
        following = run.next_phase
        if following is None or following.name != phase.name:
            recalibrate(run)
        if following is not None and following.name != phase.name:
            engine.optimizer.reset_inner()
    return row


def _looked(run: Run[Any], row: dict[str, Any], told: set[str]) -> dict[str, Any]:
    """All of validation after an epoch: the epoch's row with that, and with what bad samples were met.

    `told` are those that rows have named.
    """
    size = run.job.engine.evaluated(run.spec.batch, run.world)
    data, validation = run.splits["train"], run.splits["val"]
    run.engine.module.eval()
    score = evaluate(run.engine.forward, run.objective, validation, run.rank, run.world, size)
    row = {**row, **{f"val_{name}": value for name, value in score.values.items()}}
    for split in (data, validation):
        share_bad(split)
    if data.bad:
        row["bad"] = len(data.bad)  # since this attempt began
    new = sorted({*data.bad.values(), *validation.bad.values()} - told)
    if new:
        told.update(new)
        row["left_out"] = first_of(new)
    return row


def first_of(reasons: Sequence[str]) -> list[str]:
    """The first of many bad samples, for people, and how many more there are."""
    more = len(reasons) - NAMED
    return [*reasons[:NAMED], *([f"and {more} more"] if more > 0 else [])]


def share_bad(split: Reader) -> None:
    """Let every rank know which of a split's samples others have met as bad. Raises DataError for too many of them."""
    if dist.get_world_size() > 1:
        every: list[dict[int, str]] = [{}] * dist.get_world_size()
        dist.all_gather_object(every, split.bad)
        for bad in every:
            split.bad.update(bad)
        split.tolerate()


def _stopped(run: Run[Any]) -> bool:
    run.checkpoints.finish()
    run.log({"event": "stopped", "steps": run.progress.steps})
    return False


def _summed(value: float) -> float:
    """A sum over ranks."""
    return float(summed(torch.tensor([value], dtype=torch.float64, device=here()))[0])
