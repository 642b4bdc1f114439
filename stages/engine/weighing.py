"""What projections weigh entries by, if not by magnitude alone: the root of a running diagonal, for each of three ways.

    fisher      score |W + U| sqrt(F),    F = d F + (1 - d) g^2      (as OBD, LeCun et al. 1990; Theis et al. 2018)
    snip        score |W + U| G,          G = d G + (1 - d) |g|      (SNIP, Lee et al. 2019)
    activation  score |W + U| sqrt(X),    X the mean square of that input of the layer (Wanda, Sun et al. 2023)

SAFE+ (Lee et al. 2025) names all three. g is the loss's gradient over the whole batch: averaged over ranks and
micro-batches, clipped if the stage clips, and without the penalty's part. With F in the place of the Hessian's
diagonal, setting an entry w to zero costs about F w^2 / 2. SNIP's score is |g w| for the g of one large batch before
training; here it is the mean of that over steps, with the sign of none of them: g itself is near 0 on the mean where
ADMM has got anywhere, and |g| is not. That F and G are too small at first is of no account to an order: they are too
small by the same factor everywhere.

F and G are optimizer state of penalised parameters: sharded, offloaded and saved as the rest is. X is a number for each
input of a layer, and no state of a parameter (stages.engine.inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

DECAY = 0.99
"""How much of itself a diagonal keeps at a step."""


def _squares(found: list[Tensor], grads: list[Tensor]) -> None:
    torch._foreach_mul_(found, DECAY)
    torch._foreach_addcmul_(found, grads, grads, value=1 - DECAY)


def _sizes(found: list[Tensor], grads: list[Tensor]) -> None:
    torch._foreach_mul_(found, DECAY)
    for one, grad in zip(found, grads, strict=True):  # one after the other: sizes take memory
        one.add_(grad.abs(), alpha=1 - DECAY)


@dataclass(frozen=True)
class Way:
    """One of them. What is kept goes by its name: whole tensors of the parameter's shape, none negative."""

    follow: Callable[[list[Tensor], list[Tensor]], None] | None
    """Change what is kept by the gradients of a step; None where it is of layers' inputs."""
    squared: bool
    """Whether what is kept is the diagonal itself, or its root already."""

    def weights(self, kept: Tensor) -> Tensor:
        """What entries are weighed by, in the place of what is kept."""
        return kept.sqrt_() if self.squared else kept


WAYS = {
    "fisher": Way(_squares, squared=True),
    "snip": Way(_sizes, squared=False),
    "activation": Way(None, squared=True),
}
"""By what `weigh` calls them."""


class Weighing:
    """What an optimizer does about it: nothing, unless a `way` of gradients is wanted before its state is made."""

    def __init__(self) -> None:
        self.way: str | None = None
        self.following = False
        """Whether steps change it."""

    @property
    def state(self) -> list[str]:
        """The name of what penalised parameters keep for it, if they do."""
        return [] if self.way is None or WAYS[self.way].follow is None else [self.way]

    def fresh(self, p: Tensor) -> dict[str, Tensor]:
        """The state of a penalised parameter."""
        return {name: torch.zeros_like(p) for name in self.state}

    @torch.no_grad()
    def follow(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Penalised parameters have the gradients of a step."""
        if not self.following or not params:
            return
        grads = [p.grad for p in params if p.grad is not None]
        for name in self.state:
            follow = WAYS[name].follow
            assert follow is not None
            follow([state[p][name] for p in params], grads)
