"""Closed units and blocks: what is left to compute, against networks that were cut, and which are closed first."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.coupling.cut import cut, macs
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.edits import EDITS, Remove
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.sets import Pattern, every
from dualprune.stages.solver.closing import Closing, Next, closing
from dualprune.stages.solver.coupled import shares

INPUTS = {"digits_cnn": (2, 1, 8, 8), "resnet20": (2, 3, 32, 32), "mobilenet_v2": (2, 3, 32, 32)}


def whole(network: nn.Module, shape: tuple[int, ...]) -> Closing:
    """A network in which nothing is closed."""
    there, args = parameters(network), (torch.zeros(shape),)
    return closing(network, args, {}, shares(every(Pattern(tensors="*")), cut(network, args, {}), there), there)


@pytest.mark.parametrize("name", INPUTS)
def test_what_is_left_is_what_the_cut_network_computes(name: str) -> None:
    """To the last multiplication, with units of all spaces closed at random."""
    network = MODELS[name](10).eval()
    args = (torch.zeros(INPUTS[name]),)
    found, there = whole(network, INPUTS[name]), cut(network, args, {})
    assert found.whole == there.macs({})
    assert found.rest() == 1.0
    draw = np.random.default_rng(0)
    for number, closed in found.gone.items():
        closed[draw.permutation(len(closed))[: len(closed) // 3]] = True
        assert found.spaces[number].name == there.spaces[number].name
    left = there.macs({number: ~closed for number, closed in found.gone.items()})
    assert found.rest() * found.whole == pytest.approx(left, rel=1e-9)


def test_weights_may_be_what_is_saved() -> None:
    """As many as the cut network has less; biases and normalisation count nowhere."""
    network = MODELS["resnet20"](10).eval()
    args, there = (torch.zeros(INPUTS["resnet20"]),), parameters(network)
    parts = cut(network, args, {})
    found = closing(network, args, {}, shares(every(Pattern(tensors="*")), parts, there), there, "weights")
    assert found.whole == sum(one.numel() for one in network.parameters() if one.ndim > 1)
    for closed in found.gone.values():
        closed[:5] = True
    for edit in parts.edits({number: ~closed for number, closed in found.gone.items()}):
        EDITS[edit.edit].apply(edit, network)
    left = sum(one.numel() for one in network.parameters() if one.ndim > 1)
    assert found.rest() * found.whole == pytest.approx(left)


def test_prices_are_what_closing_one_more_saves() -> None:
    """Of units and of blocks, relative to the mean over units; some are closed already."""
    found = whole(MODELS["resnet20"](10).eval(), INPUTS["resnet20"])
    for closed in found.gone.values():
        closed[:3] = True
    prices, before, saved = found.prices(), found.rest(), {}
    for key in prices:
        trial = copy.deepcopy(found)
        assert len(trial.close([Next(0.0, key) if isinstance(key, str) else Next(0.0, "", key, 7)])) == 1
        saved[key] = (before - trial.rest()) * found.whole
    units = {number: int((~closed).sum()) for number, closed in found.gone.items()}
    mean = sum(saved[number] * count for number, count in units.items()) / sum(units.values())
    assert prices == pytest.approx({key: value / mean for key, value in saved.items()}, rel=1e-6)


def test_blocks_are_those_that_pass_on_what_they_are_given() -> None:
    """And without them, the network computes what is left."""
    network = MODELS["resnet20"](10).eval()
    found = whole(network, INPUTS["resnet20"])
    same = ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
    assert found.blocks == {path: [f"{path}.bn2.weight", f"{path}.bn2.bias"] for path in same}
    found.close([Next(0.0, "layer1.1"), Next(0.0, "layer3.2")])
    for path in found.shut:
        EDITS["remove"].apply(Remove(module=path), network)
    assert found.rest() * found.whole == pytest.approx(macs(network, (torch.zeros(1, 3, 32, 32),), {}))
    inner = next(number for number, space in found.spaces.items() if space.name == "layer1.1.conv1.weight")
    assert found.gone[inner].all()


class Rows(nn.Module):
    """Two layers whose outputs are of their input's shape, without a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.body = nn.Sequential(*(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)) for _ in range(2)))
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, h, w] to the same."""
        y: Tensor = self.head(self.body(self.stem(x)))
        return y


def test_what_has_no_shortcut_is_no_block() -> None:
    assert whole(Rows(), (2, 1, 3, 3)).blocks == {}


def test_the_weakest_are_closed_and_no_more_than_needed() -> None:
    """In their order, till the rest fits; the last of a kind stays."""
    found = whole(MODELS["digits_cnn"](10).eval(), INPUTS["digits_cnn"])
    draw = np.random.default_rng(1)
    waiting = found.open({number: draw.random(len(closed)) for number, closed in found.gone.items()})
    weakest = found.weakest(waiting, 0.6)
    assert weakest == sorted(waiting)[: len(weakest)]
    assert found.rest() == 1.0
    trial = copy.deepcopy(found)
    trial.close(weakest[:-1])
    assert trial.rest() > 0.6
    trial.close(weakest)
    assert trial.rest() <= 0.6
    found.close(found.weakest(waiting, 0.0))
    assert [int((~closed).sum()) for closed in found.gone.values()] == [1, 1, 1]
    assert found.rest() == trial.least()
    assert found.close(waiting) == []
