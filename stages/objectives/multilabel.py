"""Several labels a sample: binary cross entropy; mean average precision, and the area under the ROC curve.

A batch has the network's `inputs` (by default the field `x`) and `target` [n, c], or [n] of one label: 1, 0, or -100
or NaN where it is not known. The network gives a logit a label.

Both metrics depend on the order of all scores of all ranks. It is kept as sums: for each label and each of `bins`
intervals of the score, how many samples with and without the label there are. They are exact for scores rounded so;
those of one interval count as equal.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from dualprune.stages.objectives.base import Batch, Metric, Objective, arguments
from dualprune.stages.objectives.fields import IGNORED, Args, called, field, mean, rows, samples, spread
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from torch import Tensor


class Multilabel(Args):
    """Arguments of `multilabel`."""

    bins: int = Field(default=4096, ge=2)
    """Intervals of x / (1 + |x|) of a logit x, evenly between -1 and 1: 16 bytes a label and interval."""
    best: Literal["map", "auc"] = "map"
    """What is chosen by."""


def multilabel(spec: StageSpec) -> Objective:
    """The objective as a stage's settings have it. Raises SpecError."""
    args = arguments(Multilabel, spec.objective)
    return Objective(
        call=partial(called, args=args),
        loss=partial(_loss, args=args),
        good=partial(_good, args=args),
        metrics={
            "map": Metric(partial(_counts, args=args), _precision),
            "auc": Metric(partial(_counts, args=args), _area),
            "loss": Metric(partial(_loss, args=args), mean, higher=False, unit=""),
        },
        best=args.best,
        distil=partial(_distilled, args=args),
    )


def _target(batch: Batch, args: Multilabel) -> Tensor:
    """Labels as numbers, NaN where they are not known."""
    target = field(batch, args.target, "target").float()
    return target.masked_fill(target == IGNORED, math.nan)


def _good(batch: Batch, args: Multilabel) -> Tensor:
    target = _target(batch, args)
    return samples(rows(target, target)[2])


def _loss(logits: Tensor, batch: Batch, args: Multilabel) -> Tensor:
    """Binary cross entropy: the mean over a sample's known labels, summed over samples."""
    from torch.nn import functional as F

    logits, target, known = rows(logits, _target(batch, args))
    return spread(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), known)


def _counts(logits: Tensor, batch: Batch, args: Multilabel) -> Tensor:
    """How many samples without and with each label have a score in each interval: fp64 [2, c, bins].

    Raises SpecError for targets that are no labels.
    """
    import torch

    logits, target, known = rows(logits, _target(batch, args))
    odd = target[(target != 0) & (target != 1)]  # what is not known is 0
    if len(odd):
        text = f"{args.target!r} holds {float(odd[0]):.4g}, and labels are 0, 1 or, where not known, {IGNORED} or NaN"
        raise SpecError([(("objective", "args", "target"), text)])
    logits = logits.double().nan_to_num()
    places = ((logits / (1 + logits.abs()) + 1) * (args.bins / 2)).long().clamp(0, args.bins - 1)
    labels = torch.arange(logits.shape[1], device=logits.device)
    flat = ((target > 0.5) * logits.shape[1] + labels) * args.bins + places
    counts = torch.bincount(flat[known], minlength=2 * logits.shape[1] * args.bins)
    return counts.view(2, logits.shape[1], args.bins).double()


def _precision(counts: Tensor, count: int) -> float:
    """Average precision in percent, the mean over labels that some sample has; 0 where none is had.

    As scikit-learn's `average_precision_score` of the rounded scores.
    """

    without, having = counts.flip(2)  # the highest scores first
    right, taken = having.cumsum(1), (having + without).cumsum(1)
    there = having.sum(1) > 0
    precision = right / taken.clamp(min=1)
    parts = (precision * having).sum(1)[there] / having.sum(1)[there]
    return float(100 * parts.mean()) if len(parts) else 0.0


def _area(counts: Tensor, count: int) -> float:
    """Area under the ROC curve in percent, the mean over labels that some have and some have not; 50 without any.

    As scikit-learn's `roc_auc_score` of the rounded scores.
    """
    without, having = counts
    below = without.cumsum(1) - without / 2  # equals count half
    pairs = having.sum(1) * without.sum(1)
    parts = (having * below).sum(1)[pairs > 0] / pairs[pairs > 0]
    return float(100 * parts.mean()) if len(parts) else 50.0


def _distilled(given: Tensor, wanted: Tensor, batch: Batch, temperature: float, args: Multilabel) -> Tensor:
    """T^2 KL(teacher || student) of each label at temperature T: the mean over a sample's known labels."""
    from torch.nn import functional as F

    given, _, known = rows(given, _target(batch, args))
    given, wanted = given / temperature, wanted.reshape(given.shape) / temperature
    there, gone = wanted.sigmoid(), (-wanted).sigmoid()
    apart = there * (F.logsigmoid(wanted) - F.logsigmoid(given)) + gone * (F.logsigmoid(-wanted) - F.logsigmoid(-given))
    return spread(apart, known) * temperature**2
