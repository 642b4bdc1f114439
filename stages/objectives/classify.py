"""Classification: cross entropy, top-1 and, of more than five classes, top-5.

A batch has the network's `inputs`, by default the field `image` [n, c, h, w], and `label` [n].

A sample that can't be read is labelled `IGNORED`, and counts nowhere.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dualprune.stages.objectives.base import Batch, Metric, Objective, arguments, as_it_is
from dualprune.stages.objectives.fields import IGNORED, Args, called, field, mean
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from torch import Tensor

FEW = 5
"""Of so many classes the right one is always among the first five."""
OTHERS, SHARE = "other label", "own share"
"""In a batch of mixed pictures: the labels [n] of what was mixed in, and how much of each is its own, []. No field of
data is called so."""


class Classify(Args):
    """Arguments of `classify`."""

    inputs: list[str] | dict[str, str] = Field(default=["image"], min_length=1)
    target: str = "label"


def classify(spec: StageSpec) -> Objective:
    """The objective as a stage's settings have it: with smoothed labels, and pictures mixed in pairs.

    Raises SpecError.
    """
    args = arguments(Classify, spec.objective)
    if spec.model.classes < 2:
        raise SpecError([(("model", "classes"), f"must be 2 or more to classify, not {spec.model.classes}")])
    if spec.mix is not None and args.inputs != ["image"]:
        raise SpecError([(("mix",), f"mixes the pictures of `image`, and `objective.args.inputs` is {args.inputs}")])
    metrics = {
        "accuracy": Metric(partial(_correct, args=args), lambda sums, samples: 100 * sums / samples),
        "loss": Metric(partial(_loss, args=args, smoothing=0.0), mean, higher=False, unit=""),
    }
    if spec.model.classes > FEW:
        metrics["top5"] = Metric(partial(_among_five, args=args), lambda sums, samples: 100 * sums / samples)
    return Objective(
        call=partial(called, args=args),
        loss=partial(_loss, args=args, smoothing=spec.smoothing),
        good=lambda batch: (_label(batch, args) != IGNORED).sum(),
        metrics=metrics,
        best="accuracy",
        distil=partial(_apart, args=args),
        known=lambda batch: _label(batch, args) != IGNORED,
        augment=as_it_is if spec.mix is None else partial(_mixed, settings=spec.mix, args=args),
    )


def _label(batch: Batch, args: Classify) -> Tensor:
    return field(batch, args.target, "target")


def _loss(logits: Tensor, batch: Batch, args: Classify, smoothing: float) -> Tensor:
    """Cross entropy; of mixed pictures, of both of their labels by their shares."""
    from torch.nn import functional as F

    def of(labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)

    if OTHERS not in batch:
        return of(_label(batch, args))
    return batch[SHARE] * of(_label(batch, args)) + (1 - batch[SHARE]) * of(batch[OTHERS])


def _correct(logits: Tensor, batch: Batch, args: Classify) -> Tensor:
    return (logits.argmax(1) == _label(batch, args)).sum()


def _among_five(logits: Tensor, batch: Batch, args: Classify) -> Tensor:
    few = min(FEW, logits.shape[1])  # a network of a user's own may have fewer outputs than `classes` says
    return (logits.topk(few, dim=1).indices == _label(batch, args)[:, None]).any(1).sum()


def _apart(given: Tensor, wanted: Tensor, batch: Batch, temperature: float, args: Classify) -> Tensor:
    """T^2 KL(teacher || student) at temperature T (Hinton et al. 2015)."""
    from torch.nn import functional as F

    wanted, given = (F.log_softmax(logits / temperature, dim=1) for logits in (wanted, given))
    counts = _label(batch, args) != IGNORED
    if not bool(counts.all()):
        wanted, given = wanted[counts], given[counts]
    return F.kl_div(given, wanted, reduction="sum", log_target=True) * temperature**2


def _mixed(batch: Batch, settings: Any, args: Classify) -> Batch:
    """Pictures mixed in pairs: OTHERS and SHARE too."""
    import torch

    from dualprune.stages.objectives.mix import mixed

    pictures, others, own = mixed(field(batch, "image", "inputs"), _label(batch, args), settings)
    return {**batch, "image": pictures, OTHERS: others, SHARE: torch.tensor(own, device=pictures.device)}
