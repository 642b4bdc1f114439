"""Pruning vectors: which network each says, what it costs, how it is brought to a budget, and how it moves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualprune.stages.coupling.cut import cut, macs
from dualprune.stages.networks.builtin import MODELS
from dualprune.stages.networks.edits import EDITS, Remove, Resolution
from dualprune.stages.settings.sets import Pattern, every
from dualprune.stages.solver.searching import plain
from dualprune.stages.solver.vectors import BLOCKS, UNITS, Searched, Shape, drawn


@cache
def resnet(resolutions: tuple[int, ...] = (24, 16)) -> Searched:
    """All that can be searched of a ResNet-20 for pictures of 32 x 32, or without their size."""
    given = ((torch.zeros(2, 3, 32, 32),), {})
    return plain([every(Pattern(tensors="*"))], MODELS["resnet20"](10).eval(), given, "macs", resolutions)


def test_a_vector_says_one_network() -> None:
    """A half is rounded up, one unit stays at least, blocks are open from a half on, the nearest size is taken."""
    of = resnet()
    sizes = [space.size for space in of.closing.spaces.values()]
    first = len(sizes)
    assert len(of.open) == 7  # all but the two in which streams change
    vector = of.most()
    assert len(vector) == first + 7 + 1
    assert of.shape(vector) == Shape(dict(zip(of.closing.spaces, sizes, strict=True)), (), 32)
    vector[:3] = [0.5 / sizes[0], 1.5 / sizes[1], -1.0]
    vector[first], vector[first + 1] = 0.4999, 0.5
    for number, side in ((0.88, 32), (0.87, 24), (0.63, 24), (0.62, 16), (-3.0, 16), (9.0, 32)):
        vector[-1] = number
        found = of.shape(vector)
        assert found.side == side
        assert list(found.counts.values())[:3] == [1, 2, 1]
        assert found.shut == (of.open[0],)


def test_units_go_by_their_order_and_those_that_are_none_never_come() -> None:
    of = resnet()
    number, space = next(iter(of.closing.spaces.items()))
    of = replace(of, order={**of.order, number: [3, 1, 2]})
    assert of.most()[0] == 3 / space.size
    shape = of.shape(of.most())
    assert shape.counts[number] == 3
    closed = of.closed(replace(shape, counts={**shape.counts, number: 2}))
    assert np.flatnonzero(~closed.gone[number]).tolist() == [1, 3]


def test_a_cost_is_that_of_the_network_without_what_is_closed() -> None:
    """To the last multiplication: with units, a block and pixels gone."""
    of, network = resnet(), MODELS["resnet20"](10).eval()
    whole = of.closing.whole
    vector = of.most() * 0.7
    vector[len(of.closing.spaces) + 2] = 0.2
    shape = of.shape(vector)
    assert (len(shape.shut), shape.side) == (1, 24)
    args = (torch.zeros(2, 3, 32, 32),)
    there = cut(network, args, {})
    for edit in there.edits({n: ~gone for n, gone in of.closed(replace(shape, shut=())).gone.items()}):
        EDITS[edit.edit].apply(edit, network)
    for edit in (Resolution(module="", size=24), Remove(module=shape.shut[0])):
        EDITS[edit.edit].apply(edit, network)
    assert of.cost(shape) * whole == pytest.approx(macs(network, args, {}), rel=1e-9)


@pytest.mark.parametrize("budget", [0.9, 0.5, 0.2, 0.05])
def test_a_vector_is_brought_to_a_budget_from_above_and_below(budget: float) -> None:
    """With no room left for a unit more of any space; proportions stay."""
    of = resnet(())
    draw = np.random.default_rng(0)
    for scale in (0.3, 0.6, 1.0):
        vector = of.most() * scale * draw.uniform(0.7, 1.0, len(of.most()))
        vector[len(of.closing.spaces) :] = 0.8
        found = of.within(vector, budget)
        assert budget - 0.03 < of.cost(found) <= budget
        assert found.shut == ()
        for number, count in found.counts.items():
            if count < len(of.order[number]):
                more = replace(found, counts={**found.counts, number: count + 1})
                assert of.cost(more) > budget
        assert found == of.within(vector, budget)


def test_blocks_are_closed_and_pictures_made_smaller_only_where_nothing_else_does() -> None:
    """The weakest block first; the least that is possible is met exactly."""
    of = resnet()
    vector = of.begin(0.8)
    vector[len(of.closing.spaces) + 3] = 0.6
    least = of.cost(Shape(dict.fromkeys(of.closing.spaces, 1), (), 32))
    assert of.within(vector, least).shut == ()
    found = of.within(vector, least * 0.9)
    assert (found.shut[0], found.side) == (of.open[3], 32)
    assert len(found.shut) < len(of.open)
    end = of.within(vector, of.least())
    assert (set(end.shut), end.side) == (set(of.open), 16)
    assert of.cost(end) == of.least()


def pairs(of: Searched, count: int, *words: int) -> NDArray[np.float64]:
    """Draws of each sort of number."""
    sorts = of.sorts()
    return drawn((len(sorts), count, sorts.shape[1]), *words) * sorts[:, None]


def test_numbers_are_of_three_sorts_with_steps_of_their_own() -> None:
    of = resnet()
    sorts, sigma = of.sorts(), of.sigma()
    assert sorts.sum(1).tolist() == [len(of.closing.spaces), 7, 1]
    assert (sorts.sum(0) == 1).all()
    assert set(sigma[sorts[0]]) == {UNITS}
    assert set(sigma[sorts[1]]) == {BLOCKS}
    assert sigma[sorts[2]] == 0.125  # pictures of 32, 24 and 16
    assert len(resnet(()).sorts()) == 2


def test_a_step_is_as_long_whatever_losses_are() -> None:
    """Against the slope, in standard deviations of each sort, within bounds; what is not finite counts as equal."""
    of = resnet()
    sorts, sigma, vector = of.sorts(), of.sigma(), of.begin(0.8) * 0.5
    draws = pairs(of, 64, 1, 2)
    slope = np.linspace(-1, 1, len(vector)) * (np.array([1.0, 100.0, 0.01]) @ sorts)
    moved = of.moved(vector, draws, draws @ slope, 0.1)
    assert np.allclose(moved, of.moved(vector, draws, 1e-6 * (draws @ slope), 0.1))
    step = (moved - vector) / sigma
    for sort in sorts:
        assert 0.05 < np.linalg.norm(step[sort]) < 0.2
    for sort in sorts[:2]:
        assert np.corrcoef(step[sort], -slope[sort])[0, 1] > 0.7
    assert np.array_equal(of.moved(vector, draws, np.zeros(draws.shape[:2]), 0.1), vector)
    odd = draws @ slope
    odd[:, :3] = np.nan, np.inf, -np.inf
    assert np.isfinite(of.moved(vector, draws, odd, 0.1)).all()
    far = of.moved(vector, draws, draws @ slope, 1e9)
    assert ((far >= of.few()) & (far <= of.most())).all()


def test_many_steps_find_the_least() -> None:
    """Of a loss that is known, from few evaluations a step."""
    of = resnet(())
    aim = np.concatenate([np.linspace(0.3, 0.9, len(of.closing.spaces)), np.full(7, 0.7)])
    vector = of.most()
    for step in range(300):
        draws = pairs(of, 2, 0, step)
        ahead, behind = (((vector + sign * of.sigma() * draws - aim) ** 2).sum(-1) for sign in (1, -1))
        vector = of.moved(vector, draws, ahead - behind, 0.3 * (1 - step / 300))
    assert np.abs(vector - aim).max() < 0.1


def test_draws_are_a_function_of_where_a_stage_is() -> None:
    assert np.array_equal(drawn((3,), 0, 5, 1), drawn((3,), 0, 5, 1))
    assert not np.array_equal(drawn((3,), 0, 5, 1), drawn((3,), 0, 5, 0))
    assert drawn((2,), 0, 5, 1).tolist() == [1.7901700363633608, -0.42656697040790703]  # for good
