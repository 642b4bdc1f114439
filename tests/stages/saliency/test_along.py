"""Scores along a sequence: those of its beginnings and of its ends."""

from __future__ import annotations

import torch
from torch import nn

from dualprune.stages.saliency.along import MOST, Along, along
from tests.stages.saliency.common import Finder, Reader, aimed


def test_parts_of_a_sequence() -> None:
    """As the network says when it is called with a part of it."""
    network = Reader().eval()
    tokens = torch.randint(0, 7, (3, 9), generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([0, 2, 1])
    read = along(network, aimed(), {"x": tokens, "label": classes}, classes)
    assert isinstance(read, Along)
    assert (read.steps, read.all) == (tuple(range(1, 10)), 9)
    for place in range(9):
        for part, found in ((tokens[:, : place + 1], read.forward), (tokens[:, place:], read.backward)):
            wanted = network(part).gather(1, classes[:, None])[:, 0]
            assert torch.allclose(found[:, place], wanted, atol=1e-6)
    assert torch.equal(read.forward[:, -1], read.backward[:, 0])
    assert not network.lstm._forward_pre_hooks


def test_a_long_sequence_is_told_at_some_steps() -> None:
    tokens = torch.randint(0, 7, (1, 300))
    read = along(Reader().eval(), aimed(), {"x": tokens}, torch.tensor([0]))
    assert isinstance(read, Along)
    assert len(read.steps) == MOST
    assert (read.steps[0], read.steps[-1], read.all) == (1, 300, 300)


def test_networks_without_such_scores() -> None:
    tokens = torch.randint(0, 4, (2, 9))
    assert along(Finder(), aimed(classes=2), {"x": tokens}, torch.tensor([0, 1])) is None
    network = Reader(fixed=9).eval()
    said = along(network, aimed(), {"x": tokens}, torch.tensor([0, 1]))
    assert isinstance(said, str)
    assert "can't be called with a part of its steps" in said
    assert not network.lstm._forward_pre_hooks


def test_steps_before_samples() -> None:
    """A layer that has the steps first."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.gru, self.head = nn.GRU(4, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.gru(x.permute(2, 0, 1))[1][0])

    network, x = Steps().eval(), torch.randn(2, 4, 7)
    read = along(network, aimed(), {"x": x}, torch.tensor([0, 1]))
    assert isinstance(read, Along)
    assert read.all == 7
    assert torch.allclose(read.forward[1, 2], network(x[:, :, :3])[1, 1], atol=1e-6)
