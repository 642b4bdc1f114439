"""Veiled parameters: what computes sees products, what owns parameters sees these."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dualprune.stages.engine.veil import veil


def test_a_veiled_network_computes_with_zeros_and_keeps_its_weights() -> None:
    """The same outputs as with weights that are zero there, and gradients that are; lifted, as before."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.randn(5, 4)
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    factor = torch.tensor([[1.0, 0.0, 1.0]])
    before = network(x)
    veil(network, {"2.weight": factor})
    out = network(x)
    assert torch.equal(out, nn.functional.linear(network[1](network[0](x)), kept["2.weight"] * factor, kept["2.bias"]))
    out.sum().backward()
    weight = dict(network.named_parameters())["2.weight"]
    assert weight.grad is not None
    assert not weight.grad[:, 1].any()
    assert weight.grad[:, 0].all()
    assert not dict(network.named_parameters())["0.weight"].grad[1].any()  # type: ignore[index]
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert isinstance(network[2], nn.Linear)
    veil(network, {"0.bias": torch.zeros(())})
    assert torch.equal(network[0](x), x @ kept["0.weight"].T)
    veil(network, {})
    assert torch.equal(network(x), before)
    assert all(type(module) in (nn.Sequential, nn.Linear, nn.ReLU) for module in network.modules())


def test_tied_parameters_are_veiled_wherever_they_are() -> None:
    network = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    network[1].weight = network[0].weight
    veil(network, {"0.weight": torch.zeros(3, 1)})
    assert not any(module(torch.ones(1, 3)).any() for module in network)


def test_layers_within_layers_are_veiled_too() -> None:
    """Attention reads the weights of a layer that it never calls."""
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True).eval(), torch.randn(2, 3, 4)
    for grad in (True, False):  # torch has another way for each
        with torch.set_grad_enabled(grad):
            veil(attention, {"out_proj.weight": torch.zeros(())})
            assert torch.allclose(attention(x, x, x)[0], attention.out_proj.bias.expand(2, 3, 4))
            veil(attention, {})
            assert attention(x, x, x)[0].std() > 0.01


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(KeyError, match="nosuch"):
        veil(nn.Linear(2, 2), {"nosuch": torch.zeros(())})
