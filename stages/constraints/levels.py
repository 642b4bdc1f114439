"""Quantisation levels: equidistant, powers of two, ternary, binary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stages.constraints.values import SharedValues

Kind = Literal["equidistant", "power", "ternary", "binary"]


@dataclass(frozen=True)
class Levels(SharedValues):
    """Non-zeros are levels times an interval q of the tensor's own (Ye et al. 2018b, section 4).

    equidistant  {-M/2 .. -1, 1 .. M/2} q with M = 2^bits: 0 is no level, it stands for pruned.
                 q by least squares, from a grid and then by turns with the codes. A heuristic: no worse
                 than the best of the grid, and exact for what lies on levels already.
    power        +-2^e, M/2 consecutive e, the top one the nearest to the largest magnitude. A heuristic in the
                 choice of the top; nearest given it.
    ternary      {-1, 0, 1} q: exact, from the best number of largest magnitudes to keep.
    binary       {-1, 1} q with q the mean magnitude: exact.
    """

    kind: Kind = "equidistant"
    bits: int = 1

    def fit(self, x: Tensor) -> Tensor:
        """The levels for non-zeros x."""
        magnitude = x.abs()
        if self.kind == "binary":
            positive = magnitude.mean().view(1)
        elif self.kind == "ternary":
            ordered = magnitude.sort(descending=True).values
            gains = ordered.cumsum(0).square() / torch.arange(1, len(x) + 1, dtype=x.dtype, device=x.device)
            positive = ordered[: int(gains.argmax()) + 1].mean().view(1)
            return torch.cat([-positive, torch.zeros_like(positive), positive])
        elif self.kind == "power":
            # 2^e is nearest for magnitudes in [3/4, 3/2) of it.
            top = int(torch.log2(magnitude.max() * 4 / 3).floor())
            exponents = torch.arange(top - 2 ** (self.bits - 1) + 1, top + 1, dtype=x.dtype, device=x.device)
            positive = torch.exp2(exponents)
        else:
            half = 2 ** (self.bits - 1)
            positive = _interval(magnitude, half) * torch.arange(1, half + 1, dtype=x.dtype, device=x.device)
        return torch.cat([-positive.flip(0), positive])


def _interval(magnitude: Tensor, half: int) -> Tensor:
    """The interval q for codes 1..half by least squares."""
    # A sample of evenly spaced order statistics finds the neighbourhood; all weights then settle q.
    ordered = magnitude.sort().values
    sample = ordered[torch.linspace(0, len(ordered) - 1, min(len(ordered), 4096), device=ordered.device).long()]

    def codes(values: Tensor, q: Tensor) -> Tensor:
        return (values / q).round().clamp(1, half)

    top = ordered[-1]
    shares = torch.cat([torch.linspace(0.2, 1.5, 66, dtype=top.dtype, device=top.device) / half])
    exact = 1 / torch.arange(1, min(half, 64) + 1, dtype=top.dtype, device=top.device)
    grid = top * torch.cat([shares, exact])
    errors = [(codes(sample, q) * q - sample).square().sum() for q in grid]
    q = grid[int(torch.stack(errors).argmin())]
    code = codes(magnitude, q)
    for _ in range(50):
        q = (code * magnitude).sum() / code.square().sum()
        again = codes(magnitude, q)
        if bool((again == code).all()):
            break
        code = again
    return q
