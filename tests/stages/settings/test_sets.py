"""Amounts mean the same number of weights everywhere."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dualprune.stages.settings.sets import Cardinality


def cardinality(**amount: Any) -> Cardinality:
    """Settings of a cardinality constraint on every tensor."""
    return Cardinality.model_validate({"set": "cardinality", "tensors": "*"} | amount)


@pytest.mark.parametrize(
    ("amount", "size", "k"),
    [
        ({"keep": 0.2}, 500, 100),
        ({"keep": 0.053}, 25_000, 1325),
        ({"keep": 0.002}, 400_000, 800),
        ({"keep": 0.07}, 5_000, 350),
        ({"rate": 4.0}, 10, 2),
        ({"rate": 4.0}, 7, 1),
        ({"rate": 3.0}, 9, 3),
        ({"rate": 49.0}, 49, 1),
        ({"rate": 1.0}, 12, 12),
        ({"keep": 1.0}, 12, 12),
        ({"keep": 0.29}, 100, 29),
        ({"keep": 0.999}, 1000, 999),
        ({"keep": 0.1999}, 10, 1),
        ({"rate": 11.0}, 10, 0),
        ({"count": 5}, 3, 5),
    ],
)
def test_entries(amount: dict[str, Any], size: int, k: int) -> None:
    """The first four are the layer table of the 167x LeNet-5."""
    assert cardinality(**amount).entries(size) == k


def test_whole_rates_and_percentages_are_floored_without_rounding_error() -> None:
    """Against division of whole numbers."""
    for rate in range(1, 200):
        for size in (rate, 7 * rate, 7 * rate - 1, 430_500, 11_678_912):
            assert cardinality(rate=float(rate)).entries(size) == size // rate, (size, rate)
    for percent in range(1, 101):
        for size in (100, 500, 1234, 400_000):
            assert cardinality(keep=percent / 100).entries(size) == size * percent // 100, (size, percent)


@pytest.mark.parametrize(
    "amount",
    [{}, {"rate": 2.0, "keep": 0.5}, {"rate": 2.0, "count": 3}, {"rate": 2.0, "keep": 0.5, "count": 3}],
)
def test_exactly_one_amount(amount: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of"):
        cardinality(**amount)


@pytest.mark.parametrize("amount", [{"rate": 0.5}, {"keep": 0.0}, {"keep": 1.5}, {"count": 0}, {"rate": "4"}])
def test_impossible_amounts_are_refused(amount: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        cardinality(**amount)
