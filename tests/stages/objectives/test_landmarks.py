"""Points against values by hand: coordinates and heat maps, what errors are divided by, what is not known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dualprune.stages.settings.base import SpecError
from tests.stages.objectives.common import made, values

TARGET = torch.tensor(
    [
        [[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]],
        [[1.0, 1.0], [1.0, 3.0], [9.0, 3.0]],
        [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]],
    ]
)
MOVED = TARGET + torch.tensor([3.0, 4.0])
"""Each point by 5."""


@pytest.mark.parametrize(
    ("normalise", "sizes"), [(None, [12**0.5, 4.0, 1.0]), ([0, 1], [4.0, 2.0, 1.0]), (10.0, [10.0, 10.0, 10.0])]
)
def test_errors_by_hand(normalise: Any, sizes: list[float]) -> None:
    """Over the box of a sample's points, the distance of two, or a number."""
    objective = made("landmarks", normalise=normalise)
    wanted = sum(5 / size for size in sizes) / 3
    for outputs in (MOVED, MOVED.flatten(1)):
        found = values(objective, outputs, {"target": TARGET})
        assert found["nme"] == pytest.approx(wanted, rel=1e-6)
        assert found["loss"] == pytest.approx(3.5)
    assert values(made("landmarks", loss="mse"), MOVED, {"target": TARGET})["loss"] == pytest.approx(12.5)


@pytest.mark.parametrize("normalise", [[3], [3, 3], [-1, 2], 0.0, -2.0])
def test_what_nothing_can_be_divided_by_is_refused(normalise: Any) -> None:
    """No error would be measured."""
    with pytest.raises(SpecError, match=r"objective.args.normalise: (two points are needed|must be above 0)"):
        made("landmarks", normalise=normalise)


def test_unknown_points_count_nowhere() -> None:
    """A sample goes by its others; without one of the two that errors are divided by, it is not measured."""
    target, outputs = TARGET.clone(), MOVED.clone()
    target[0, 2], outputs[0, 2] = torch.nan, 1e6
    target[1, 0, 1] = torch.nan
    outputs[0, 1] = target[0, 1]
    batch = {"target": target}
    objective = made("landmarks", normalise=[0, 1])
    assert int(objective.good(batch)) == 3
    assert values(objective, outputs, batch)["nme"] == pytest.approx((2.5 / 4 + 5 / 1) / 2)
    assert float(objective.loss(outputs, batch)) == pytest.approx(3.5 / 2 + 3.5 + 3.5)
    box = values(made("landmarks"), outputs[1:], {"target": target[1:]})["nme"]
    assert box == pytest.approx(5 / 1)  # the points that are left in the first lie on a line: no box


def bell(x: float, y: float, side: int = 16) -> Tensor:
    """A heat map with a bell at a place in pixels of a picture four times as large."""
    places = (torch.arange(side) + 0.5) * 4
    return torch.exp(-((places[None, :] - x).square() + (places[:, None] - y).square()) / (2 * 6.0**2))


def test_the_highest_place_of_a_heat_map_is_the_point() -> None:
    """To a quarter of a place, towards the higher neighbour; at the edge the place itself."""
    target = torch.tensor([[[21.0, 33.0], [50.0, 14.0]], [[2.0, 62.0], [30.0, 30.0]]])
    maps = torch.stack([torch.stack([bell(*point) for point in sample]) for sample in target.tolist()])
    objective = made("landmarks", form="heatmaps", extent=64.0, normalise=1.0)
    # Places' centres are 2, 6, ..., 62: 21 is nearest to 22, and leans to 18.
    wanted = torch.tensor([[[21.0, 33.0], [50.0, 14.0]], [[2.0, 62.0], [30.0, 30.0]]])
    assert values(objective, maps, {"target": wanted})["nme"] == pytest.approx(0, abs=1e-5)
    found = values(objective, maps, {"target": target + torch.tensor([3.0, 4.0])})["nme"]
    assert found == pytest.approx(5, rel=1e-5)


def test_heat_maps_are_wanted_with_a_bell_around_each_point() -> None:
    """The same map costs nothing; another the sum of squares."""
    target = torch.tensor([[[21.0, 33.0]]])
    maps = bell(21.0, 33.0)[None, None]
    objective = made("landmarks", form="heatmaps", extent=64.0, sigma=1.5)
    assert float(objective.loss(maps, {"target": target})) == pytest.approx(0, abs=1e-10)
    assert float(objective.loss(0 * maps, {"target": target})) == pytest.approx(float(maps.square().sum()), rel=1e-5)
    assert objective.distil is not None
    found = objective.distil(0 * maps, maps, {"target": target}, 1.0)
    assert float(found) == pytest.approx(float(maps.square().sum()), rel=1e-5)


@pytest.mark.parametrize("form", ["coordinates", "heatmaps"])
def test_a_network_learns(form: str) -> None:
    """To find the bright spot of a picture."""
    torch.manual_seed(0)
    places = torch.randint(1, 7, (32, 2))
    image = torch.zeros(32, 1, 8, 8)
    image[torch.arange(32), 0, places[:, 1], places[:, 0]] = 1
    batch = {"image": image, "target": ((places + 0.5) / 8)[:, None]}
    network = (
        nn.Conv2d(1, 1, 3, padding=1)
        if form == "heatmaps"
        else nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    )
    objective = made("landmarks", form=form, sigma=0.7, normalise=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        (objective.loss(objective.call(network, batch), batch) / 32).backward()
        optimizer.step()
    assert values(objective, objective.call(network, batch).detach(), batch)["nme"] < 0.05
