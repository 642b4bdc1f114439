"""A stage's epochs: in which order, at which learning rates, and what is done after which of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from dualprune.stages.settings.spec import Admm, Phase, PruneSpec, QuantizeSpec, Rate, Spec, TrainSpec

Then = Literal["nothing", "update", "project", "fit", "snap", "snap the rest"]


@dataclass(frozen=True)
class Stretch:
    """Epochs of training in one way, and what is done after them."""

    phase: Literal["train", "admm", "snap", "centroids", "retrain"]
    epochs: int
    rate: Rate
    then: Then = "nothing"
    before: int = 0
    """Epochs of the schedule that earlier stretches used up."""
    span: int = 0
    """Epochs of the schedule in all; 0: those of this stretch."""
    interval: int | None = None
    """Optimizer steps from one update of Z and U to the next within the stretch."""


def stretches(spec: Spec) -> list[Stretch]:
    """A stage's epochs in order."""
    if isinstance(spec, TrainSpec):
        plan = [_phase("train", spec.train)]
    else:
        plan = [] if spec.admm is None else _admm(spec.admm, last="project" if isinstance(spec, PruneSpec) else "fit")
        if isinstance(spec, QuantizeSpec):
            if spec.snap is not None:
                snapped = Stretch("snap", spec.snap.epochs, Rate(lr=spec.snap.lr, schedule="constant"), then="snap")
                plan += [snapped] * (spec.snap.rounds - 1) + [replace(snapped, then="snap the rest")]
            if spec.centroids is not None:
                plan.append(_phase("centroids", spec.centroids))
        plan.append(_phase("retrain", spec.retrain))
    return [stretch for stretch in plan if stretch.epochs]


def _phase(name: Literal["train", "centroids", "retrain"], phase: Phase) -> Stretch:
    return Stretch(name, phase.epochs, phase)


def _admm(settings: Admm, last: Then) -> list[Stretch]:
    span = 0 if settings.lr_restart else settings.updates * settings.epochs
    return [
        Stretch(
            "admm",
            settings.epochs,
            settings,
            then="update" if number < settings.updates - 1 else last,
            before=0 if settings.lr_restart else number * settings.epochs,
            span=span,
            interval=settings.interval,
        )
        for number in range(settings.updates)
    ]


def learning_rate(stretch: Stretch, done: float) -> float:
    """The rate after `done` epochs of a stretch, a fraction of one among them."""
    rate, done = stretch.rate, stretch.before + done
    if rate.schedule == "cosine":
        return rate.lr * 0.5 * (1 + math.cos(math.pi * done / (stretch.span or stretch.epochs)))
    # 0.3 // 0.1 is 2: a little more than nothing makes up for how fractions are rounded.
    return rate.lr * rate.factor ** math.floor(done / rate.every + 1e-9) if rate.every else rate.lr
