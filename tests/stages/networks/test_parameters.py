"""What parameters are: the layers that hold them, tied ones once, and which of them can be constrained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.networks.parameters import parameters, tied, weights


class Tied(nn.Module):
    """An embedding whose weight is the output layer's too, a table of integers, and a buffer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.lstm = nn.LSTM(4, 6, proj_size=4, bidirectional=True)
        self.cell = nn.GRUCell(8, 4)
        self.bag = nn.EmbeddingBag(3, 4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embed.weight
        self.table_weight = nn.Parameter(torch.arange(12).view(3, 4), requires_grad=False)
        self.register_buffer("scale", torch.ones(3))
        self.norm = nn.BatchNorm1d(4)
        self.norm.running_mean = self.get_buffer("scale")

    def forward(self, x: Tensor) -> Tensor:
        """Not called."""
        raise NotImplementedError


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tied_parameters_are_one_with_all_their_names_and_layers(device: str) -> None:
    with torch.device(device):
        network = Tied()
    found = parameters(network)
    assert list(found) == [name for name, _ in network.named_parameters()]
    shared = found["embed.weight"]
    assert shared.names == ("embed.weight", "head.weight")
    assert shared.types == (("Embedding",), ("Linear",))
    assert shared.layer == "Embedding and Linear"
    assert "head.weight" not in found
    assert tied(network) == {"head.weight": "embed.weight", "norm.running_mean": "scale"}


def test_weights_are_floating_point_and_named_so() -> None:
    """Recurrent ones among them; integers, biases and normalisation are not."""
    network = Tied()
    ends = ("", "_reverse")
    recurrent = [f"lstm.weight_{of}_l0{end}" for end in ends for of in ("ih", "hh", "hr")]
    assert set(weights(parameters(network))) == {
        *("embed.weight", "bag.weight", "cell.weight_ih", "cell.weight_hh"),
        *recurrent,
    }
    assert not parameters(network)["table_weight"].constrainable
    assert parameters(network.half())["embed.weight"].constrainable


def test_types_are_those_that_a_layer_is_derived_from() -> None:
    class Mine(nn.Conv2d):
        """A convolution of one's own."""

    class Own(nn.Module):
        """A layer with a weight of its own."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    found = parameters(nn.Sequential(Mine(1, 2, 3), Own(), nn.MultiheadAttention(4, 2)))
    assert found["0.weight"].types == (("Mine", "Conv2d", "_ConvNd"),)
    assert found["0.weight"].of_types(["Conv2d"])
    assert found["1.weight"].types == (("Own",),)
    assert found["2.in_proj_weight"].layer == "MultiheadAttention"
    assert found["2.out_proj.weight"].of_types(["Linear"])
    assert not any(one.of_types(["Module", "object"]) for one in found.values())


def test_a_module_that_is_used_twice_is_one() -> None:
    layer = nn.Linear(2, 2)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    assert list(parameters(network)) == ["0.weight", "0.bias"]
    assert parameters(network)["0.weight"].types == (("Linear",),)
    assert tied(network) == {"2.weight": "0.weight", "2.bias": "0.bias"}


def test_a_network_that_is_one_layer_has_names_too() -> None:
    assert list(weights(parameters(nn.Linear(2, 3)))) == ["weight"]
