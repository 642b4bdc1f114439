"""Stages of networks that tests of several kinds train."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from dualprune.stages.networks.builtin import MODELS
from tests.stages.conftest import MakeTask
from tests.stages.training.test_shrink import Blocks


class Wasteful(nn.Module):
    """Two convolutions of the same size: one sees the picture, the other nothing but zeros."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.needed, self.waste = (nn.Conv2d(1, 16, 3, stride=2, padding=1) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(256, classes) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] to [n, classes]."""
        y: Tensor = self.heads[0](self.needed(x).relu().flatten(1))
        return y + self.heads[1](self.waste(0 * x).relu().flatten(1))


@pytest.fixture
def stage(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> MakeTask:
    """Stages of `digits_cnn`, `blocks` or `wasteful`."""
    monkeypatch.setitem(MODELS, "blocks", Blocks)
    monkeypatch.setitem(MODELS, "wasteful", Wasteful)

    def make(*args: Any, model: str = "digits_cnn", **settings: Any) -> Any:
        return make_task(*args, model=model, **settings)

    return make
