"""Averages of the weights over steps, as optimizer state: sharded, offloaded and saved as the rest of it is.

    A = d A + (1 - d) W     after each step, and A = W before the first one

(Polyak and Juditsky 1992; with an exponential window as in Izmailov et al. 2018, SWA, whose weights are those of a
constant rate.) What is the same at all steps, such as zeros of what was pruned, is the same in the average, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

AVERAGE = "average"
"""The state's name; parameters have it where weights are ever averaged."""


class Averages:
    """What an optimizer does about averages: nothing, unless `wanted` before its state is made."""

    def __init__(self) -> None:
        self.wanted = False
        self.decay: float | None = None
        """How much of itself the average keeps at a step; None while it stays as it is."""

    def prime(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Make the state of parameters."""
        if self.wanted:
            for p in params:
                state[p][AVERAGE] = torch.zeros_like(p)

    @torch.no_grad()
    def begin(self, state: Mapping[Tensor, dict[str, Any]]) -> None:
        """The average is what the weights are."""
        for p, own in state.items():
            own[AVERAGE].copy_(p)

    @torch.no_grad()
    def follow(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Parameters were stepped."""
        if self.decay is not None and params:
            torch._foreach_lerp_([state[p][AVERAGE] for p in params], list(params), 1 - self.decay)
