"""The input of a class: its score goes up, and it holds what the network looks for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dualprune.stages.objectives.base import Batch, Objective
from dualprune.stages.saliency.errors import NotShown
from dualprune.stages.saliency.inputs import found
from dualprune.stages.saliency.optimal import DECAY, Optimal, blurred, optimal
from tests.stages.saliency.common import MOTIF, Finder, Reader, aimed, linear, sequences


def made(network: nn.Module, objective: Objective, batch: Batch, label: int, steps: int = 100) -> Optimal:
    """Of a network's own input."""
    return optimal(network, objective, batch, found(network, objective, batch), label, steps)


@pytest.mark.parametrize("letters", [True, False])
def test_a_motif_is_found(letters: bool) -> None:
    """Of noise: the weight matrix has the motif somewhere, and almost nothing besides it."""
    bases, _ = sequences()
    batch = {"x": bases if letters else F.one_hot(bases, 4).float().transpose(1, 2), "label": torch.ones(6).long()}
    result = made(Finder(letters), aimed(classes=2), batch, 1, steps=300)
    assert result.score > result.start + 1
    weights = result.weights()
    assert weights.shape == (20, 4)
    assert torch.allclose(weights.sum(1), torch.ones(20))
    best = weights.argmax(1).tolist()
    places = [n for n in range(16) if tuple(best[n : n + 5]) == MOTIF]
    assert len(places) == 1
    strength = result.input.clamp(min=0).amax(1)
    inside = strength[places[0] : places[0] + 5].sum()
    assert float(inside / strength.sum()) > 0.9


def test_a_picture_goes_where_the_weights_point() -> None:
    """Of linear scores the best picture is weights / (2 decay); ascent goes there."""
    network, objective = linear(3 * 6 * 6), aimed(inputs=["image"])
    batch = {"image": torch.randn(2, 3, 6, 6), "label": torch.zeros(2).long()}
    result = made(network, objective, batch, 2, steps=200)
    assert result.input.shape == (3, 6, 6)
    assert result.score > result.start + 1
    row = network[1].weight[2].view(3, 6, 6) / (2 * DECAY["picture"])  # type: ignore[index, union-attr]
    assert float(F.cosine_similarity(result.input.ravel(), row.detach().ravel(), dim=0)) > 0.7
    again = made(network, objective, batch, 2, steps=200)
    assert torch.equal(result.input, again.input)


def test_tokens_are_weighed() -> None:
    network, objective = Reader().eval(), aimed()
    batch = {"x": torch.randint(0, 7, (2, 9)), "label": torch.zeros(2).long()}
    for label in range(3):
        result = made(network, objective, batch, label)
        assert result.input.shape == (9, 7)
        assert result.score > result.start


def test_more_tokens_than_there_is_room_for() -> None:
    network, objective = Reader(tokens=1 << 21).eval(), aimed()
    batch = {"x": torch.randint(0, 7, (2, 9)), "label": torch.zeros(2).long()}
    with pytest.raises(NotShown, match="of 2,097,152 tokens at 9 places"):
        made(network, objective, batch, 0)


def test_blurring_keeps_what_is_even() -> None:
    pictures = torch.full((1, 2, 5, 5), 3.0)
    assert torch.allclose(blurred(pictures), pictures, atol=1e-5)
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 1
    after = blurred(dot)
    assert float(after.sum()) == pytest.approx(1, abs=1e-5)
    assert 0.5 < float(after[0, 0, 2, 2]) < 1
    assert torch.equal(after, after.transpose(2, 3))
