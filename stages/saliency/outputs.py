"""An objective's outputs as scores of classes: what a network answers, and of which class a map is made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dualprune.stages.objectives.base import Batch
from dualprune.stages.objectives.classify import Classify
from dualprune.stages.objectives.fields import IGNORED
from dualprune.stages.objectives.multilabel import Multilabel
from dualprune.stages.objectives.tokens import Tokens
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.settings.objective import Named


class Reading(NamedTuple):
    """How outputs are read."""

    target: str | None
    """The field of the right answers; None where it is not known."""
    several: bool = False
    """A yes or no of each label, and not one class of all."""

    def answers(self, scores: Tensor) -> Tensor:
        """What a network answers: a class [n], or 1 and 0 of each label [n, k]."""
        return (scores > 0).long() if self.several else scores.argmax(1)

    def right(self, batch: Batch) -> Tensor | None:
        """The right answers as `answers` has them, IGNORED where they are not known; or None."""
        if self.target is None or self.target not in batch:
            return None
        target = batch[self.target].cpu()
        if not self.several:
            return target.reshape(len(target), -1)[:, 0].long()
        target = target.reshape(len(target), -1).float()
        return target.masked_fill(target.isnan(), IGNORED).long()

    def classes(self, scores: Tensor, right: Tensor | None) -> Tensor:
        """The class [n] that each sample is looked at for: the one that is answered; of labels, the strongest known."""
        if self.several and right is not None:
            known = right != IGNORED
            scores = scores.masked_fill(~known & known.any(1, keepdim=True), -torch.inf)
        return scores.argmax(1)

    def same(self, some: Tensor, others: Tensor, right: Tensor | None) -> Tensor:
        """Of which samples two networks say the same, bool [n]; of labels, of those that are known."""
        if not self.several:
            return some == others
        equal = some == others
        return (equal if right is None else equal | (right == IGNORED)).all(1)


def reading(aim: Named) -> Reading:
    """How an objective's outputs are read. Raises NotShown for one that has no classes.

    One of a user's own is taken for a classifier whose outputs are scores [n, classes].
    """
    if ":" in aim.name:
        return Reading(None)
    if aim.name == "classify":
        return Reading(Classify.model_validate(aim.args).target)
    if aim.name == "multilabel":
        return Reading(Multilabel.model_validate(aim.args).target, several=True)
    if aim.name == "tokens":
        args = Tokens.model_validate(aim.args)
        if args.task == "sequence":
            return Reading(args.wanted)
        text = f"tokens with task: {args.task} answers for each token, and a map is of one answer for all of an input"
        raise NotShown(f"the objective {text}; of `tokens`, task: sequence can be shown")
    raise NotShown(
        f"the objective {aim.name} gives numbers and no classes: there is no class whose score a map could be of; "
        "what can be shown are classify, multilabel, tokens with task: sequence, and your own with scores [n, classes]"
    )


def checked(scores: object, several: bool) -> Tensor:
    """Outputs that are scores, fp32 [n, k]. Raises NotShown for others."""
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        raise NotShown(f"the objective's call gives a {type(scores).__name__}, and scores [n, classes] are needed")
    if several and scores.ndim == 1:
        scores = scores[:, None]
    if scores.ndim != 2 or scores.shape[1] < (1 if several else 2):
        shape = " x ".join(map(str, scores.shape[1:])) or "one number"
        raise NotShown(f"the objective's call gives {shape} a sample, and scores of two classes or more are needed")
    return scores.float()
