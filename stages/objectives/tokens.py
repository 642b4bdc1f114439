"""Text and other sequences: classes of sequences or of their tokens, and language modelling with perplexity.

A batch has the network's `inputs`, by default the field `input_ids` [n, t], and where sequences are padded their
`mask` [n, t], which is not 0 where there is a token; the network is called with it too, as its parameter `mask_as`.

| task | target | logits |
|---|---|---|
| `sequence` | `label` [n] | [n, c] |
| `token` | `labels` [n, t] | [n, t, c] |
| `masked` | `labels` [n, t], the tokens that were masked | [n, t, vocabulary] |
| `language` | `input_ids` [n, t]: each is predicted from those before it | [n, t, vocabulary] |

What is padded, or has the target -100, counts nowhere. A padded target's own mask, NAME_mask, goes before `mask`.
Loss is the mean over a sequence's tokens, summed over sequences; perplexity and accuracy are over all tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from dualprune.stages.objectives.base import Batch, Metric, Objective, arguments
from dualprune.stages.objectives.fields import IGNORED, Args, called, field, mean, samples, spread
from dualprune.stages.settings.training import StageSpec

if TYPE_CHECKING:
    from torch import Tensor

TARGETS = {"sequence": "label", "token": "labels", "masked": "labels", "language": "input_ids"}
"""The target of each task."""
LARGEST = 700.0
"""Losses above it are this one in a perplexity, which would be no number else."""


class Tokens(Args):
    """Arguments of `tokens`."""

    task: Literal["sequence", "token", "masked", "language"] = "sequence"
    inputs: list[str] | dict[str, str] = Field(default=["input_ids"], min_length=1)
    target: str = ""
    """Left out, that of the task."""
    mask: str = ""
    """Field that says where there are tokens; left out, the mask of the first of `inputs` (`input_ids_mask`). Without
    it in a batch, everywhere."""
    mask_as: str | None = "attention_mask"
    """The parameter of the network that takes it, 1 and 0; null: the network gets none."""

    @property
    def wanted(self) -> str:
        """The target's field."""
        return self.target or TARGETS[self.task]

    @property
    def masked(self) -> str:
        """The mask's field."""
        first = next(iter(self.inputs.values() if isinstance(self.inputs, dict) else self.inputs))
        return self.mask or f"{first}_mask"


def tokens(spec: StageSpec) -> Objective:
    """The objective as a stage's settings have it. Raises SpecError."""
    args = arguments(Tokens, spec.objective)
    loss = Metric(partial(_loss, args=args), mean, higher=False, unit="")
    accuracy = Metric(partial(_correct, args=args), lambda sums, count: float(100 * sums[0] / sums[1]))
    perplexity = Metric(partial(_surprise, args=args), _perplexity, higher=False, unit="")
    models = args.task in ("masked", "language")
    return Objective(
        call=partial(_called, args=args),
        loss=partial(_loss, args=args),
        good=lambda batch: samples(_target(batch, args) != IGNORED),
        metrics={**({"perplexity": perplexity} if models else {}), "accuracy": accuracy, "loss": loss},
        best="perplexity" if models else "accuracy",
        distil=partial(_distilled, args=args),
        known=partial(_known, args=args),
    )


def _called(network: Callable[..., Any], batch: Batch, args: Tokens) -> Tensor:
    if args.mask_as is None or args.masked not in batch:
        return called(network, batch, args)
    return called(network, batch, args, **{args.mask_as: batch[args.masked].long()})


def _target(batch: Batch, args: Tokens) -> Tensor:
    """What is to be predicted, [n, 1] or [n, t], -100 where nothing is. Of `language` t is one less."""
    target = field(batch, args.wanted, "target")
    if args.task == "sequence":
        return target.reshape(-1, 1)
    mask = batch.get(f"{args.wanted}_mask", batch.get(args.masked))
    if mask is not None:
        target = target.masked_fill(mask == 0, IGNORED)
    return target[:, 1:] if args.task == "language" else target


def _known(batch: Batch, args: Tokens) -> Tensor:
    """Where good samples have tokens, [n, t]; of what is not padded, which are good, [n]."""
    good = (_target(batch, args) != IGNORED).any(1)
    return batch[args.masked].bool() & good[:, None] if args.masked in batch else good


def _predicted(logits: Tensor, args: Tokens) -> Tensor:
    """Logits as [n, c, 1] or [n, c, t], where the target is [n, 1] or [n, t]."""
    if args.task == "sequence":
        return logits.reshape(len(logits), -1, 1)
    return (logits[:, :-1] if args.task == "language" else logits).transpose(1, 2)


def _missed(logits: Tensor, batch: Batch, args: Tokens) -> tuple[Tensor, Tensor]:
    """Cross entropy of each token, 0 where none is, and where there are tokens: [n, t]."""
    from torch.nn import functional as F

    target, logits = _target(batch, args), _predicted(logits, args)
    return F.cross_entropy(logits, target, reduction="none", ignore_index=IGNORED), target != IGNORED


def _loss(logits: Tensor, batch: Batch, args: Tokens) -> Tensor:
    return spread(*_missed(logits, batch, args))


def _surprise(logits: Tensor, batch: Batch, args: Tokens) -> Tensor:
    """Cross entropy of all tokens, and how many there are: [2]."""
    import torch

    missed, known = _missed(logits, batch, args)
    return torch.stack([missed.double().sum(), known.sum().double()])


def _perplexity(sums: Tensor, count: int) -> float:
    return math.exp(min(float(sums[0] / sums[1]), LARGEST))


def _correct(logits: Tensor, batch: Batch, args: Tokens) -> Tensor:
    """How many tokens, or sequences, are right, and how many there are: [2]."""
    import torch

    target, logits = _target(batch, args), _predicted(logits, args)
    return torch.stack([(logits.argmax(1) == target).sum(), (target != IGNORED).sum()])


def _distilled(given: Tensor, wanted: Tensor, batch: Batch, temperature: float, args: Tokens) -> Tensor:
    """T^2 KL(teacher || student) at temperature T: the mean over a sequence's tokens."""
    from torch.nn import functional as F

    known = _target(batch, args) != IGNORED
    wanted, given = (F.log_softmax(_predicted(one, args) / temperature, dim=1) for one in (wanted, given))
    apart = F.kl_div(given, wanted, reduction="none", log_target=True).sum(1)
    return spread(apart, known) * temperature**2
