"""A loop of a user's own, for tests: a small network trained on batches that their number alone decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dualprune.stages.library.pruner import Pruner

Make = Callable[[Any], torch.optim.Optimizer]


def network(seed: int = 0) -> nn.Module:
    """Linear layers of uneven sizes, with an embedding-like matrix that no constraint need name."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(7, 13), nn.Tanh(), nn.Linear(13, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(number: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
    """A rank's share of the twelve samples of a step."""
    generator = torch.Generator().manual_seed(number)
    x, y = torch.randn(12, 7, generator=generator), torch.randint(0, 3, (12,), generator=generator)
    return x[rank::world], y[rank::world]


def train(model: nn.Module, optimizer: Any, steps: range, rank: int = 0, world: int = 1) -> None:
    """Optimizer steps by their numbers."""
    for number in steps:
        x, y = batch(number, rank, world)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def prune(model: nn.Module, pruner: Pruner, optimizer: Any, steps: range, rank: int = 0, world: int = 1) -> None:
    """Three updates, after every five steps; the projection with the last; then retraining."""
    for number in steps:
        train(model, optimizer, range(number, number + 1), rank, world)
        if pruner.phase == "admm" and number % 5 == 4:
            pruner.update()
            with torch.no_grad():
                model(batch(number, rank, world)[0])  # a forward without a backward, as validation is
            if pruner.updates == 3:
                pruner.project()
