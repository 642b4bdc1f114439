"""A search's factors as pure functions: bisection, and what a stage is at a factor."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dualprune.pipeline.choices.base import ChoiceError
from dualprune.pipeline.choices.search import CLOSE, Search, best_factor, next_factor, shrunk
from tests.pipeline.choices.common import stage


def search(**settings: Any) -> Search:
    """A search by one point, 8 trials, up to a factor of 16."""
    return Search.model_validate(
        {"kind": "search", "stage": stage(), "tolerance": 1.0, "trials": 8, "most": 16.0, **settings}
    )


def followed(one: Search, limit: float) -> list[tuple[float, float]]:
    """All trials of a search where what is harsher than `limit` falls from 97 to 90 and the rest stays."""
    tried: list[tuple[float, float]] = []
    while (factor := next_factor(one, 97.0, tried)) is not None:
        tried.append((factor, 97.0 if factor <= limit else 90.0))
        assert len(tried) <= one.trials
    return tried


@given(st.floats(1.0, 40.0), st.integers(2, 12))
def test_bisection_closes_in(limit: float, trials: int) -> None:
    """Factor 1, then the most, then between what held and what fell: the best ends as near as the trials allow."""
    one = search(trials=trials)
    tried = followed(one, limit)
    best = tried[best_factor(one, 97.0, tried)][0]
    assert [factor for factor, _ in tried[:2]] == [1.0, 16.0]
    assert best <= limit
    if limit >= 16:
        assert (best, len(tried)) == (16.0, 2)
        return
    # Each trial after the second halves the logarithm of what is in question.
    assert min(limit, 16) / best <= max(CLOSE, 16 ** (0.5 ** (len(tried) - 2))) * (1 + 1e-9)
    assert len(tried) == trials or min(f for f, a in tried if a < 96) / best < CLOSE


def test_a_search_whose_start_loses_too_much_says_so() -> None:
    """With what was lost and what is allowed."""
    with pytest.raises(ChoiceError, match=r"lose 1\.50 points already, and 1 are allowed; start from lower rates"):
        next_factor(search(), 97.0, [(1.0, 95.5)])


def test_a_loss_of_just_the_tolerance_is_allowed() -> None:
    """And none where the tolerance is zero."""
    assert next_factor(search(), 97.0, [(1.0, 96.0)]) == 16.0
    assert next_factor(search(tolerance=0.0), 97.0, [(1.0, 97.0), (16.0, 96.99)]) == 4.0


@pytest.mark.parametrize(
    ("count", "most", "least", "counts"),
    [
        (4, 20.0, 1, [4, 1]),
        (4, 20.0, 2, [4, 1, 2]),
        (4, 20.0, 3, [4, 1, 2, 3]),
        (4, 20.0, 4, [4, 1, 2, 3]),
        (1, 8.0, 1, [1]),
    ],
)
def test_amounts_that_were_tried_are_not_tried_again(count: int, most: float, least: int, counts: list[int]) -> None:
    """Each count once, until the least that holds is found."""
    one = search(stage=stage({"set": "filter", "tensors": "2.*", "count": count}), most=most)
    tried: list[tuple[float, float]] = []
    found = []
    while (factor := next_factor(one, 97.0, tried)) is not None:
        found.append(shrunk(one.stage, factor).constraints[0].count or 0)
        tried.append((factor, 97.0 if found[-1] >= least else 90.0))
    assert found == counts
    assert found[best_factor(one, 97.0, tried)] == least


@pytest.mark.parametrize(
    ("constraint", "shrunken"),
    [
        ({"set": "cardinality", "tensors": "*", "rate": 2.0}, {"rate": 5.0}),
        ({"set": "cardinality", "tensors": "*", "keep": 0.5}, {"keep": 0.2}),
        ({"set": "filter", "tensors": "2.*", "count": 16}, {"count": 6}),
        ({"set": "filter", "tensors": "2.*", "count": 2}, {"count": 1}),
        ({"set": "nm", "tensors": "6.*", "n": 2, "m": 4}, {"n": 2, "m": 4}),
    ],
)
def test_amounts_shrink_in_proportion(constraint: dict[str, Any], shrunken: dict[str, float]) -> None:
    """By 2.5 here; counts to whole ones, never to none; what has no amount stays."""
    (found,) = shrunk(stage(constraint), 2.5).constraints
    assert found.model_dump(exclude_none=True, exclude_defaults=True) == {**constraint, **shrunken}


def test_a_factor_of_one_changes_nothing() -> None:
    """The first trial is the stage as given, so it has its key too."""
    assert shrunk(stage(), 1.0) == stage()
    assert math.isclose(shrunk(stage(), 3.0).constraints[0].rate or 0, 6.0)


def test_a_search_needs_something_to_shrink() -> None:
    """A pattern of n in m has no amount."""
    with pytest.raises(ValidationError, match="no constraint has one of them"):
        search().model_validate(
            {
                "kind": "search",
                "stage": stage({"set": "nm", "tensors": "6.*", "n": 2, "m": 4}),
                "tolerance": 1.0,
                "trials": 3,
                "most": 2.0,
            }
        )


@pytest.mark.parametrize("reference", [90.04, 98.62, 97.0, 91.16])
def test_what_loses_just_the_tolerance_holds(reference: float) -> None:
    """However the difference is rounded: it is more than the tolerance that is too much."""
    one = search(tolerance=0.1)
    allowed, less = round(reference - 0.1, 2), round(reference - 0.12, 2)
    assert next_factor(one, reference, [(1.0, allowed)]) == 16.0
    assert next_factor(one, reference, [(1.0, allowed), (16.0, less)]) == 4.0
    assert best_factor(one, reference, [(1.0, reference), (2.0, allowed), (4.0, less)]) == 1


def test_multiply_accumulates_are_divided_too() -> None:
    coupled = {"set": "filter", "tensors": "*", "coupled": True, "macs": 0.8}
    one = search(stage=stage(coupled))
    (found,) = shrunk(one.stage, 2.0).constraints
    assert found.macs == 0.4  # type: ignore[union-attr]
