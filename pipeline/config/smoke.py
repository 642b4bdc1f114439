"""A configuration in small: every stage for a few steps, to find errors before a long run. Pure.

What can go wrong on the way stays: networks, constraints, kinds of stages, workers, GPUs, the data as given, the
kind of store. Accuracies mean nothing, so nothing is chosen or refused by them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from dualprune.pipeline.choices.base import ChoiceSettings
from dualprune.pipeline.choices.table import CHOICES, with_training
from dualprune.pipeline.config.load import Config
from dualprune.pipeline.config.schema import Monitor
from dualprune.pipeline.node import Work
from dualprune.stages.kinds.quantize import Snap
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.training import Admm, Epochs, StageSpec

STEPS = 2
"""Optimizer steps of an epoch."""
UPDATES = 2
"""Updates of Z and U at most, and rounds of snapping."""
SAMPLES = 4
"""Of a batch, at most so many for each worker and micro-batch: batch normalisation needs more than one."""
READERS = 2
"""Processes that read pictures for a worker, at most."""
S = TypeVar("S", bound=StageSpec)


def smoke(config: Config) -> Config:
    """The same stages with few samples, epochs and updates, in the folder `smoke` of the store, and without W&B.

    Without GPUs it runs in fp32: many processors only emulate bf16, and take minutes for a step of a large network.
    Its stages have other keys than the real ones.
    """
    top = config.top
    batch = SAMPLES * top.cluster.workers.max * top.engine.accumulate
    fixed: dict[str, Any] = {} if top.cluster.gpus else {"precision": "fp32"}
    changes = {"store": f"{top.store.rstrip('/')}/smoke", "monitor": Monitor(wandb="disabled")}
    stages = tuple(replace(stage, spec=_work(stage.spec, batch, fixed)) for stage in config.stages)
    return replace(config, top=top.model_copy(update=changes), stages=stages)


def _work(work: Work, batch: int, fixed: Mapping[str, Any]) -> Work:
    if isinstance(work, StageSpec):
        return _spec(work, batch, fixed)
    choice = CHOICES[work.kind]
    small: ChoiceSettings = choice.small(work)
    if choice.trials is None:
        return small
    return with_training(small, _spec(choice.trials.stage(small), batch, fixed))


def _spec(spec: S, batch: int, fixed: Mapping[str, Any]) -> S:
    """A stage's settings, its batch at most `batch`, and some `fixed`."""
    batch = min(spec.batch, batch)
    changes: dict[str, Any] = {
        **fixed,
        "batch": batch,
        "data": spec.data.model_copy(
            update={"limit": spec.data.used(STEPS * batch), "workers": min(spec.data.workers, READERS)}
        ),
    }
    for name in type(spec).model_fields:
        value = getattr(spec, name)
        if isinstance(value, Settings):
            changes.setdefault(name, _short(value))
    return spec.model_copy(update=changes)


def _short(value: Settings) -> Settings:
    """Settings of a phase, if they are, with the fewest epochs that still do what it does."""
    if isinstance(value, Admm):
        interval = value.interval and min(value.interval, STEPS - 1)
        return value.model_copy(update={"updates": min(value.updates, UPDATES), "epochs": 1, "interval": interval})
    if isinstance(value, Snap):
        return value.model_copy(update={"rounds": min(value.rounds, UPDATES), "epochs": min(value.epochs, 1)})
    if isinstance(value, Epochs):
        return value.model_copy(update={"epochs": min(value.epochs, 1)})
    return value
