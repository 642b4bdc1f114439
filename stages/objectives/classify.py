"""Classification of pictures: cross entropy, top-1 and, of more than five classes, top-5.

A batch has `image` [n, c, h, w] and `label` [n].

A sample that can't be read is labelled `IGNORED`, and counts nowhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from dualprune.stages.objectives.base import Batch, Metric, Objective, arguments, as_it_is
from dualprune.stages.settings.base import Settings, SpecError
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from torch import Tensor

IGNORED = -100
"""Label of what stands in a bad sample's place: `cross_entropy`'s `ignore_index`."""


FEW = 5
"""Of so many classes the right one is always among the first five."""


def classify(spec: StageSpec) -> Objective:
    """The objective as a stage's settings have it: with smoothed labels, and pictures mixed in pairs.

    Raises SpecError.
    """
    arguments(Settings, spec.objective)
    if spec.model.classes < 2:
        raise SpecError([(("model", "classes"), f"must be 2 or more to classify, not {spec.model.classes}")])
    metrics = {
        "accuracy": Metric(_correct, lambda sums, samples: 100 * sums / samples),
        "loss": Metric(partial(_loss, smoothing=0.0), lambda sums, samples: sums / samples, higher=False, unit=""),
    }
    if spec.model.classes > FEW:
        metrics["top5"] = Metric(_among_five, lambda sums, samples: 100 * sums / samples)
    return Objective(
        call=_call,
        loss=partial(_loss, smoothing=spec.smoothing),
        good=lambda batch: (batch["label"] != IGNORED).sum(),
        metrics=metrics,
        best="accuracy",
        distil=_apart,
        augment=as_it_is if spec.mix is None else partial(_mixed, settings=spec.mix),
    )


def channels_last(pictures: Tensor) -> Tensor:
    """Pictures as convolutions run faster on CPU and GPU alike (LeNet-5 on one core: 1.7 times)."""
    import torch

    if pictures.ndim != 4:
        return pictures
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    if pictures.shape[1] == 1:
        # Both orders are the same memory then, and torch takes it for the slow one unless the strides tell.
        height, width = pictures.shape[2:]
        pictures = pictures.as_strided(pictures.shape, (height * width, 1, width, 1))
    return pictures


def _call(network: Callable[..., Any], batch: Batch) -> Tensor:
    logits: Tensor = network(channels_last(batch["image"]))
    return logits.float()


def _loss(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """Cross entropy; of mixed pictures, of both of their labels by their shares."""
    from torch.nn import functional as F

    def of(labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED, label_smoothing=smoothing)

    if "other" not in batch:
        return of(batch["label"])
    return batch["own"] * of(batch["label"]) + (1 - batch["own"]) * of(batch["other"])


def _correct(logits: Tensor, batch: Batch) -> Tensor:
    return (logits.argmax(1) == batch["label"]).sum()


def _among_five(logits: Tensor, batch: Batch) -> Tensor:
    return (logits.topk(FEW, dim=1).indices == batch["label"][:, None]).any(1).sum()


def _apart(given: Tensor, wanted: Tensor, batch: Batch, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T (Hinton et al. 2015)."""
    from torch.nn import functional as F

    wanted, given = (F.log_softmax(logits / temperature, dim=1) for logits in (wanted, given))
    counts = batch["label"] != IGNORED
    if not bool(counts.all()):
        wanted, given = wanted[counts], given[counts]
    return F.kl_div(given, wanted, reduction="sum", log_target=True) * temperature**2


def _mixed(batch: Batch, settings: Any) -> Batch:
    """Pictures mixed in pairs: their `other` labels too, and their `own` share, []."""
    import torch

    from dualprune.stages.objectives.mix import mixed

    pictures, others, own = mixed(batch["image"], batch["label"], settings)
    return {**batch, "image": pictures, "other": others, "own": torch.tensor(own, device=pictures.device)}
