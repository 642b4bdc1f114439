"""What is taken out of networks: blocks by the loss without them, pixels, units of zeros; and what can't be."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from dualprune.stages.coupling.cut import cut
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.structure import Structure
from dualprune.stages.settings.base import SpecError
from dualprune.stages.settings.sets import AnySet
from dualprune.stages.solver.residual import blocks
from dualprune.stages.solver.shrinking import Before, Inputs, Smaller, alive, fits, smaller


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return MODELS["resnet20"](10).eval()


def given(*shape: int) -> Inputs:
    """One tensor."""
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(0)),), {}


PICTURES = given(2, 3, 32, 32)
PLAIN = [*(f"layer1.{n}" for n in range(3)), *(f"layer{stage}.{n}" for stage in (2, 3) for n in (1, 2))]


def taken(network: nn.Module, inputs: Inputs, loss: Any = None, **settings: Any) -> Smaller:
    """What is taken out, by some settings."""
    sets = [TypeAdapter(AnySet).validate_python(one) for one in settings.get("constraints", [])]
    others = [settings.get(name, default) for name, default in (("multiple", 1), ("remove", 0), ("samples", 7))]
    before = Before(network, inputs, lambda one: cut(one, *inputs), loss, settings.get("lowrank", ()))
    return smaller(before, sets, *others, settings.get("resolution"))


def gone(network: nn.Module) -> set[str]:
    """Blocks that give what they are given."""
    return {path for path in PLAIN if not list(network.get_submodule(path).parameters())}


def test_blocks_are_what_gives_the_shape_that_it_is_given() -> None:
    """Not those that take every second row and column."""
    assert blocks(resnet(), *PICTURES) == sorted(PLAIN)


def test_blocks_go_by_the_loss_without_them() -> None:
    """One after another, on so many samples; a loss that is no number is the worst."""
    asked: list[tuple[frozenset[str], int]] = []

    def loss(network: nn.Module, samples: int) -> float:
        asked.append((frozenset(gone(network)), samples))
        without = gone(network)
        if "layer1.0" in without:
            return math.nan
        return 1.0 - (0.25 if "layer3.2" in without else 0.0) - (0.125 if "layer2.1" in without else 0.0)

    network = resnet()
    before = copy.deepcopy(network.state_dict())
    found = taken(network, PICTURES, loss, remove=2)
    assert found.facts["blocks"] == {"layer3.2": 0.75, "layer2.1": 0.625}
    assert len(asked) == 7 + 6
    assert {samples for _, samples in asked} == {7}
    assert [edit.module for edit in found.edits] == ["layer3.2", "layer2.1"]
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())
    made = Structure(edits=found.edits).apply(resnet())
    assert gone(made) == {"layer3.2", "layer2.1"}
    assert found.facts["weights"][0] - found.facts["weights"][1] == 2 * 64 * 64 * 9 + 2 * 32 * 32 * 9


@pytest.mark.parametrize(
    ("loss", "count", "text"), [(math.inf, 1, "the loss on validation is not finite"), (1.0, 8, "those whose output")]
)
def test_blocks_that_can_not_go(loss: float, count: int, text: str) -> None:
    with pytest.raises(SpecError, match=text) as caught:
        taken(resnet(), PICTURES, lambda network, samples: loss, remove=count)
    assert caught.value.problems[0][0] == ("blocks", "remove")


def test_a_network_of_fixed_size_is_not_brought_to_another() -> None:
    """A ViT's places have embeddings. One that has no pictures, and pictures of that size, are refused too."""
    vit = VisionTransformer(32, 16, 1, 2, 16, 32)
    with pytest.raises(
        SpecError, match=r"can't take pictures of 48 x 48: AssertionError: Wrong image height"
    ) as caught:
        fits(vit, PICTURES, 0, 48)
    assert caught.value.problems[0][0] == ("resolution",)
    with pytest.raises(SpecError, match="of this size already"):
        fits(resnet(), PICTURES, 0, 32)
    with pytest.raises(SpecError, match="given no pictures"):
        fits(nn.Linear(3, 2), given(2, 3), 0, 32)
    fits(resnet(), PICTURES, 7, 24)
    with pytest.raises(
        SpecError, match="8 blocks can't be removed; those whose output is of their input's shape are 7"
    ):
        fits(resnet(), PICTURES, 8, None)


def test_pixels_count_in_multiply_accumulates() -> None:
    found = taken(resnet(), PICTURES, resolution=16)
    before, after = found.facts["macs"]
    assert (before - 640) / (after - 640) == 4
    assert found.facts["difference"] is not None


class Two(nn.Module):
    """Channels that two layers make: units stay while one of them is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 4] to [n, 2]."""
        y: Tensor = self.head(torch.relu(self.one(x) + self.two(x)))
        return y


def test_a_unit_goes_when_all_that_makes_or_all_that_reads_it_is_zero() -> None:
    """What is zero in a part is told. Biases of what goes are lost, which the difference says."""
    torch.manual_seed(0)
    network = Two().eval()
    with torch.no_grad():
        network.one.weight[[0, 1, 2]] = 0.0
        network.two.weight[[0, 3]] = 0.0
        network.head.weight[:, 4] = 0.0
    found = taken(network, given(3, 4))
    assert found.facts["units"] == {"one.weight": [6, 4]}
    assert found.facts["part"] == {"one.weight": 3}
    assert found.facts["difference"] > 1e-3
    with torch.no_grad():
        for layer in (network.one, network.two):
            layer.bias[0] = 0.0
    assert taken(network, given(3, 4)).facts["difference"] < 1e-6
    assert taken(network, given(3, 4), multiple=5).facts["units"] == {"one.weight": [6, 5]}
    with pytest.raises(SpecError, match="2 units are zero, and stay for widths to be multiples of 6"):
        taken(network, given(3, 4), multiple=6)
    with torch.no_grad():
        network.head.weight.fill_(1.0)
        network.two.weight[0] = 1.0
    with pytest.raises(SpecError, match=r"no unit is zero in all that makes it.*in a part of that are 4 of one.weight"):
        taken(network, given(3, 4))


def test_one_unit_of_each_kind_stays() -> None:
    """Of a network that is all zeros too."""
    network = Two().eval()
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.zero_()
    assert taken(network, given(3, 4)).facts["units"] == {"one.weight": [6, 1]}


def test_heads_and_rows_go_together() -> None:
    """Two constraints on an encoder."""
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    there = [
        {"set": "head", "tensors": "*", "keep": 0.5, "coupled": True},
        {"set": "row", "tensors": "linear1.weight", "rate": 3, "coupled": True},
    ]
    found = taken(network, given(2, 5, 16), constraints=there)
    assert sorted(found.facts["units"].values()) == [[4, 2], [24, 8]]
    made = Structure(edits=found.edits).apply(copy.deepcopy(network))
    assert made.linear1.out_features == 8
    assert made(given(3, 7, 16)[0][0]).shape == (3, 7, 16)


@pytest.mark.parametrize(("multiple", "left"), [(4, 1), (8, 2), (6, 3)])
def test_a_head_counts_with_its_width_in_multiples(multiple: int, left: int) -> None:
    """Of four heads, each four wide, one is not zero."""
    torch.manual_seed(0)
    network = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    with torch.no_grad():
        network.self_attn.out_proj.weight[:, 4:] = 0
    assert taken(network, given(2, 5, 16), multiple=multiple).facts["units"]["self_attn.in_proj_weight"] == [4, left]


def test_alive_looks_at_makers_and_readers() -> None:
    from dualprune.stages.coupling.cut import cut

    network = Two().eval()
    (space,) = cut(network, *given(3, 4)).spaces
    with torch.no_grad():
        network.head.weight[:, 1] = 0.0
    assert alive(network, space).tolist() == [True, False, True, True, True, True]


class Layers(nn.Module):
    """Layers of every kind whose weights may be of low rank, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.table = nn.Linear(32, 32), nn.Embedding(32, 32)
        self.wide, self.long = nn.Conv2d(8, 16, 3, padding=1), nn.Conv1d(16, 16, 3, padding=1)
        self.groups, self.lstm = nn.Conv2d(16, 16, 3, groups=2), nn.LSTM(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 8, 8, 8] to [n, 32]."""
        x = self.long(self.wide(x).flatten(2)).view(len(x), 16, 8, 8)
        x, _ = self.lstm(self.groups(x).mean((2, 3)).repeat(1, 2))
        y: Tensor = self.linear(x) + self.table.weight[0]
        return y


class Beside(nn.Module):
    """A stream that a frozen layer adds to, and what is embedded; a frozen layer reads another."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.fixed, self.a = nn.Embedding(9, 6), nn.Linear(4, 6), nn.Linear(4, 6)
        self.b, self.read, self.head = nn.Linear(6, 8, bias=False), nn.Linear(8, 3), nn.Linear(8, 3)
        self.fixed.requires_grad_(False)
        self.read.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x) + self.fixed(x) + self.words((x[:, 0] > 0).long()))
        y: Tensor = self.head(x) + self.read(x)
        return y


def test_what_is_not_trained_makes_and_reads_too() -> None:
    network = Beside().eval()
    (stream, inner) = cut(network, *given(2, 4)).spaces
    with torch.no_grad():
        network.a.weight[:5] = 0
        network.fixed.weight[:4] = 0
        network.words.weight[:, :3] = 0
        network.head.weight[:, :5] = 0
        network.read.weight[:, :4] = 0
    assert alive(network, stream).tolist() == [False] * 3 + [True] * 3
    assert alive(network, inner).tolist() == [False] * 4 + [True] * 4


def test_layers_of_low_rank_become_two_and_what_can_t_stays() -> None:
    """A linear layer and a convolution; not embeddings, recurrent layers, sequences or groups."""
    network = Layers().eval()
    for one in network.parameters():
        if one.ndim > 1:
            one.data = torch.outer(one.data.flatten(1)[:, 0], one.data.flatten(1)[0]).view_as(one)
    names = [name for name, one in network.named_parameters() if one.ndim > 1]
    found = taken(network, given(2, 8, 8, 8), lowrank=names)
    assert found.facts["factorised"] == {"linear": 1, "wide": 1}
    assert found.facts["difference"] < 1e-5
    assert network.linear.weight.shape == (32, 32), "the network that is given stays as it is"
