"""When a trainer of others, which calls back after each step, updates and projects."""

from __future__ import annotations

from dataclasses import dataclass

from dualprune.stages.library.pruner import Pruner
from dualprune.stages.solver.admm import Residual


@dataclass(frozen=True)
class Schedule:
    """`updates` updates of Z and U, one every `every` optimizer steps; the projection comes with the last."""

    every: int
    updates: int

    def __post_init__(self) -> None:
        for name in ("every", "updates"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: must be a whole number above 0, not {value!r}")

    def check(self, steps: float) -> None:
        """Raise ValueError for a training of so few optimizer steps that it ends before the projection."""
        if steps < self.every * self.updates:
            needed = f"{self.updates} updates, one every {self.every} steps, take {self.every * self.updates} steps"
            raise ValueError(
                f"{needed}, and this training has {steps}: the weights would never be projected; train longer, or"
                " update more often"
            )

    def stepped(self, pruner: Pruner, before: int, step: int) -> dict[str, float]:
        """With `step` optimizer steps done, and `before` when it was last asked: update and project where it is time;
        what to log then. Several steps at a time, as of several optimizers, update once at most."""
        if pruner.phase != "admm" or step // self.every == before // self.every:
            return {}
        row = _row(pruner.update()) | {"pruning/rho": pruner.rho}
        if pruner.updates >= self.updates:
            row |= {"pruning/projected": pruner.project().total, "pruning/rate": pruner.rate}
        return row


def _row(residual: Residual) -> dict[str, float]:
    return {"pruning/residual": residual.total, "pruning/change": residual.change}
