"""Numbers predicted from anything: squared, absolute or Huber's loss; R2 and the mean squared and absolute error.

A batch has the network's `inputs` (by default the field `x`) and `target` [n] or [n, d], as many numbers as the network
gives. A target that is NaN is not known, and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from dualprune.stages.objectives.base import Batch, Metric, Objective, arguments
from dualprune.stages.objectives.fields import Args, called, field, mean, rows, samples, spread
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from torch import Tensor

Loss = Literal["mse", "mae", "huber"]
FLAT = 1e-12
"""Targets whose variance is this share of their mean square are all the same."""


class Regress(Args):
    """Arguments of `regress`."""

    loss: Loss = "mse"
    """Squared or absolute difference, or Huber's, which is squared up to 1 and absolute beyond: the mean over a
    sample's numbers."""
    best: Literal["r2", "mse", "mae"] = "r2"
    """What is chosen by."""


def regress(spec: StageSpec) -> Objective:
    """The objective as a stage's settings have it. Raises SpecError."""
    args = arguments(Regress, spec.objective)
    known = partial(_rows, args=args)
    return Objective(
        call=partial(called, args=args),
        loss=partial(_apart, args=args, loss=args.loss),
        good=partial(_good, args=args),
        metrics={
            "r2": Metric(lambda outputs, batch: _moments(*known(outputs, batch)), _explained, unit=""),
            "mse": Metric(partial(_apart, args=args, loss="mse"), mean, higher=False, unit=""),
            "mae": Metric(partial(_apart, args=args, loss="mae"), mean, higher=False, unit=""),
        },
        best=args.best,
        distil=lambda given, wanted, batch, temperature: _distilled(given, wanted, batch, args),
    )


def _good(batch: Batch, args: Regress) -> Tensor:
    target = field(batch, args.target, "target").float()
    return samples(rows(target, target)[2])


def _rows(outputs: Tensor, batch: Batch, args: Regress) -> tuple[Tensor, Tensor, Tensor]:
    return rows(outputs, field(batch, args.target, "target").float())


def _apart(outputs: Tensor, batch: Batch, args: Regress, loss: Loss) -> Tensor:
    """The loss between outputs and targets, summed over samples."""
    from torch.nn import functional as F

    outputs, target, known = _rows(outputs, batch, args)
    ways: dict[Loss, Callable[..., Tensor]] = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
    return spread(ways[loss](outputs, target, reduction="none"), known)


def _moments(outputs: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Of each of d numbers: how many are known, their sum and sum of squares, and the squared errors' sum: [4, d]."""
    import torch

    outputs, target, known = outputs.double(), target.double(), known.double()
    return torch.stack([known, target, target.square(), (outputs - target).square() * known]).sum(1)


def _explained(sums: Tensor, count: int) -> float:
    """R2, the share of the variance that is explained: the mean over d numbers, as scikit-learn's `r2_score`.

    Of a number that is always the same it is 1 where all predictions are right, else 0.
    """
    import torch

    known, total, squares, errors = sums
    spread = (squares - total.square() / known.clamp(min=1)).clamp(min=0)
    flat = spread <= FLAT * squares
    parts = torch.where(flat, (errors <= FLAT * squares).double(), 1 - errors / spread.masked_fill(flat, 1))
    return float(parts[known > 0].mean())


def _distilled(given: Tensor, wanted: Tensor, batch: Batch, args: Regress) -> Tensor:
    """The squared difference from a teacher's numbers; there is no temperature."""
    given, _, known = _rows(given, batch, args)
    return spread((given - wanted.reshape(given.shape)).square(), known)
