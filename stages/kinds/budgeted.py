"""What kinds of stages have in common that close parts of a network until a budget is met."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.distill import Distill
from dualprune.stages.settings.sets import Pattern
from dualprune.stages.settings.training import Epochs, StageSpec


class Budgeted(StageSpec):
    """Parts of a network are closed until a share of what it costs is left."""

    macs: float | None = Field(default=None, gt=0, lt=1)
    """The share of the network's multiply-accumulates that is left at the end, at most."""
    weights: float | None = Field(default=None, gt=0, lt=1)
    """The same of its weights. One of the two is given."""
    train: Epochs
    """How long, and how fast."""
    ramp: float = Field(default=0.5, gt=0, le=1)
    """The share of the epochs within which the budget is to be met; then what is left trains on."""
    distill: Distill | None = None
    """Learning from another stage's outputs too."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.macs is None) == (self.weights is None):
            raise ValueError("give either `macs` or `weights`: the share of them that is left")
        return self

    @property
    def cost(self) -> Literal["macs", "weights"]:
        """What the budget is of."""
        return "weights" if self.macs is None else "macs"

    @property
    def budget(self) -> float:
        """The share of that."""
        share = self.weights if self.macs is None else self.macs
        assert share is not None
        return share


class Closed(Budgeted):
    """Channels and residual blocks are closed until then."""

    constraints: list[Pattern] = Field(min_length=1)
    """What may be closed: units all of whose weights match, and blocks that add to such a stream."""


def possible(spec: Budgeted, least: float) -> None:
    """Raise SpecError for a budget that can't be met, for no less than a share is left of what the network costs."""
    if least > spec.budget:
        of = {"macs": "multiply-accumulates", "weights": "weights"}[spec.cost]
        text = f"{spec.budget:g} of the {of} can't be reached: with one unit of each kind and no block "
        raise SpecError([((spec.cost,), f"{text}that can go, {least:.3f} of them are left; ask for that or more")])
