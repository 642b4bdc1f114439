"""Coupled sets: which units a constraint is for, how many stay, and that those of largest norm do."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from dualprune.stages.constraints.slices import Slices
from dualprune.stages.coupling.cut import Cut, cut
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.sets import AnySet, Grouped
from dualprune.stages.solver import coupled
from dualprune.stages.solver.bounds import room
from dualprune.stages.solver.coupled import Share, shares, slices, stays
from dualprune.stages.solver.targets import held, targets
from tests.stages.coupling import users

INPUTS = {"digits_cnn": (2, 1, 8, 8), "resnet20": (2, 3, 32, 32), "encoder": (2, 5, 16)}


@cache
def network(name: str) -> nn.Module:
    """A small network of random weights."""
    torch.manual_seed(0)
    if name == "encoder":
        return nn.TransformerEncoderLayer(16, 4, 24, batch_first=True).eval()
    return MODELS[name](10).eval()


@cache
def found(name: str) -> Cut:
    """What can be cut of it."""
    return cut(network(name), (torch.randn(*INPUTS[name]),), {})


def settings(**given: Any) -> Grouped:
    """A coupled constraint."""
    one: Grouped = TypeAdapter(AnySet).validate_python({"tensors": "*", "coupled": True} | given)
    return one


def of(name: str, **given: Any) -> list[Share]:
    """What a coupled constraint holds of a network."""
    return shares(settings(**given), found(name), parameters(network(name)))


def made(name: str, *constraints: dict[str, Any]) -> list[str]:
    """What is wrong with constraints on a network."""
    there = [TypeAdapter(AnySet).validate_python({"tensors": "*"} | one) for one in constraints]
    return [text for _, text in targets(there, parameters(network(name)), name, lambda: found(name))[1]]


def test_units_of_largest_norm_over_makers_and_readers_stay() -> None:
    """Against sums by hand, with the 4 places of each channel in the flattened input of the first linear layer."""
    net = network("digits_cnn")
    kept = of("digits_cnn", set="filter", rate=2)
    assert [(share.space.name, share.space.size, share.keep) for share in kept] == [
        ("0.weight", 16, 8),
        ("2.weight", 32, 16),
        ("6.weight", 128, 64),
    ]
    units = stays(kept, net.get_parameter)
    first, second, third, last = (net.get_parameter(f"{n}.weight").detach().double() for n in (0, 2, 6, 8))
    norms = [
        first.square().sum((1, 2, 3)) + second.square().sum((0, 2, 3)),
        second.square().sum((1, 2, 3)) + third.square().view(128, 32, 16).sum((0, 2)),
        third.square().sum(1) + last.square().sum(0),
    ]
    for share, norm in zip(kept, norms, strict=True):
        assert set(np.flatnonzero(units[share.number])) == set(norm.topk(share.keep).indices.tolist())
    sets = slices(kept, units, parameters(net))
    z = sets["6.weight"].project(net.get_parameter("6.weight").detach())
    gone = np.flatnonzero(~units[kept[1].number])
    assert not z.view(128, 32, 16)[:, gone].any()
    assert not z[~units[kept[2].number]].any()
    assert int(z.count_nonzero()) == sets["6.weight"].most((128, 512)) == 64 * 256
    assert coupled.most(kept, parameters(net)) == {
        "0.weight": 8 * 9,
        "2.weight": 16 * 8 * 9,
        "6.weight": 64 * 256,
        "8.weight": 10 * 64,
    }


def test_the_projection_is_the_nearest_point_of_one_space() -> None:
    """No other choice of as many units is nearer, by trying all of them."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2))
    there = cut(net, (torch.randn(2, 3),), {})
    kept = shares(settings(set="row", count=2), there, parameters(net))
    units = stays(kept, net.get_parameter)[0]
    w = torch.cat([net.get_parameter("0.weight").T, net.get_parameter("1.weight")]).detach()
    left = {(a, b): float(w[:, [a, b]].square().sum()) for a in range(6) for b in range(a)}
    assert set(np.flatnonzero(units)) == set(max(left, key=lambda pair: left[pair]))


def test_of_equal_units_the_first_stay_and_nan_is_refused() -> None:
    kept = of("digits_cnn", set="filter", tensors="0.weight", count=3)
    ones = {name: torch.ones(one.shape) for name, one in parameters(network("digits_cnn")).items()}
    assert np.flatnonzero(stays(kept, ones.__getitem__)[0]).tolist() == [0, 1, 2]
    ones["2.weight"][5, 4] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        stays(kept, ones.__getitem__)


def test_slices_hold_no_more_than_their_positions() -> None:
    one = Slices({0: torch.tensor([True, False, True]), 1: torch.tensor([True, True, False, False])})
    w = torch.arange(1.0, 13.0).view(3, 4)
    z = one.project(w)
    assert z.tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [9, 10, 0, 0]]
    assert one.contains(z)
    assert not one.contains(w)
    assert torch.equal(one.mask(w), (z != 0).float())
    assert one.most((3, 4)) == 4


def test_a_space_is_meant_where_all_its_makers_match() -> None:
    """The padded residual stream of ResNet-20 has three parts: what the first stage begins, goes on to the end."""
    stream = {"conv1.weight", *(f"layer{stage}.{n}.conv2.weight" for stage in (1, 2, 3) for n in range(3))}
    names = [share.space.name for share in of("resnet20", set="filter", tensors="layer1.*conv1*", rate=2)]
    assert names == [f"layer1.{n}.conv1.weight" for n in range(3)]
    parts = of("resnet20", set="filter", tensors=sorted(stream), rate=2)
    assert [(share.space.size, len(share.space.makers)) for share in parts] == [(16, 10), (16, 6), (32, 3)]
    assert {name for name, _ in parts[0].space.makers} == stream
    last = of("resnet20", set="filter", tensors="layer3.*conv2*", rate=2)
    assert [share.space.name for share in last] == ["layer3.0.conv2.weight"]
    left_out = of("resnet20", set="filter", tensors=["*", "!layer1.2.conv2*"], rate=2)
    assert len(left_out) == len(of("resnet20", set="filter", rate=2)) - 1
    assert "layer1.2.conv2.weight" not in {name for share in left_out for name, _ in share.space.makers}
    assert "all that make one of them must match" in made(
        "resnet20", {"set": "filter", "tensors": "conv1.weight", "coupled": True, "rate": 2}
    )[0].replace("\n", " ")


def test_channels_are_meant_by_what_reads_them() -> None:
    (one,) = of("digits_cnn", set="channel", tensors="2.weight", rate=2)
    assert one.space.name == "0.weight"


def test_rows_are_of_linear_layers_alone() -> None:
    assert [share.space.name for share in of("digits_cnn", set="row", rate=2)] == ["6.weight"]


@pytest.mark.parametrize(
    ("given", "left"),
    [({"keep": 0.3}, [4, 9, 38]), ({"keep": 0.3, "multiple": 8}, [8, 8, 32]), ({"rate": 1000}, [1, 1, 1])],
)
def test_how_many_stay(given: dict[str, Any], left: list[int]) -> None:
    assert [share.keep for share in of("digits_cnn", set="filter", **given)] == left


def test_widths_are_multiples_where_a_unit_is_several_wide() -> None:
    """As channels are that a group norm takes together."""
    normed = users.Normed(groups=4)
    there = cut(normed, (torch.zeros(2, 3, 8, 8),), {})
    left = shares(settings(set="filter", keep=0.5, multiple=4), there, parameters(normed))
    assert {share.space.name: share.keep * share.space.width for share in left} == {"a.weight": 4, "b.weight": 4}


def test_a_count_above_a_space_is_refused() -> None:
    assert [share.keep for share in of("digits_cnn", set="filter", count=12, multiple=8)] == [8, 8, 8]
    assert made("digits_cnn", {"set": "filter", "coupled": True, "count": 20}) == [
        "asks for 20 filters, but there are 16 of 0.weight"
    ]


@pytest.mark.parametrize("name", ["digits_cnn", "resnet20"])
@pytest.mark.parametrize("most", [0.5, 0.2])
def test_multiply_accumulates_are_met_and_not_far_below(name: str, most: float) -> None:
    kept = of(name, set="filter", macs=most)
    there = found(name)
    left = there.macs({share.number: np.arange(share.space.size) < share.keep for share in kept})
    assert 0.85 * most < left / there.macs({}) <= most
    assert made(name, {"set": "filter", "coupled": True, "macs": 0.0001})[0].startswith("can't be cut to 0.0001")


def test_heads_of_attention_are_found() -> None:
    (one,) = of("encoder", set="head", keep=0.5)
    assert (one.space.size, one.keep) == (4, 2)
    assert {name for name, _ in one.space.weights} == {"self_attn.in_proj_weight", "self_attn.out_proj.weight"}
    units = stays([one], network("encoder").get_parameter)
    kept = slices([one], units, parameters(network("encoder")))["self_attn.in_proj_weight"]
    rows = kept.stays[0].view(3, 4, 4)
    assert rows.all(2).any(0).tolist() == units[one.number].tolist()
    assert not of("encoder", set="row", tensors="linear1.weight", keep=0.5)[0].space.heads


def test_what_can_not_be_together() -> None:
    """Coupled sets among each other, where units are held twice; with any other set on a tensor, in either order."""
    two = {"set": "filter", "coupled": True, "rate": 2}
    assert made("digits_cnn", two | {"tensors": "0.weight"}, two | {"tensors": "6.weight"}) == []
    assert made("digits_cnn", two, two | {"tensors": "2.weight"}) == [
        "units of 2.weight are held by an earlier constraint already"
    ]
    alone = "can't be combined"
    other = {"set": "cardinality", "rate": 2, "tensors": "8.weight"}
    assert all(alone in text for text in made("digits_cnn", two, other))
    assert all(alone in text for text in made("digits_cnn", other, two))
    assert len(made("digits_cnn", two, other)) == len(made("digits_cnn", other, two)) == 1
    assert made("digits_cnn", two | {"tensors": "0.weight"}, other) == []
    assert alone in made("digits_cnn", two, {"set": "levels", "bits": 4, "levels": "equidistant"})[0]


def test_plans_know_how_many_weights_stay() -> None:
    there = [settings(set="filter", rate=2)]
    shapes = parameters(network("digits_cnn"))
    good, problems = targets(there, shapes, "digits_cnn", lambda: found("digits_cnn"))
    assert not problems
    found_room = room(good, shapes)
    assert found_room.tensors == {"0.weight": 72, "2.weight": 1152, "6.weight": 16384, "8.weight": 640}
    assert dict(good.kinds) == dict.fromkeys(found_room.tensors, ("filter",))
    assert held(there, shapes, lambda: found("digits_cnn"))[0].most == found_room.tensors


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"set": "filter", "macs": 0.5}, "belong to `coupled: true`"),
        ({"set": "filter", "rate": 2, "multiple": 8}, "belong to `coupled: true`"),
        ({"set": "filter", "rate": 2, "macs": 0.5, "coupled": True}, "exactly one of"),
        ({"set": "column", "rate": 2, "coupled": True}, "columns are positions of kernels"),
        ({"set": "head", "rate": 2}, "give `heads`"),
        ({"set": "head", "rate": 2, "heads": 4, "coupled": True}, "give `heads`"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        TypeAdapter(AnySet).validate_python({"tensors": "*"} | given)


def test_weights_of_two_spaces_lie_in_both() -> None:
    """A unit of the one space does not come back by the other."""
    net = network("digits_cnn")
    kept = of("digits_cnn", set="filter", rate=4)
    values: dict[str, Tensor] = {name: net.get_parameter(name).detach() for name in coupled.most(kept, parameters(net))}
    sets = slices(kept, stays(kept, values.__getitem__), parameters(net))
    once = {name: sets[name].project(w) for name, w in values.items()}
    again = slices(kept, stays(kept, once.__getitem__), parameters(net))
    assert all(torch.equal(again[name].project(w), w) for name, w in once.items())
