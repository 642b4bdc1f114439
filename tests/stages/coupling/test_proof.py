"""Nothing counts that was not compared: rules that are wrong, and code that can't follow, lead to refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.coupling import proof
from dualprune.stages.coupling.atoms import Dims
from dualprune.stages.coupling.cut import cut
from dualprune.stages.coupling.known import Call, Known
from dualprune.stages.coupling.rules import RULES
from dualprune.stages.coupling.trace import Untraceable
from dualprune.stages.coupling.units import Space
from tests.stages.coupling import users
from tests.stages.coupling.check import exact, units

PICTURES = torch.zeros(2, 3, 8, 8)


def _as_it_is(known: Known, call: Call) -> Sequence[Dims]:
    """Every operation is one entry by entry."""
    x = call.args.get("self", call.args.get("input"))
    assert x is not None
    return [x]


def test_a_rule_that_is_wrong_leads_to_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Group norm without a rule that knows of it: what it gives depends on the channels that are left."""
    monkeypatch.setitem(RULES, "group_norm", _as_it_is)
    found = cut(users.Normed(), (PICTURES,), {})
    assert units(found) == {"b.weight": 6}
    assert "without them" in found.refused["a.weight"]


def test_what_is_refused_is_refused_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products along channels are zero in the masked network, and something else in the other: outputs differ."""
    monkeypatch.setitem(RULES, "cumprod", _as_it_is)
    found = exact(users.Odd(), PICTURES)
    assert units(found) == {"b.weight": 6}
    assert list(found.refused) == ["a.weight"]
    assert "the outputs differ by" in found.refused["a.weight"]


def test_comparisons_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "cumprod", _as_it_is)
    monkeypatch.setattr(proof, "COMPARISONS", 1)
    found = cut(users.Odd(), (PICTURES,), {})
    assert not found.spaces
    assert "1 comparisons" in " ".join(found.refused.values())


class Single(nn.Module):
    """Its code makes tensors of single precision."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.b(self.a(x).relu()) @ torch.eye(6))
        return y


class Stubborn(nn.Module):
    """Its number of channels stands in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.b(self.a(x).view(-1, 6)).relu())
        return y


def test_code_that_takes_single_precision_alone_is_compared_in_it() -> None:
    assert units(exact(Single(), torch.zeros(2, 4))) == {"a.weight": 5}


def test_code_that_counts_by_itself_is_told_of() -> None:
    found = exact(Stubborn(), torch.zeros(2, 4))
    assert units(found) == {"b.weight": 8}
    assert "its code fails: RuntimeError: shape '[-1, 6]' is invalid" in found.refused["a.weight"]


def test_numbers_that_code_does_not_fail_on_follow() -> None:
    found = exact(users.Divided(), torch.zeros(2, 5, 8))
    assert units(found) == {"q.weight": 6}
    assert found.coupling.numbers == {("", "heads")}


def test_groups_and_depth_that_code_counts_by_follow() -> None:
    found = exact(users.Counted(), PICTURES)
    assert units(found) == {"a.weight": 4, "b.weight": 6}
    assert found.coupling.numbers >= {("", "groups"), ("", "width")}


def test_what_training_alone_reads_stays() -> None:
    found = exact(users.Deep(), PICTURES)
    assert units(found) == {"b.weight": 6}
    assert "its code fails in training: " in found.refused["a.weight"]


def test_a_network_that_is_not_made_for_training_is_cut() -> None:
    network = users.Deep()
    network.early = nn.Linear(7, 4)
    assert units(exact(network, PICTURES)) == {"a.weight": 8, "b.weight": 6}


def test_a_network_that_cant_be_followed_is_refused_in_words() -> None:
    with pytest.raises(Untraceable, match=r"torch.export can't follow it: .*data-dependent.*users.py.*y.sum\(\) > 0"):
        cut(users.Branching(), (torch.zeros(2, 4),), {})


@pytest.mark.filterwarnings("ignore")
def test_a_network_that_cant_be_copied_is_refused_in_words() -> None:
    network = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 8)), nn.Linear(8, 2))
    with torch.no_grad():
        network[0].weight = network[0].weight * torch.ones((), requires_grad=True)
    with torch.enable_grad():
        network(torch.zeros(2, 4))
    with pytest.raises(Untraceable, match="it can't be copied: RuntimeError"):
        cut(network, (torch.zeros(2, 4),), {})


def test_weights_that_are_zero_hide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the last layer of a network that was not trained may be."""
    monkeypatch.setitem(RULES, "cumprod", _as_it_is)
    network = users.Odd()
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.b.weight)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert list(cut(network, (PICTURES,), {}).refused) == ["a.weight"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_random_cuts_take_some_and_leave_some() -> None:
    for size in (2, 3, 50):
        space = Space({("w", 0): np.arange(size)[:, None]}, (("w", 0),), (), False)
        cuts = [proof.drawn(space, np.random.default_rng(seed)) for seed in range(50)]
        assert all(stays.any() and not stays.all() for stays in cuts)
        assert len({stays.tobytes() for stays in cuts}) > 1
