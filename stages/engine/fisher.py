"""A running diagonal of the empirical Fisher matrix, as optimizer state: sharded, offloaded and saved as the rest is.

    F = d F + (1 - d) g^2     at each step, from F = 0, with g the loss's gradient over the whole batch

g is averaged over ranks and micro-batches, clipped if the stage clips, and without the penalty's part. With F in the
place of the Hessian's diagonal, setting an entry w to zero costs about F w^2 / 2 (LeCun et al. 1990, OBD; Theis et al.
2018). That F is too small at first is of no account to an order: it is too small by the same factor everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FISHER = "fisher"
"""The state's name; penalised parameters have it where projections are weighed by it."""
DECAY = 0.99
"""How much of itself it keeps at a step."""


class Fisher:
    """What an optimizer does about it: nothing, unless `wanted` before its state is made."""

    def __init__(self) -> None:
        self.wanted = False
        self.following = False
        """Whether steps change it."""

    def fresh(self, p: Tensor) -> dict[str, Tensor]:
        """The state of a penalised parameter."""
        return {FISHER: torch.zeros_like(p)} if self.wanted else {}

    @torch.no_grad()
    def follow(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Penalised parameters have the gradients of a step."""
        if not self.following or not params:
            return
        grads = [p.grad for p in params if p.grad is not None]
        found = [state[p][FISHER] for p in params]
        torch._foreach_mul_(found, DECAY)
        torch._foreach_addcmul_(found, grads, grads, value=1 - DECAY)
