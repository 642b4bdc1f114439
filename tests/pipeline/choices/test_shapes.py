"""Which shape is best within a budget: against a search of the true surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dualprune.pipeline.choices.base import ChoiceError
from dualprune.pipeline.choices.shapes import Cost, Measured, Point, Threed, decide
from dualprune.stages.kinds.table import parse

STAGE = {
    "kind": "shrink",
    "model": {"name": "digits_cnn"},
    "data": {"source": "digits"},
    "retrain": {"epochs": 1, "lr": 1e-3},
}
BLOCKS = 27
SIDE = 32
CHAINS: dict[str, Any] = {
    "depth": list(range(2, 20, 2)),
    "width": [round(1 - 0.07 * n, 2) for n in range(1, 10)],
    "resolution": list(range(30, 12, -2)),
}


def spec(budget: Mapping[str, float], **chains: Any) -> Threed:
    """With nine stages a chain, if not told otherwise."""
    settings = {"kind": "threed", "stage": parse(STAGE), "budget": dict(budget), **(chains or CHAINS)}
    return Threed.model_validate(settings)


def accuracy(point: Point, bend: tuple[float, float, float]) -> float:
    """No polynomial: each axis loses little at first, and then more and more."""
    d, w, r = point.depth / BLOCKS, 1 - point.width, 1 - (point.resolution or SIDE) / SIDE
    return float(93 * np.prod([1 - 0.04 * (np.exp(b * x) - 1) for b, x in zip(bend, (d, w, r), strict=True)]))


def cost(point: Point) -> dict[Cost, float]:
    """d w^2 r^2 of multiply-accumulates, d w^2 of weights."""
    weights = (1 - point.depth / BLOCKS) * point.width**2
    return {"macs": weights * ((point.resolution or SIDE) / SIDE) ** 2, "weights": weights}


def samples(threed: Threed, bend: tuple[float, float, float]) -> list[Measured]:
    """What the chains come to."""
    points = [Point(), *(point for chain in threed.chains() for point in chain)]
    return [
        Measured(point, accuracy(point, bend), {name: cost(point)[name] for name in threed.budget}) for point in points
    ]


@pytest.mark.parametrize("bend", [(3.0, 3.0, 3.0), (2.0, 3.5, 3.0), (3.5, 3.0, 2.0), (3.0, 2.0, 3.5)])
@pytest.mark.parametrize("share", [0.6, 0.4, 0.25])
def test_the_maximum_is_found_to_within_a_step(bend: tuple[float, float, float], share: float) -> None:
    """Among all depths, widths and resolutions there are, on a surface that is none of the model's."""
    threed = spec({"macs": share})
    best = max(
        (
            Point(depth, min(1.0, (share / (1 - depth / BLOCKS)) ** 0.5 / (size / SIDE)), size)
            for depth in range(19)
            for size in range(14, 33)
            if min(1.0, (share / (1 - depth / BLOCKS)) ** 0.5 / (size / SIDE)) >= 0.37
        ),
        key=lambda point: accuracy(point, bend),
    )
    found = decide(threed, samples(threed, bend), SIDE, higher=True)
    assert abs(found.point.depth - best.depth) <= 2
    assert abs(found.point.width - best.width) <= 0.07
    assert abs((found.point.resolution or SIDE) - (best.resolution or SIDE)) <= 2
    assert cost(found.point)["macs"] <= share * 1.005
    assert accuracy(best, bend) - accuracy(found.point, bend) < 0.12
    assert abs(found.value - accuracy(found.point, bend)) < 0.1
    assert found.fit.error < 0.1


def test_several_budgets_hold_together() -> None:
    """A resolution saves no weights: width and depth have to."""
    bend = (4.0, 4.0, 1.0)
    threed = spec({"macs": 0.3, "weights": 0.5})
    found = decide(threed, samples(threed, bend), SIDE, higher=True)
    costs = cost(found.point)
    assert costs["macs"] <= 0.3 * 1.01
    assert costs["weights"] <= 0.5 * 1.01
    assert (found.point.resolution or SIDE) < SIDE


def test_of_a_metric_of_which_less_is_better_the_least_is_taken() -> None:
    bend = (2.0, 3.5, 3.0)
    threed = spec({"macs": 0.4})
    given = samples(threed, bend)
    loss = [Measured(one.point, 9 / one.value, one.cost) for one in given]
    high, low = decide(threed, given, SIDE, higher=True), decide(threed, loss, SIDE, higher=False)
    assert abs(high.point.depth - low.point.depth) <= 2
    assert abs(high.point.width - low.point.width) <= 0.07


def test_a_budget_that_nothing_meets_is_refused_with_the_least() -> None:
    threed = spec({"macs": 0.1}, width=[0.9, 0.8], depth=[3])
    least = 0.8**2 * (1 - 3 / BLOCKS)
    with pytest.raises(ChoiceError, match=rf"0\.1 of macs may be left, .* is about {least:.3g}\. Lengthen"):
        decide(threed, samples(threed, (1.0, 1.0, 1.0)), 1.0, higher=True)


def test_one_axis_is_enough() -> None:
    threed = spec({"macs": 0.6}, width=[0.9, 0.8, 0.7])
    found = decide(threed, samples(threed, (1.0, 3.0, 1.0)), 1.0, higher=True)
    assert (found.point.depth, found.point.resolution) == (0, None)
    assert found.point.width == pytest.approx(0.6**0.5, abs=0.01)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"budget": {"macs": 1.5}}, "give shares between 0 and 1"),
        ({"budget": {}}, "give shares between 0 and 1"),
        ({"depth": [2, 1]}, "the values of `depth` must rise"),
        ({"width": [0.8, 0.9]}, "the values of `width` must fall"),
        ({"width": [1.0, 0.9]}, "`width` shares between 0 and 1"),
        ({"resolution": [0]}, "from 1 on"),
        ({"depth": [], "width": [0.5], "resolution": []}, "two or more stages"),
        ({"samples": [{"width": 0.5}]}, "off the axes"),
        ({"stage": parse({**STAGE, "resolution": 6})}, "leave out `constraints`, `blocks` and `resolution`"),
        ({"stage": parse({**STAGE, "retrain": None})}, "give `retrain`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], text: str) -> None:
    settings = {"kind": "threed", "stage": parse(STAGE), "budget": {"macs": 0.5}, **CHAINS}
    with pytest.raises(ValidationError, match=text):
        Threed.model_validate(settings | change)
