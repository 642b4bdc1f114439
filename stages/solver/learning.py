"""Scores and thresholds of units as they are learned: straight-through gradients, a budget's penalty, AdamW."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dualprune.stages.engine.engine import Engine
from dualprune.stages.engine.ranks import summed
from dualprune.stages.engine.veil import veil
from dualprune.stages.networks.parameters import Parameters
from dualprune.stages.solver import scoring
from dualprune.stages.solver.scoring import Along, Scored, Tiled

OPEN = 10.0
"""Thresholds as they begin: about all units stay."""
NEAR, HELD, LEAST = 3e-4, 10.0, 50.0
"""Of the penalty's weight: it is 10 where the penalty is below 3e-4, and 50 at least elsewhere."""


def penalty(rest: Tensor, budget: float, weight: float) -> Tensor:
    """max(0, rest - budget)^2 times its adaptive weight, which has no gradient (as in MLPruning's code)."""
    over = (rest - budget).clamp(min=0).square()
    now = float(over.detach())
    factor = max(weight * now / (1 - budget) ** 2, LEAST) if now >= NEAR else HELD
    return factor * over


class Learned:
    """A score for each unit and a threshold for each group, with the masks that they come to.

    The same on all ranks, in the host's memory; masks are on the device, where they get their gradients.
    """

    def __init__(self, of: Scored, lr: float, device: torch.device) -> None:
        self.of = of
        self.units = [group.size for group in of.groups]
        self.numbers = torch.zeros(sum(self.units) + len(self.units))
        self.numbers[sum(self.units) :] = OPEN
        self.optimizer = torch.optim.AdamW([self.numbers], lr=lr, weight_decay=0.0)
        self.masks = [torch.ones(count, device=device, requires_grad=True) for count in self.units]
        self._choose()

    @property
    def thresholds(self) -> Tensor:
        """Of the groups: fp32 [groups]."""
        return self.numbers[sum(self.units) :]

    def kept(self, counts: list[int]) -> list[Tensor]:
        """Which units stay of each group, where so many do: bool [units]."""
        return self.of.kept(self.numbers[: sum(self.units)].split(self.units), counts)

    @torch.no_grad()
    def _choose(self) -> None:
        for mask, kept in zip(self.masks, self.kept(self.of.counts(self.thresholds)), strict=True):
            mask.copy_(kept)

    def show(self, engine: Engine) -> None:
        """Let an engine's network compute with what stays."""
        over: dict[str, list[tuple[Along | Tiled, Tensor]]] = {}
        for group, mask in zip(self.of.groups, self.masks, strict=True):
            for one in group.laid:
                over.setdefault(one.name, []).append((one, mask))
        factors: dict[str, Callable[[], Tensor]] = {name: partial(_factor, laid) for name, laid in over.items()}
        veil(engine.module, factors)

    def close(self, engine: Engine, counts: list[int], shapes: Parameters) -> None:
        """Close for good all but so many units of each group, and show all that is left. On all ranks together."""
        veil(engine.module, {})
        scoring.close(engine, self.of.groups, self.kept(counts), shapes)

    def step(self, world: int, budget: float, weight: float) -> None:
        """Move scores and thresholds, by the gradients that the masks got since the last step and the penalty's, and
        choose anew what stays. On all ranks together.

        The gradient of a unit's factor is its score's; summed over units that stay, it is the threshold's.
        """
        slopes = torch.cat([torch.zeros_like(mask) if mask.grad is None else mask.grad for mask in self.masks])
        slopes = (summed(slopes) / world).cpu()
        kept = torch.cat([mask.detach().cpu() for mask in self.masks])
        sums = [one.sum() for one in (slopes * kept).split(self.units)]
        thresholds = self.thresholds.double().requires_grad_()
        penalty(self.of.rest(self.of.shares(thresholds)), budget, weight).backward()
        assert thresholds.grad is not None
        self.numbers.grad = torch.cat([slopes, torch.stack(sums) + thresholds.grad.float()])
        self.optimizer.step()
        for mask in self.masks:
            mask.grad = None
        self._choose()

    def said(self) -> dict[str, Any]:
        """All numbers, as JSON."""
        state = self.optimizer.state[self.numbers]
        moments = {name: _text(state[name]) for name in ("exp_avg", "exp_avg_sq")} if state else {}
        return {"numbers": _text(self.numbers), "steps": float(state["step"]) if state else 0.0, **moments}

    def restore(self, said: dict[str, Any]) -> None:
        """Put back what `said` gave."""
        self.numbers.copy_(_tensor(said["numbers"]))
        if said["steps"]:
            moments = {name: _tensor(said[name]) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[self.numbers] = {"step": torch.tensor(said["steps"]), **moments}
        self._choose()


def _factor(laid: list[tuple[Along | Tiled, Tensor]]) -> Tensor:
    """What a tensor is times."""
    (first, mask), *more = laid
    found = first.factor(mask)
    for one, mask in more:
        found = found * one.factor(mask)
    return found


def _text(values: Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def _tensor(text: str) -> Tensor:
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32))
