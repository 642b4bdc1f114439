"""`kind: shrink`: a physically smaller network, of what masks, constraints or measured importance leave.

What is taken out changes nothing where all that makes and reads it is zero already, as after a prune with `coupled`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from dualprune.stages.kinds.base import Kind, Phase, plain
from dualprune.stages.settings.base import Settings
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import Head, Structured
from dualprune.stages.settings.training import StageSpec, Training

if TYPE_CHECKING:
    from torch import nn

    from dualprune.stages.solver.shrinking import Before, Inputs, Smaller
    from dualprune.stages.training.run import Run


class Blocks(Settings):
    """Residual blocks that are taken out: those whose absence costs least on validation, one after another."""

    remove: int = Field(ge=1)
    """How many."""
    samples: int = Field(default=1000, ge=1)
    """Of validation that each is measured on, at most."""


class ShrinkSpec(StageSpec):
    """A physically smaller network: channels, heads and blocks are taken out, pictures made smaller."""

    kind: Literal["shrink"]
    """The name of the kind."""
    constraints: list[Structured | Head] = Field(default=[])
    """Of coupled units those that stay, by the norms of the parent's weights; without any, those that are not zero."""
    multiple: int = Field(default=1, ge=1)
    """Of units that are zero, some stay where that makes the width of the rest a multiple of this, as machines like it;
    a head is as wide as its queries. With `constraints`, theirs say it."""
    blocks: Blocks | None = None
    """Depth: residual blocks that are taken out before anything else."""
    resolution: int | None = Field(default=None, ge=1)
    """Pictures are brought to this height and width within the network, in training, evaluation and export."""
    retrain: Training | None = None
    """Of the smaller network; what the parent pruned beside it stays zero."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""

    @model_validator(mode="after")
    def _all_coupled(self) -> ShrinkSpec:
        for one in self.constraints:
            if not one.coupled:
                raise ValueError(
                    f"`{one.set}` without `coupled: true` leaves nothing that could be taken out; add that"
                )
        if self.constraints and self.multiple != 1:
            raise ValueError("`multiple` is of units that are zero; with `constraints`, give it in each of these")
        if self.distill is not None and self.retrain is None:
            raise ValueError("`distill` is of training, and `retrain` is not given")
        return self


def _phases(spec: ShrinkSpec) -> list[Phase]:
    return [] if spec.retrain is None else [plain("retrain", spec.retrain)]


def _shrinks(spec: ShrinkSpec, before: Before) -> Smaller:
    from dualprune.stages.solver.shrinking import smaller

    blocks = spec.blocks or Blocks(remove=1)
    count = 0 if spec.blocks is None else blocks.remove
    return smaller(before, spec.constraints, spec.multiple, count, blocks.samples, spec.resolution)


def _fits(spec: ShrinkSpec, network: nn.Module, inputs: Inputs) -> None:
    from dualprune.stages.solver.shrinking import fits

    fits(network, inputs, 0 if spec.blocks is None else spec.blocks.remove, spec.resolution)


def _enter(run: Run[ShrinkSpec], phase: Phase) -> None:
    run.engine.optimizer.masking = run.masked


KIND = Kind(
    settings=ShrinkSpec,
    version=3,
    phases=_phases,
    varies=("constraints", "multiple", "blocks", "resolution", "retrain", "distill"),
    needs_parent=True,
    removes=lambda spec: spec.constraints,
    shrinks=_shrinks,
    fits=_fits,
    enter=_enter,
)
