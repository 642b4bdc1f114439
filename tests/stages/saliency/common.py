"""Objectives and small networks whose maps are known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dualprune.stages.kinds.train import TrainSpec
from dualprune.stages.objectives.base import Objective
from dualprune.stages.objectives.table import objective
from dualprune.stages.settings.objective import Named
from dualprune.stages.settings.training import Model

MOTIF = (0, 1, 2, 3, 3)
"""ACGTT."""


def aimed(name: str = "classify", classes: int = 3, inputs: Sequence[str] = ("x",), **args: object) -> Objective:
    """A line of the table of objectives."""
    aim = Named.model_validate({"name": name, "args": {"inputs": list(inputs), **args}})
    return objective(TrainSpec.model_construct(model=Model(name="any", classes=classes), objective=aim))


def linear(inputs: int, classes: int = 3) -> nn.Module:
    """Scores that are linear in their input."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes)).eval()


class Finder(nn.Module):
    """Scores of "there is no motif" (0) and "there is" (how many of `MOTIF`'s letters match at best, above three)."""

    def __init__(self, letters: bool = True) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(4, 1, len(MOTIF), bias=False)
        self.letters = letters
        with torch.no_grad():
            self.convolution.weight.copy_(F.one_hot(torch.tensor(MOTIF), 4).float().T[None])

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of bases [n, t], or letters [n, 4, t], to [n, 2]."""
        x = F.one_hot(x, 4).float().transpose(1, 2) if self.letters else x
        found = F.relu(self.convolution(x) - 3).amax(2)
        return torch.cat([torch.zeros_like(found), found], 1)


class Reader(nn.Module):
    """An LSTM over tokens."""

    def __init__(self, tokens: int = 7, fixed: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(tokens, 5)
        self.lstm = nn.LSTM(5, 6, batch_first=True, bidirectional=True)
        self.fixed = fixed
        self.head = nn.Linear(12 * (fixed or 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t] to [n, 3]; of a `fixed` length alone, if there is one."""
        steps = self.lstm(self.table(x))[0]
        return self.head(steps.flatten(1) if self.fixed else steps.amax(1))


def sequences(count: int = 6, length: int = 20, seed: int = 0) -> tuple[Tensor, list[int]]:
    """Numbers of bases [n, t] with the motif planted in each, and where it begins. No other place has four of it."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.full((count, length), 2)  # G, of which the motif has one
    places = torch.randint(0, length - len(MOTIF), (count,), generator=generator).tolist()
    for row, place in enumerate(places):
        found[row, place : place + len(MOTIF)] = torch.tensor(MOTIF)
    return found, places
