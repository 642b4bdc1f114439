"""Gradients of other points than the one that is stepped from: sharpness-aware steps, and those of projected weights.

    g1 = grad f(W),   e = r T^2 g1 / |T g1|,   T = 1, or adaptive |W|       (Foret et al. 2021; Kwon et al. 2021)
    g2 = grad f(W + e), over the same batch: what is stepped by, from W
    g3 = grad f(Proj(W)), with SG added to g2                                (SAFE+SG, Lee et al. 2025)

Each of these gradients is that of the whole batch: of all ranks and micro-batches, in DeepSpeed's own way. So there is
one e, the same on any number of ranks, and all ZeRO stages are right. (Foret et al. let each accelerator have an e of
its own, m-SAM, which saves the first sum over ranks and makes results depend on their number; under ZeRO 3 there are no
weights of a rank's own to be moved.) One norm is over all parameters, biases among them; frozen entries don't move.

A pass ends as a step does, but that the optimizer stands still: what DeepSpeed hands to all ranks are the weights that
were put in its place, and it forgets the gradients. So nothing is accumulated over two backward passes of different
weights, and clipping is of the gradient that is stepped by, g2 + g3, alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dualprune.stages.engine.state import masks
from dualprune.stages.engine.zero import Share

if TYPE_CHECKING:
    from dualprune.stages.engine.proximal import ProximalOptimizer


class Passes:
    """Where an optimizer's parameters were before they were put elsewhere, and gradients that its step is to add."""

    def __init__(self, optimizer: ProximalOptimizer) -> None:
        self._optimizer = optimizer
        self._origins: dict[Tensor, Tensor] = {}
        self._kept: dict[Tensor, list[Tensor]] = {}

    @property
    def some(self) -> bool:
        """Whether the next step has anything to put back or to add."""
        return bool(self._origins or self._kept)

    @torch.no_grad()
    def leave(self, params: list[Tensor]) -> None:
        """Note where parameters are: they are about to be put elsewhere."""
        self._origins = {p: p.detach().clone() for p in params}

    @torch.no_grad()
    def back(self) -> None:
        """Put them back."""
        for p, origin in self._origins.items():
            p.copy_(origin)
        self._origins = {}

    @torch.no_grad()
    def climb(self, shares: list[Share], radius: float, adaptive: bool, over: Callable[[Tensor], Tensor]) -> None:
        """Put parameters where the loss is higher, `radius` away; `over` adds up what is of one rank, fp64 []."""
        self.leave([p for p, _ in shares])
        parts = [part for share in shares for part in self._parts(*share)]
        norms = [torch.linalg.vector_norm(_scaled(w, g, mask, adaptive), dtype=torch.float64) for w, g, mask in parts]
        norm = over(torch.stack(norms).square().sum()).sqrt()
        for w, g, mask in parts:
            step = _scaled(w, g, mask, adaptive)
            w += (step * w.abs() if adaptive else step) * (radius / (norm + 1e-12)).to(w)

    @torch.no_grad()
    def keep(self, shares: list[Share]) -> None:
        """Note gradients for the next step to add."""
        self._kept = {p: [grad.clone() for grad in grads] for p, grads in shares}

    @torch.no_grad()
    def add(self, shares: list[Share]) -> None:
        """Add what was noted."""
        for p, grads in shares:
            if p in self._kept:
                torch._foreach_add_(grads, self._kept[p])
        self._kept = {}

    def _parts(self, p: Tensor, grads: list[Tensor]) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """A flat tensor cut as its gradient is, with each piece's gradient, and its mask if one is in force."""
        marks = self._optimizer.state[p].get("marks") if self._optimizer.masking else None
        mask = None if marks is None else masks([marks])[0]
        if len(grads) == 1 and grads[0].shape == p.shape:
            yield p, grads[0], mask
            return
        at = 0
        for grad in grads:
            place = slice(at, at := at + grad.numel())
            yield p[place].view(grad.shape), grad, None if mask is None else mask[place].view(grad.shape)


def _scaled(w: Tensor, grad: Tensor, mask: Tensor | None, adaptive: bool) -> Tensor:
    """T g, with nothing of frozen entries."""
    found = grad if mask is None else grad * (mask != 0)
    return found * w.abs() if adaptive else found
