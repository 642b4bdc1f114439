"""`kind: train`: plain training, from scratch or from a parent, whose masks stay in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from dualprune.stages.kinds.base import Kind, Phase, plain
from dualprune.stages.settings.training import StageSpec, Training

if TYPE_CHECKING:
    from dualprune.stages.training.run import Run


class TrainSpec(StageSpec):
    """Plain training, from scratch or from a parent; the parent's masks stay in force."""

    kind: Literal["train"]
    """The name of the kind."""
    train: Training
    """How long, and how fast."""


def _phases(spec: TrainSpec) -> list[Phase]:
    return [plain("train", spec.train)]


def _enter(run: Run[TrainSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = run.masked


KIND = Kind(settings=TrainSpec, version=2, phases=_phases, enter=_enter)
