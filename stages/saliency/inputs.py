"""Which of a batch's fields a network is looked at by, and what it is: a picture, a sequence of letters, or tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.lookups import Lookups
from dualprune.stages.saliency.outputs import checked

Kind = Literal["picture", "sequence", "tokens"]
Network = Callable[..., Any]


@dataclass(frozen=True)
class Input:
    """What stands for one field in a network's gradient: its values, or what its numbers are looked up as."""

    field: str
    kind: Kind
    axis: int
    """Of channels, letters or what a token is looked up as; a map has a number for each place along the other axes."""
    looked_up: bool = False
    table: Tensor | None = None
    """[entries, d] of what is looked up in a table, a row a number."""

    def called(
        self, network: Network, objective: Objective, batch: Batch, given: Tensor | None = None, several: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Scores [n, k] of a batch, and the leaf that they have a gradient by; `given` is put in its place."""
        if not self.looked_up:
            leaf = batch[self.field].detach().clone().requires_grad_() if given is None else given
            return checked(objective.call(network, {**batch, self.field: leaf.clone()}), several), leaf
        with Lookups({self.field: batch[self.field]}, {} if given is None else {self.field: given}) as lookups:
            scores = checked(objective.call(network, batch), several)
        return scores, lookups.found[self.field].leaf

    def places(self, values: Tensor) -> Tensor:
        """Values like the leaf's, added up over channels: [n, h, w] of pictures, [n, t] of sequences."""
        return values.sum(self.axis)

    def letters(self, values: Tensor) -> Tensor:
        """A leaf of letters as [n, t, letters]."""
        return values if self.axis == 2 else values.transpose(1, 2)


def found(network: Network, objective: Objective, batch: Batch, several: bool = False) -> Input:
    """The input of a network by a batch: the first of its fields that scores hang on, and that is of a known kind.

    Raises NotShown where there is none.
    """
    floats = {n: one.detach().clone().requires_grad_() for n, one in batch.items() if one.is_floating_point()}
    whole = {n: one for n, one in batch.items() if not one.is_floating_point() and one.dtype != torch.bool}
    with Lookups(whole) as lookups:
        given = {n: leaf.clone() for n, leaf in floats.items()}
        scores = checked(objective.call(network, {**batch, **given}), several)
    leaves = {**floats, **{name: lookup.leaf for name, lookup in lookups.found.items()}}
    moved = _moved(scores, leaves)
    candidates = []
    for name in batch:
        if name in moved:
            kind, axis = _kind(leaves[name], name in lookups.found)
            if kind is not None:
                lookup = lookups.found.get(name)
                table = None if lookup is None or lookup.table is None else lookup.table.detach()
                return Input(name, kind, axis, lookup is not None, table)
            candidates.append(f"{name} is {' x '.join(map(str, leaves[name].shape[1:]))} a sample")
    raise NotShown(_refused(candidates, whole))


def _moved(scores: Tensor, leaves: Mapping[str, Tensor]) -> set[str]:
    """Names of the leaves that scores have a gradient by."""
    if not scores.requires_grad or not leaves:
        return set()
    gradients = torch.autograd.grad(scores.sum(), list(leaves.values()), allow_unused=True)
    return {name for name, gradient in zip(leaves, gradients, strict=True) if gradient is not None}


def _kind(leaf: Tensor, looked_up: bool) -> tuple[Kind | None, int]:
    """What a leaf is, and the axis of its channels or letters."""
    if looked_up and leaf.ndim == 3:
        return ("sequence" if _letters(leaf, 2) else "tokens"), 2
    if looked_up:
        return None, 0
    if leaf.ndim == 4:
        return "picture", 1
    if leaf.ndim != 3:
        return None, 0
    lettered = max((1, 2), key=lambda axis: _letters(leaf, axis))
    if _letters(leaf, lettered):
        return "sequence", lettered
    return "sequence", 1 if leaf.shape[1] <= leaf.shape[2] else 2


def _letters(leaf: Tensor, axis: int) -> float:
    """At which share of places there is one letter, and none at the others, which are padded; 0 of other numbers."""
    values = leaf.detach()
    sums = values.sum(axis)
    single = bool(((values == 0) | (values == 1)).all()) and bool((sums <= 1).all())
    return float(sums.mean()) if single else 0.0


def _refused(candidates: list[str], whole: Mapping[str, Tensor]) -> str:
    if candidates:
        return (
            f"{'; '.join(candidates)}: maps are of pictures [n, c, h, w], sequences [n, c, t] and tokens [n, t], "
            "and not of tables or volumes"
        )
    text = "no input has a gradient: scores must hang on a picture or sequence of fp32"
    if whole:
        text += f", or on whole numbers ({', '.join(whole)}) that are looked up as they are by F.embedding, F.one_hot "
        text += "or table[numbers]"
    return text
