"""What goes together by each family of operations, on networks as users write them: found, cut at random, and exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dualprune.stages.coupling.cut import cut
from dualprune.stages.coupling.rules import RULES
from tests.stages.coupling import users
from tests.stages.coupling.check import exact, units

PICTURES = {
    users.Residual: {"a.weight": 8, "b.weight": 6},
    users.Concatenation: {"a.weight": 6, "b.weight": 4},
    users.Depthwise: {"a.weight": 6},
    users.Grouped: {"a.weight": 4, "b.weight": 6},
    users.Flattened: {"a.weight": 6},
    users.Shuffled: {"a.weight": 2, "b.weight": 4},
    users.Squeezed: {"a.weight": 8, "less.weight": 3},
    users.PixelShuffled: {"a.weight": 3, "b.weight": 5},
    users.Reused: {"a.weight": 8},
    users.Normed: {"a.weight": 2, "b.weight": 6},
    users.Together: {"b.weight": 6},
    users.Standardised: {"b.weight": 6},
}


@pytest.mark.parametrize("network", PICTURES, ids=lambda network: network.__name__)
def test_channels(network: type[nn.Module]) -> None:
    found = exact(network(), torch.zeros(2, 3, 8, 8))
    assert units(found) == PICTURES[network]
    assert not found.refused
    assert not found.coupling.unknown


def test_channels_that_are_padded_go_with_the_numbers_that_are_kept() -> None:
    found = exact(users.Padded(), torch.zeros(2, 3, 8, 8))
    assert sum(space.size for space in found.spaces) == 8
    assert found.coupling.numbers == {("", "before"), ("", "after")}


@pytest.mark.parametrize("network", [users.Gated, users.Glu])
def test_both_halves_of_a_gated_layer(network: type[nn.Module]) -> None:
    (space,) = exact(network(), torch.zeros(2, 6)).spaces
    assert (space.name, space.size) == ("a.weight", 8)
    assert space.places["a.weight", 0].tolist() == [[n, n + 8] for n in range(8)]


def test_tied_weights_are_cut_as_one() -> None:
    found = exact(users.Tied(), torch.randint(20, (2, 5)))
    assert units(found) == {"b.weight": 8, "a.weight": 12}


def test_heads_of_attention_by_hand() -> None:
    (space,) = exact(users.Attention(), torch.zeros(2, 5, 8)).spaces
    assert space.heads
    assert (space.size, space.places["q.weight", 0].shape) == (4, (4, 2))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("need", [False, True])
def test_heads_of_torchs_attention(need: bool, masked: bool, padded: bool) -> None:
    (space,) = exact(users.Torch(need, masked, padded), torch.zeros(2, 5, 8)).spaces
    assert space.heads
    assert (space.name, space.size) == ("inner.in_proj_weight", 4)


def test_heads_stay_where_a_mean_over_them_is_read() -> None:
    assert not cut(users.Torch(need=True, read=True), (torch.zeros(2, 5, 8),), {}).spaces


def test_torchs_encoder_layer() -> None:
    found = exact(nn.TransformerEncoderLayer(8, 4, 12, batch_first=True), torch.zeros(2, 5, 8))
    assert sorted((space.size, space.heads) for space in found.spaces) == [(4, True), (12, False)]


def test_volumes() -> None:
    found = exact(users.Volumes(), torch.zeros(2, 1, 6, 6, 6))
    assert units(found) == {"a.weight": 6, "b.weight": 5}


def test_recurrent_weights_stay_beside_convolutions_that_go() -> None:
    found = exact(users.Recurrent(), torch.zeros(2, 4, 7))
    assert units(found) == {"a.weight": 8}
    assert found.coupling.unknown == {"lstm": 1}


def test_what_an_unknown_operation_touches_stays() -> None:
    found = exact(users.Odd(), torch.zeros(2, 3, 8, 8))
    assert units(found) == {"b.weight": 6}
    assert found.coupling.unknown == {"cumprod": 1}


def test_each_rule_has_one_name() -> None:
    assert all(name == name.strip() and callable(rule) for name, rule in RULES.items())
    assert "cumprod" not in RULES
