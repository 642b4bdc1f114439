"""Sizes of networks that were cut, against counts by hand, and widths that are multiples."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.coupling.cut import Cut, cut, first, macs
from dualprune.stages.networks.build import build_model
from dualprune.stages.networks.structure import Structure
from dualprune.stages.settings.training import Model
from tests.stages.coupling import users


def _sizes(found: Cut, network: nn.Module, keep: dict[str, int]) -> tuple[float, int]:
    """Multiply-accumulates and parameters with so many units of spaces left."""
    stays = {n: first(space.size, keep[space.name]) for n, space in enumerate(found.spaces) if space.name in keep}
    assert len(stays) == len(keep)
    compact = Structure(edits=[*found.edits(stays)]).apply(copy.deepcopy(network))
    return found.macs(stays), sum(one.numel() for one in compact.parameters())


def test_lenet_by_hand() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip
    found = cut(network, (torch.zeros(2, 1, 28, 28),), {})

    def by_hand(a: int, b: int, c: int) -> tuple[float, int]:
        weights = (a * 25, a * b * 25, b * 16 * c, c * 10)
        places = (24 * 24, 8 * 8, 1, 1)
        return sum(w * p for w, p in zip(weights, places, strict=True)), sum(weights) + a + b + c + 10

    assert _sizes(found, network, {}) == by_hand(20, 50, 500)
    assert by_hand(20, 50, 500)[1] == 431_080
    assert _sizes(found, network, {"0.weight": 5, "3.weight": 12, "7.weight": 77}) == by_hand(5, 12, 77)


def test_attention_by_hand() -> None:
    network = nn.Sequential(users.Attention(), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8), nn.Flatten(1))
    found = cut(network, (torch.zeros(2, 5, 8),), {})

    def by_hand(heads: int, hidden: int) -> tuple[float, int]:
        width, tokens = 2 * heads, 5
        each = tokens * (4 * 8 * width + 2 * 8 * hidden) + 2 * tokens * tokens * width
        return each, 4 * 8 * width + 3 * width + 8 + 2 * 8 * hidden + hidden + 8

    assert _sizes(found, network, {}) == by_hand(4, 32)
    assert _sizes(found, network, {"0.q.weight": 1, "1.weight": 10}) == by_hand(1, 10)


def _resnet20(inner: int) -> tuple[float, int]:
    """Of CIFAR-10: three stages of three blocks, whose inner width is so many eighths of what it is."""
    count, size = 3 * 16 * 9 * 1024, 3 * 16 * 9 + 2 * 16
    before = 16
    for width, side in ((16, 32), (32, 16), (64, 8)):
        for _ in range(3):
            within = width * inner // 8
            weights = 9 * (before * within + within * width)
            count, size = count + weights * side * side, size + weights + 2 * (within + width)
            before = width
    return count + 640, size + 650


def test_resnet20_by_hand() -> None:
    network = build_model(Model(name="resnet20", classes=10)).eval()
    found = cut(network, (torch.zeros(2, 3, 32, 32),), {})
    assert not found.refused
    assert _sizes(found, network, {}) == _resnet20(8)
    assert _resnet20(8)[0] == pytest.approx(40.55e6, rel=1e-3)
    inner = {space.name: space.size * 3 // 8 for space in found.spaces if len(space.makers) == 1}
    assert len(inner) == 9
    assert _sizes(found, network, inner) == _resnet20(3)


def test_the_share_is_the_largest_within_what_may_be_left() -> None:
    network = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    found = cut(network, (torch.zeros(2, 16),), {})
    for step in (1, 8):

        def left(share: float, space: object, step: int = step) -> int:
            return max(step, round(share * 64 / step) * step)

        share = found.share([0, 1], 0.5, left)
        stays = {n: first(64, left(share, found.spaces[n])) for n in (0, 1)}
        more = {n: first(64, left(share, found.spaces[n]) + step) for n in (0, 1)}
        assert found.macs(stays) <= 0.5 * found.macs({}) < found.macs(more)
        assert int(stays[0].sum()) % step == 0
    with pytest.raises(ValueError, match=r"can't be cut to 0.001"):
        found.share([0, 1], 0.001, lambda share, space: 8)


def test_what_is_counted_is_for_one_sample() -> None:
    network = nn.Linear(10, 7).to("meta")
    assert macs(network, (torch.zeros(5, 10, device="meta"),), {}) == 70


class Given(nn.Module):
    """A module that is given a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.layer = nn.Parameter(torch.zeros(1, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(self.token)  # type: ignore[no-any-return]


def test_a_parameter_as_an_input_is_counted_too() -> None:
    """Where no gradient is kept, torch's counter itself fails there. It counts once a batch, here of two."""
    assert macs(Given(), (torch.zeros(2, 4),), {}) == 12 + 12 / 2


def test_units_may_be_any() -> None:
    """Not the first ones alone: positions that stay are told in runs."""
    network = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)).eval()
    found = cut(network, (torch.zeros(2, 3),), {})
    edits = found.edits({0: np.array([True, False, True, True, False, True])})
    runs = [[0, 1], [2, 4], [5, 6]]
    assert [edit.kept["weight"] for edit in edits] == [[runs, None], [None, runs]]
    assert edits[0].attributes == {"in_features": 3, "out_features": 4}
