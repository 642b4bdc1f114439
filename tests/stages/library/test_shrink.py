"""Coupled sets in a loop of a user's own, and networks without what they leave at zero."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dualprune
from dualprune.stages.networks.builtin import MODELS

HALF = dualprune.filter("*", macs=0.5, coupled=True)


class Two(nn.Module):
    """Two inputs, and two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.numbers = nn.Linear(5, 12), nn.Linear(3, 12)
        self.norm, self.head, self.other = nn.BatchNorm1d(12), nn.Linear(12, 2), nn.Linear(12, 1)

    def forward(self, words: Tensor, numbers: Tensor | None = None) -> dict[str, Tensor]:
        """[n, 5] and [n, 3] to [n, 2] and [n, 1]."""
        assert numbers is not None
        both = self.norm(torch.relu(self.words(words) + self.numbers(numbers)))
        return {"head": self.head(both), "other": self.other(both)}


def test_a_loop_with_coupled_sets() -> None:
    """ADMM, projection and retraining; then the network without what is zero gives the same, and trains on."""
    torch.manual_seed(0)
    model = MODELS["digits_cnn"](10)
    x, y = torch.randn(16, 1, 8, 8), torch.randint(0, 10, (16,))
    pruner = dualprune.Pruner(model, [HALF], rho=0.01, inputs=x)
    optimizer = pruner.wrap(torch.optim.Adam(model.parameters(), lr=0.01))

    def train(net: nn.Module, by: torch.optim.Optimizer) -> None:
        for _ in range(3):
            by.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            by.step()

    for _ in range(2):
        train(model, optimizer)
        residual = pruner.update()
        assert residual.total > 0
    kept = pruner.state_dict()
    pruner.load_state_dict(kept)
    pruner.project()
    train(model, optimizer)
    small, structure = dualprune.shrink(model, x)
    assert small.training
    assert next(small.parameters()).requires_grad
    assert torch.allclose(small(x), model(x), atol=1e-5)
    sizes = [sum(p.numel() for p in net.parameters()) for net in (model, small)]
    assert sizes[1] < 0.6 * sizes[0]
    train(small, torch.optim.Adam(small.parameters(), lr=0.01))
    read = dualprune.Structure.model_validate_json(structure.model_dump_json())
    again = read.apply(MODELS["digits_cnn"](10))
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("named", [False, True])
def test_several_inputs_and_outputs(named: bool) -> None:
    """As a tuple, and as a mapping; magnitude pruning at once."""
    torch.manual_seed(0)
    model = Two().eval()
    given: Any = (torch.randn(4, 5), torch.randn(4, 3))
    if named:
        given = dict(zip(("words", "numbers"), given, strict=True))
    pruner = dualprune.Pruner(model, [dualprune.row("*", count=5, coupled=True)], rho=0.1, inputs=given)
    pruner.project()
    small, _ = dualprune.shrink(model, given)
    outputs = [net(**given) if named else net(*given) for net in (model, small)]
    assert small.head.weight.shape == (2, 5)
    for name, wanted in outputs[0].items():
        assert torch.allclose(outputs[1][name], wanted, atol=1e-5)
    wide, _ = dualprune.shrink(model, given, multiple=4)
    assert wide.head.weight.shape == (2, 8)


def test_heads_of_attention() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    dualprune.Pruner(model, [dualprune.head("*", keep=0.5, coupled=True)], rho=0.1, inputs=x).project()
    small, _ = dualprune.shrink(model, x)
    assert small.self_attn.num_heads == 2
    assert torch.allclose(small(x), model(x), atol=1e-5)


def test_what_can_not_be() -> None:
    """Without inputs, with a network that can't be followed, and where nothing is zero."""

    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else x

    model = MODELS["digits_cnn"](10)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(dualprune.SpecError, match="`coupled` sets need `inputs`"):
        dualprune.Pruner(model, [HALF], rho=0.1)
    dualprune.Pruner(model, [dualprune.cardinality("*", rate=2)], rho=0.1)
    with pytest.raises(dualprune.SpecError, match=r"torch\.export can't follow it"):
        dualprune.Pruner(Deciding(), [HALF], rho=0.1, inputs=torch.randn(2, 4))
    with pytest.raises(dualprune.SpecError, match=r"can't be found: torch\.export"):
        dualprune.shrink(Deciding(), torch.randn(2, 4))
    with pytest.raises(dualprune.SpecError, match="nothing would be taken out: no unit is zero"):
        dualprune.shrink(model, torch.randn(2, 1, 8, 8))
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
