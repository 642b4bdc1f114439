"""Truncations shared by ranks: each decomposes some of the layers, and all hold the same."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.constraints.spectrum import Spectrum
from dualprune.stages.library.tensors import ModuleTensors
from dualprune.stages.networks.parameters import parameters
from dualprune.stages.settings.sets import LowRank
from dualprune.stages.solver.truncating import truncate, unable
from tests.ranks import on_ranks

HELD = [
    LowRank(set="lowrank", tensors="*", layers="Conv2d", energy=0.3, view="spatial"),
    LowRank(set="lowrank", tensors="*", layers="Linear", energy=0.2),
]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, bias=False), nn.Flatten(), nn.Linear(30, 20), nn.Linear(20, 10)
    )


def truncated(slopes: bool) -> tuple[int, Any, dict[str, Tensor]]:
    """How many decompositions this rank made, what was told, and the tensors afterwards."""
    made = network()
    shapes = parameters(made)
    tensors = ModuleTensors(made, shapes, shapes, shapes)
    with patch.object(Spectrum, "of", wraps=Spectrum.of) as of:
        found = truncate(tensors, HELD, shapes, slopes)
    states = {f"{name}/target": tensors.get(name, "target") for name in shapes}
    return of.call_count, found, {**{name: tensors.get(name) for name in shapes}, **states}


@pytest.mark.parametrize("slopes", [False, True])
def test_weights_become_their_truncations(slopes: bool) -> None:
    """And the penalty's target W - U V^T, where it is asked for. What no constraint names stays as it is."""
    before = network().state_dict()
    count, found, after = truncated(slopes)
    names = {"0.weight": "spatial", "1.weight": "spatial", "3.weight": "channel", "4.weight": "channel"}
    assert count == len(names)
    left_out = whole = 0.0
    for name, view in names.items():
        of = Spectrum.of(before[name], view)  # type: ignore[arg-type]
        rank = of.least(0.3 if view == "spatial" else 0.2)
        assert found.ranks[name] == [len(of.squares), rank]
        assert torch.allclose(after[name], of.truncated(rank), atol=1e-6)
        wanted = after[name] - of.slope(rank) if slopes else torch.zeros_like(after[name])
        assert torch.allclose(after[f"{name}/target"], wanted, atol=1e-6)
        one, every = of.dropped(rank)
        left_out, whole = left_out + one, whole + every
    assert found.dropped == pytest.approx(left_out / whole)
    assert all(torch.equal(after[name], before[name]) for name in set(before) - set(names))


@pytest.mark.slow
def test_ranks_share_the_work_and_hold_the_same_bits() -> None:
    """Three of them, for four layers: as one does all."""
    _, alone, tensors = truncated(True)
    each = on_ranks(3, truncated, True)
    assert [count for count, _, _ in each] == [2, 1, 1]
    for _, found, after in each:
        assert found == alone
        assert all(torch.equal(after[name], value) for name, value in tensors.items())


def test_layers_that_cannot_become_two_are_named() -> None:
    """With the constraint that names them."""
    made = nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Linear(4, 4), nn.Linear(4, 4))
    made[3].weight = made[2].weight
    problems = unable(made, [LowRank(set="lowrank", tensors=[one], energy=0.1) for one in ("0.*", "1.*", "2.*")])
    assert [path for path, _ in problems] == [("constraints", number) for number in range(3)]
    assert [text.partition(",")[0] for _, text in problems] == [
        "0 is a Conv1d",
        "1 has several groups",
        "2.weight is tied to 3.weight",
    ]
